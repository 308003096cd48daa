import dataclasses
import json

import factories
import pytest

from harness import cli
from harness.analysis.analyse import analyse
from harness.errors import UserError
from harness.report.accuracy_table import accuracy_figure, accuracy_markdown, accuracy_table

AIMS = {"hyenarec": 0.15, "sasrec-math": 0.22, "gru4rec": 0.10}


def study(path, **options):
    truths = {label: dataclasses.replace(factories.TRUTHS[label], ndcg=aim) for label, aim in AIMS.items()}
    return analyse(factories.make_folder(path, truths=truths, speed=False, memory=False, datasets=("real",), **options))


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_a_model_best_first_and_the_number_of_the_analysis(tmp_path):
    analysis = study(tmp_path, seeds=(0, 1, 2))
    head, _, *rows = map(cells, accuracy_markdown([analysis]).splitlines())
    assert head == ["test NDCG@10", "real, 1,024 events, 3 seeds"]
    trained = [name for name, _ in rows if "untrained" not in name]
    assert trained == ["sasrec-math", "**hyenarec**", "gru4rec"]
    metric = next(r.metrics["ndcg@10"] for r in analysis.accuracy if r.label == "sasrec-math")
    low, high = metric.interval
    assert ["sasrec-math", f"{metric.mean:.4f} [{low:.4f}, {high:.4f}]"] in rows


def test_sets_stand_side_by_side_and_what_is_not_trained_is_a_dash(tmp_path):
    first, second = study(tmp_path / "a"), study(tmp_path / "b", training_lengths=(64, 256))
    second.accuracy[:] = [r for r in second.accuracy if r.label != "gru4rec"]
    head, _, *rows = accuracy_table([first, second]).splitlines()
    assert [word in head for word in ("1,024 events", "64 events", "256 events, 1 seed")] == [True] * 3
    gru4rec = next(row for row in rows if row.startswith("gru4rec"))
    assert gru4rec.split()[-2:] == ["-", "-"]
    assert "**" not in "".join(rows)


def test_two_recipes_on_the_same_data_are_told_apart(tmp_path):
    first, second = study(tmp_path / "a"), study(tmp_path / "b")
    head = cells(accuracy_markdown([first, second]).splitlines()[0])
    assert all(column.startswith(f"{first.study.name}: real") for column in head[1:])


def test_records_without_training_are_refused_in_words(tmp_path):
    factories.make_folder(tmp_path, training=False, memory=False)
    with pytest.raises(UserError, match="no trained model among these records"):
        accuracy_table([analyse(tmp_path)])


def test_the_command(tmp_path, capsys):
    study(tmp_path)
    assert cli.main(["accuracy", str(tmp_path), "--markdown"]) == 0
    assert capsys.readouterr().out.startswith("| test NDCG@10 |")


def test_the_figure_tells_two_recipes_on_the_same_data_apart(tmp_path):
    analyses = [study(tmp_path / name) for name in ("a", "b")]
    drawn = tmp_path / "accuracy.svg"
    accuracy_figure(analyses, drawn)
    name = analyses[0].study.name
    for place in (1, 2):
        assert f"real, {name} ({place}), histories of 1,024" in drawn.read_text()
    # A model, and a reference, once in each of the two.
    assert drawn.read_text().count(">popularity<") == 2


def test_the_figure_has_a_panel_a_data_set_of_every_folder(tmp_path, capsys):
    factories.make_folder(tmp_path / "a", speed=False, memory=False, datasets=("first",))
    factories.make_folder(tmp_path / "b", speed=False, memory=False, datasets=("second",))
    drawn = tmp_path / "accuracy.svg"
    assert cli.main(["accuracy", str(tmp_path / "a"), str(tmp_path / "b"), "--figure", str(drawn)]) == 0
    assert "first, histories of 1,024" in drawn.read_text()
    assert "second, histories of 1,024" in drawn.read_text()
    assert cli.main(["accuracy", str(tmp_path / "a"), "--figure", "accuracy.gif"]) == 64
    assert "must end in .svg, .png or .pdf" in capsys.readouterr().err


def changed(folder, change, label):
    """The analysis after a change of the records of one label, by seed."""
    for path in folder.glob(f"training/{label}/*.json"):
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
    return analyse(folder)


def test_collapsed_runs_are_shown_and_counted(tmp_path):
    study(tmp_path, seeds=(0, 1, 2))

    def some(content):
        content["flags"] = ["collapsed: ranks no better than popularity"] if content["seed"] > 0 else []

    changed(tmp_path, some, "sasrec-math")
    found = changed(tmp_path, lambda content: content.update(flags=["collapsed: as popularity"]), "gru4rec")
    head, _, *rows = map(cells, accuracy_markdown([found]).splitlines())
    table = dict(rows)
    assert table["gru4rec"] == "all 3 collapsed"
    assert table["sasrec-math"].endswith("(2 of 3 collapsed)")
    assert head[1] == "real, 1,024 events, 1 to 3 seeds"
    assert rows[-1][0] == "gru4rec"
    (words,) = [t for t in found.problems.threats if t.startswith("One seed on real")]
    assert words == "One seed on real: sasrec-math."


def test_a_run_on_another_split_does_not_stand_for_the_others(tmp_path):
    before = dict(map(cells, accuracy_markdown([study(tmp_path, seeds=(0, 1, 2))]).splitlines()))

    def other(content):
        if content["seed"] == 2:
            content["provenance"]["split_sha256"] = "f" * 64
            content["test"]["ranks"] = [1] * len(content["test"]["ranks"])
            content["test"]["metrics"] = dict.fromkeys(content["test"]["metrics"], 1.0)

    after = dict(map(cells, accuracy_markdown([changed(tmp_path, other, "gru4rec")]).splitlines()))
    assert float(after["gru4rec"].split()[0]) == pytest.approx(float(before["gru4rec"].split()[0]), abs=0.02)
