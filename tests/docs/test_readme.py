"""What README, CONTRIBUTING and docs tell people to type exists and works."""

import re
from pathlib import Path

import pytest
import yaml
from committed import analysis_of

from harness import cli
from harness.report.accuracy_table import accuracy_figure, accuracy_markdown
from harness.report.section import draw
from harness.report.theme import save
from harness.report.verdict_table import verdict_markdown
from harness.study.check import load_study
from harness.study.claim import RULES, Card
from harness.study.find import find_study
from harness.study.loss import LOSSES, loss_spec
from harness.study.yaml_reading import read_yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "results" / "README.md",
    ROOT / "results" / "reference" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
TEXT = {page.relative_to(ROOT).as_posix(): page.read_text() for page in PAGES}
ALL = "\n".join(TEXT.values())
# The record sets of the README's table and figure of accuracy.
ACCURACY = ("accuracy-ml-1m", "accuracy-beauty", "published-cross-entropy")
# What the reader is told to make.
TO_BE_MADE = {"models/fossil.py", "results/reference/h200", "results/reference/h100"}


def test_the_readme_is_short_enough_to_be_read():
    assert TEXT["README.md"].count("\n") <= 200


def test_every_command_is_one():
    parser = cli._parser()
    known = next(a for a in parser._actions if a.choices and "verify" in a.choices).choices
    named = set(re.findall(r"python -m harness ([a-z]+)", ALL))
    assert {"verify", "report", "sweep", "cells", "check", "data", "bench", "compare", "models"} <= named <= set(known)


def test_every_make_target_is_one():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"(?:^|`)make ([a-z-]+)", ALL, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_study_and_folder_named_is_there():
    for study in re.findall(r"(?:study=|STUDY=|harness sweep |harness cells )([a-z][a-z0-9-]+)\b(?![./])", ALL):
        assert find_study(study).is_file()
    for folder in set(re.findall(r"results/reference/(?!README)[\w-]+", ALL)) - TO_BE_MADE:
        assert (ROOT / folder / "study.json").is_file(), folder


@pytest.mark.parametrize("name", TEXT)
def test_every_link_leads_to_a_file(name):
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", TEXT[name]):
        if "://" not in link:
            assert ((ROOT / name).parent / link).exists(), link


@pytest.mark.parametrize("name", TEXT)
def test_every_path_of_the_project_that_is_named_exists(name):
    for path in re.findall(r"`((?:harness|models|workflow|tests|docs|reports)/[\w/.-]+)`", TEXT[name]):
        assert (ROOT / path).exists() or path in TO_BE_MADE, path


def test_the_verdict_tables_are_those_of_the_committed_records():
    table = verdict_markdown(analysis_of("cpu-2core"))
    shown = {name: text.split("<!-- verdicts -->\n")[1].split("<!-- /verdicts -->")[0] for name, text in (
        ("README.md", TEXT["README.md"]), ("docs/results.md", TEXT["docs/results.md"]))}  # fmt: skip
    assert table in shown["docs/results.md"]
    rows = shown["README.md"].splitlines()
    assert len(rows) > 6
    assert set(rows) <= set(table.splitlines())


def test_the_accuracy_table_is_that_of_the_committed_records():
    table = accuracy_markdown([analysis_of(name) for name in ACCURACY])
    for page in ("README.md", "docs/results.md"):
        assert TEXT[page].split("<!-- accuracy -->\n")[1].split("<!-- /accuracy -->")[0] == table


def drawing(path):
    """An SVG as its text without numbers and names of paths, and the numbers."""
    text = re.sub(r'(id|xlink:href|clip-path)="[^"]*"', "", path.read_text())
    number = r"-?\d+(?:\.\d+)?(?:e-?\d+)?"
    return re.sub(number, "0", text), [float(found) for found in re.findall(number, text)]


def test_the_figures_are_those_of_the_committed_records(tmp_path):
    accuracy_figure([analysis_of(name) for name in ACCURACY], tmp_path / "accuracy.svg")
    save(draw(analysis_of("cpu-2core"), "speedup"), tmp_path / "speedup-cpu-2core.svg")
    for name in ("accuracy.svg", "speedup-cpu-2core.svg"):
        assert f"reports/{name}" in TEXT["README.md"]
        words, numbers = drawing(ROOT / "reports" / name)
        drawn, found = drawing(tmp_path / name)
        assert words == drawn, f"{name} is of other records: draw it anew"
        # Half a point on paper; another version of a library may round otherwise.
        assert numbers == pytest.approx(found, abs=0.5)


@pytest.mark.parametrize(
    ("page", "language", "file"),
    [("README.md", "python", "fossil.py"), ("CONTRIBUTING.md", "toml", "pyproject.toml")],
)
def test_the_example_baseline_is_the_one_that_the_tests_install(page, language, file):
    blocks = re.findall(rf"```{language}\n(.*?)```", TEXT[page], re.DOTALL)
    assert (ROOT / "tests" / "docs" / "example_plugin" / file).read_text() in blocks


def test_the_card_that_is_shown_is_one(tmp_path):
    shown = re.findall(r"```yaml\n(.*?)```", TEXT["CONTRIBUTING.md"], re.DOTALL)
    (tmp_path / "card.yaml").write_text(shown[0])
    cards = read_yaml(tmp_path / "card.yaml", list[Card])
    assert [card.id for card in cards] == ["twice-as-fast"]
    assert cards[0].rule in RULES.modules()


def test_every_loss_and_its_defaults_are_those_of_the_harness():
    rows = re.findall(
        r"^\| `([a-z-]+)`[^|]*\|[^|]*\|(.*)\|$",
        TEXT["docs/method.md"].split("## One loss")[1].split("\n## ")[0],
        re.MULTILINE,
    )
    assert [name for name, _ in rows] == ["loss", *LOSSES, "declared"]
    for name, options in rows[1:]:
        shown = dict(re.findall(r"`(\w+): ([\d.]+)`", options))
        own = {"negatives": loss_spec(name).negatives, "calibration": loss_spec(name).calibration}
        assert shown == {k: str(v) for k, v in own.items() if v is not None}


def test_the_budget_it_shows_is_legal(tmp_path):
    shown = re.findall(r"`budgets: (\{.*?\}\})`", TEXT["docs/method.md"], re.DOTALL)
    budgets = yaml.safe_load(" ".join(shown[0].split()))
    models = {"training": {"models": [*budgets], "datasets": ["synthetic"], "lengths": [8], "budgets": budgets}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({"name": "tiny", "device": "cpu", **models}))
    assert load_study(str(tmp_path / "study.yaml")).training.budgets


def test_the_figures_at_200_events_are_those_of_the_records():
    found = analysis_of("accuracy-ml-1m-200")
    means = {row.label: row.metrics["ndcg@10"] for row in found.accuracy}
    (difference,) = (d for d in found.accuracy_differences if d.label == "sasrec-sdpa")
    for label in ("hyenarec", "sasrec-sdpa"):
        assert f"{means[label].mean:.4f}" in TEXT["docs/results.md"]
        assert ", ".join(f"{value:.4f}" for value in means[label].per_seed) in " ".join(TEXT["docs/results.md"].split())
    low, high = difference.interval
    assert f"{difference.difference:+.4f} [{low:+.4f}, {high:+.4f}]" in TEXT["docs/results.md"]
    (difference,) = (d for d in analysis_of("published-cross-entropy").accuracy_differences if d.label == "sasrec-sdpa")
    low, high = difference.interval
    for page in ("README.md", "docs/results.md"):
        assert f"{difference.difference:+.4f} [{low:+.4f}, {high:+.4f}]" in TEXT[page]
