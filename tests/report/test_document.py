import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import typst
from examples import MODELS, example, with_labels
from typst_words import words_of

import harness
from harness.analysis.results import Analysis
from harness.errors import UserError
from harness.records.schema import encode
from harness.report.document import assemble, build, render
from harness.report.section import QUESTIONS, sections
from harness.report.section import draw as draw_figure
from harness.report.sections.verdicts.figures import main_name
from harness.report.theme import font_folder, save, themed
from harness.study.training import Budget

ODD = {"gru4rec": "a_b#c*d<e>$f$@g[h]`\\", "sasrec-math": "_under*score_"}


def typst_query(source, selector, **options):
    fonts = {"font_paths": [str(font_folder())], "ignore_system_fonts": True}
    return typst.query(str(source), selector, root=str(source.parent), **fonts, **options)


def query(source, selector):
    return json.loads(typst_query(source, selector, field="value", one=True))


def headings(source):
    """The headings of the first level, in their order."""
    return [heading["body"].get("text") for heading in json.loads(typst_query(source, "heading.where(level: 1)"))]


def page_of(source, selector):
    """The page on which the first element that a selector finds stands."""
    code = f"counter(page).at(query({selector}).first().location()).first()"
    probe = source.with_name("probe.typ")
    probe.write_text(f"{source.read_text()}\n#context [#metadata({code}) <page>]")
    return query(probe, "<page>")


def draw_section(section, analysis):
    with themed():
        (function,) = section.figures.values()
        return function(analysis)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A whole report, assembled."""
    return assemble(example(seeds=(0,)), tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def pdf(source):
    return render(source)


def test_writes_the_pdf_and_the_figures_and_twice_the_same_bytes(tmp_path):
    analysis = example(("hyenarec", "gru4rec"), energy=True, oom=(), training=False)
    build(analysis, tmp_path / "a.pdf", figures_folder=tmp_path / "figures")
    build(analysis, tmp_path / "deep" / "b.pdf")
    first = (tmp_path / "a.pdf").read_bytes()
    assert first.startswith(b"%PDF-")
    assert first == (tmp_path / "deep" / "b.pdf").read_bytes()
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"time.svg", "speedup.svg", "memory.svg", "energy.svg", "laws.svg"} <= names
    assert not list(tmp_path.glob(".*.part"))


def test_other_records_give_another_document(pdf, tmp_path):
    assert render(assemble(example(memory=False), tmp_path)) != pdf


@pytest.mark.parametrize(
    "contents",
    [
        {"speed": False, "memory": False, "problems": False, "oom": ()},
        {"oom": ("hyenarec", "sasrec-math"), "seeds": (0, 1, 2, 3, 4)},
        {"labels": tuple(MODELS), "datasets": ("ml-1m", "beauty"), "problems": False},
        {"labels": ("hyenarec",), "oom": ()},
    ],
    ids=["no-speed", "partner-oom", "seven-models", "partner-only"],
)
def test_builds_with_any_part_missing(contents, tmp_path):
    assert render(assemble(example(**contents), tmp_path)).startswith(b"%PDF-")


def test_every_section_says_something_where_nothing_was_measured(tmp_path):
    nothing = example(speed=False, memory=False, training=False, problems=False, oom=())
    source = assemble(nothing, tmp_path)
    assert render(source).startswith(b"%PDF-")
    assert headings(source)[0] == QUESTIONS["sure"]
    text = words_of(source, "list") + words_of(source, "<aside>")
    for section in sections().values():
        assert section.lacks in text
    for page, question in QUESTIONS.items():
        assert page == "sure" or question in text
    assert "No figure can be drawn" in text


def test_pages_stand_in_the_order_of_the_questions_and_then_the_appendix(source, tmp_path):
    """Page one; faster, growth, memory, accuracy, why, how sure; protocol and tables."""
    found = headings(source)
    asked = [title for title in QUESTIONS.values() if title in found]
    assert found[: len(asked)] == asked == list(QUESTIONS.values())
    rest = ["Verdicts in detail", "Protocol and machine", "Speed-up over each baseline", "Accuracy", "All cells"]
    assert [title for title in found[len(asked) :] if title in rest] == rest
    report = json.loads((source.parent / "report.json").read_text())
    assert report["one"] == ["verdicts"]
    assert [page["sections"][0] for page in report["pages"]] == [
        "speedup",
        "time",
        "memory",
        "accuracy",
        "variants",
        "noise",
    ]
    assert not any("tables" in name for page in report["pages"] for name in page["sections"])
    bare = assemble(example(training=False, memory=False), tmp_path)
    assert [title for title in headings(bare) if title in QUESTIONS.values()] == [
        QUESTIONS[page] for page in ("faster", "growth", "sure")
    ]


def test_claims_stand_on_the_page_of_their_question(source):
    pages = {page["title"]: page["claims"] for page in json.loads((source.parent / "report.json").read_text())["pages"]}
    assert pages[QUESTIONS["faster"]] == ["speedup-6x", "long-sequences"]
    assert pages[QUESTIONS["growth"]] == ["linear-time", "quadratic-attention", "streaming"]
    assert "linear-memory" in pages[QUESTIONS["memory"]]
    assert "accuracy" in pages[QUESTIONS["accuracy"]]
    # Every rule of the harness says which question it answers.
    assert sum(map(len, pages.values())) == len(example(seeds=(0,)).claims)


def test_page_one_holds_question_verdicts_figure_machine_and_whose_reading_it_is(source):
    assert page_of(source, "<question>") == page_of(source, "<reading>") == 1
    assert page_of(source, "figure.where(kind: image)") == 1
    assert "The question." in words_of(source, "<question>")
    text = words_of(source, "<reading>")
    assert "Our reading, on this machine." in text
    assert example().machines[0].cpu in text
    assert "No GPU was used" in text


@pytest.mark.parametrize("count", [1, 11, 24])
def test_page_one_stays_one_page_with_few_and_with_many_claims(count, tmp_path):
    analysis = example()
    claims = [msgspec.structs.replace(analysis.claims[n % len(analysis.claims)], id=f"claim-{n}") for n in range(count)]
    source = assemble(msgspec.structs.replace(analysis, claims=claims), tmp_path)
    assert render(source).startswith(b"%PDF-")
    # Two dozen claims go on to a second page; what they mean still stands before the first question.
    assert page_of(source, "<reading>") == (1 if count <= 11 else 2)


def test_every_figure_of_a_question_is_drawn_with_what_to_see(source):
    report = json.loads((source.parent / "report.json").read_text())
    assert set(report["figures"]) == set(report["see"])


def test_a_figure_for_page_one_is_chosen_by_what_the_records_hold():
    assert main_name(example()) == "speedup"
    assert main_name(example(speed=False, memory=False, problems=False, oom=())) == "accuracy"
    assert main_name(example(("hyenarec",), oom=(), training=False)) == "time"
    assert main_name(example(speed=False, training=False, problems=False, oom=())) == "memory"
    assert main_name(example(speed=False, memory=False, training=False, problems=False, oom=())) == ""
    plain = example()
    several = [msgspec.structs.replace(claim, challenger=f"model-{n}") for n, claim in enumerate(plain.claims)]
    assert main_name(msgspec.structs.replace(plain, claims=several)) == "margins"


@pytest.mark.parametrize(
    ("threshold", "allowed", "expected"),
    [
        (2.0, "≥ 2×", (1.5, 1.0, 2.0)),
        (6.0, "≤ × 6", (2.0, 1.5, 3.0)),
        (0.0, "> 0", None),
        (None, "exponent 1 ± 0.15", None),
    ],
)
def test_a_margin_is_above_one_where_the_claim_holds(threshold, allowed, expected):
    claim = example().claims[0]
    overall = msgspec.structs.replace(
        claim.overall, statistic=3.0, interval=(2.0, 4.0), threshold=threshold, allowed=allowed
    )
    analysis = msgspec.structs.replace(
        example(), claims=[msgspec.structs.replace(claim, id="mine", overall=overall, variants=[])]
    )
    figure = draw_figure(analysis, "margins")
    if expected is None:
        assert figure is None
        return
    (axes,) = figure.axes
    ((value, _),) = axes.collections[0].get_offsets()
    span = next(line for line in axes.lines if list(line.get_ydata()) == [0, 0])
    assert (value, *span.get_xdata()) == pytest.approx(expected)


def test_builds_with_every_loss_option_and_a_model_that_is_not_causal(tmp_path):
    plain = example()
    training = msgspec.structs.replace(
        plain.study.training,
        loss="gbce",
        negatives=64,
        normalise=True,
        temperature=0.05,
        calibration=0.75,
        compile=True,
        budgets={"gru4rec": Budget(epochs=400), "hyenarec": Budget(seeds=[0, 1, 2, 3, 4])},
    )
    models = [msgspec.structs.replace(m, causal=m.label != "gru4rec") for m in plain.models]
    study = msgspec.structs.replace(plain.study, training=training)
    source = assemble(msgspec.structs.replace(plain, study=study, models=models), tmp_path)
    assert render(source).startswith(b"%PDF-")
    text = words_of(source, "par")
    assert "(gbce, negatives 64, temperature 0.05, calibration 0.75, cosines)" in text
    assert "Budgets of their own have gru4rec." in text
    assert ", 5 for hyenarec." in text
    assert "non-causal" in words_of(source, "table")


def test_builds_without_claims_models_machines_or_records(tmp_path):
    bare = example(speed=False, memory=False, training=False, problems=False, oom=())
    bare = msgspec.structs.replace(bare, claims=[], models=[], machines=[], records=[])
    assert render(assemble(bare, tmp_path)).startswith(b"%PDF-")


def test_null_intervals_and_unmeasured_numbers_do_not_break_it(tmp_path):
    def emptied(value, key=""):
        if isinstance(value, dict):
            return {k: emptied(v, k) for k, v in value.items()}
        if isinstance(value, list | tuple) and (key.endswith("interval") or key == "simultaneous"):
            return None
        if key in {"covers_one", "all_cover_one", "factor", "percent", "chosen", "rise"}:
            return None
        return [emptied(v) for v in value] if isinstance(value, list | tuple) else value

    analysis = example()
    bare = msgspec.convert(emptied(msgspec.to_builtins(analysis)), type(analysis))
    assert bare.speedups[0].simultaneous is None
    assert render(assemble(bare, tmp_path)).startswith(b"%PDF-")


def test_verdicts_in_the_document_are_those_of_the_analysis(source):
    analysis = example(seeds=(0,))
    found = query(source, "<verdicts>")
    assert [(c["id"], c["verdict"]) for c in found] == [(c.id, c.overall.verdict) for c in analysis.claims]
    for said, claim in zip(found, analysis.claims, strict=True):
        assert said["statistic"] == (claim.overall.statistic and pytest.approx(claim.overall.statistic))
    assert [[(v["variant"], v["verdict"]) for v in c["variants"]] for c in found] == [
        [(v.variant, v.verdict) for v in c.variants] for c in analysis.claims
    ]
    text = words_of(source, "table")
    assert all(claim.sentence in text for claim in analysis.claims)
    assert "× [" in text


def test_figures_in_the_document_are_those_that_could_be_drawn(tmp_path):
    source = assemble(example(training=False), tmp_path)
    assert query(source, "<figures>") == [
        "main",
        "margins",
        "speedup",
        "speedup-map",
        "speedup-intervals",
        "time",
        "growth",
        "laws",
        "streaming",
        "memory",
        "memory-longest",
        "noise",
    ]


def test_labels_are_text_and_never_markup(tmp_path):
    analysis = with_labels(example(), ODD)
    assert ODD["gru4rec"] in {m.label for m in analysis.models}
    source = assemble(analysis, tmp_path)
    assert render(source).startswith(b"%PDF-")
    text = words_of(source, "table").replace("\u200b", "")
    assert all(label in text for label in ODD.values())


def test_nothing_of_this_machine_is_in_the_document(source, pdf):
    assert str(source.parent).encode() not in pdf


def test_a_template_with_a_warning_is_refused(tmp_path):
    source = tmp_path / "scaling.typ"
    source.write_text('#set text(font: "no such font")\nx')
    with pytest.raises(UserError, match="warning"):
        render(source)


def test_a_template_with_an_error_is_refused_and_leaves_the_old_pdf(tmp_path, monkeypatch):
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "scaling.typ").write_text("#nonsense")
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "old.pdf"
    output.write_bytes(b"old")
    with pytest.raises(UserError, match="does not compile"):
        build(example(training=False, memory=False), output)
    assert output.read_bytes() == b"old"


def test_a_missing_template_names_the_remedy(tmp_path, monkeypatch):
    analysis = example(training=False, memory=False)
    monkeypatch.setattr("harness.study.find._resource_folders", lambda: (tmp_path,))
    with pytest.raises(UserError, match=r"scaling\.typ.*reinstall"):
        build(analysis, tmp_path / "x.pdf")


def test_any_character_can_stand_in_a_label_or_a_message(tmp_path):
    odd = "\u6a21\U0001f600\u202e\x07\x1b[31m\nend"
    message = "torch: not enough memory, tried to allocate 17 GiB"
    source = assemble(with_labels(example(), {"sasrec-sdpa": odd, message: odd}), tmp_path)
    assert render(source).startswith(b"%PDF-")
    variants = {v["variant"] for c in query(source, "<verdicts>") for v in c["variants"]}
    assert "\\u6a21\U0001f600\\u202e\\u0007\\u001b[31m end" in variants


def test_the_pdf_declares_that_it_is_archival_and_accessible(pdf):
    assert b"pdfaid:part" in pdf
    assert b"pdfuaid:part" in pdf


def test_page_one_says_how_many_would_decide(tmp_path):
    analysis = example()
    claim = analysis.claims[0]
    changed = []
    for size, unit in ((17, "processes"), (3, "seeds")):
        overall = msgspec.structs.replace(claim.overall, verdict="inconclusive", sample_size=size, sample_unit=unit)
        changed.append(msgspec.structs.replace(claim, overall=overall, variants=[]))
    text = words_of(assemble(msgspec.structs.replace(analysis, claims=changed), tmp_path), "table")
    assert "About 17 processes would decide." in text
    assert "At least 3 seeds are needed." in text


def test_a_target_that_was_not_reached_is_a_bound(source):
    target = next(t for t in example(seeds=(0,)).times_to_quality if t.seconds == [None])
    assert target.trained_seconds == pytest.approx([30.0])
    text = words_of(source, "figure")
    assert "> 30.0" in text
    assert "that any model reached" in text


def test_words_speak_of_the_model_under_test_and_of_no_other(tmp_path):
    text = msgspec.json.encode(example(claims=())).replace(b"hyenarec", b"fossil")
    source = assemble(msgspec.json.decode(text, type=Analysis), tmp_path)
    text = words_of(source, "par") + words_of(source, "figure")
    assert "fossil" in text
    assert "hyenarec" not in text.lower().replace("hyenarec-bench", "")


SECTION_OF_A_STRANGER = """
from harness.report.section import Section

SECTION = Section(order=85, data=lambda analysis: {"words": f"{len(analysis.records):,} cells were asked for."})
"""


def add_section(folder, name, module):
    folder.mkdir(exist_ok=True)
    (folder / module).write_text(SECTION_OF_A_STRANGER)
    words = f'#import "lib.typ": *\n\n= The {name}\n\n#json("{name}.json").words See #model(partner).\n'
    (folder / f"{name}.typ").write_text(words)
    if name == "dodo":
        (folder / f"{name}-tables.typ").write_text('#import "lib.typ": *\nA table of the dodo.\n')


def test_a_section_is_added_by_a_module_and_its_words(tmp_path):
    """All ways of CONTRIBUTING: a folder beside the others, and a module or a folder that an entry point names."""
    root = Path(harness.__file__).parents[1]
    shutil.copytree(root / "harness", tmp_path / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(root / "reports", tmp_path / "reports")
    add_section(tmp_path / "harness" / "report" / "sections" / "dodo", "dodo", "__init__.py")
    package = tmp_path / "installed"
    (package / "mine-1.dist-info").mkdir(parents=True)
    (package / "mine-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (package / "mine-1.dist-info" / "entry_points.txt").write_text("[hyenarec_bench.sections]\nauk = auk\nmoa = moa\n")
    add_section(package / "auk", "auk", "__init__.py")
    add_section(package, "moa", "moa.py")
    analysis = tmp_path / "analysis.json"
    analysis.write_bytes(encode(example(("hyenarec", "gru4rec"), memory=False, oom=())))
    code = (
        "import sys; from pathlib import Path; from harness.analysis.analyse import read;"
        "from harness.report.document import assemble; assemble(read(Path(sys.argv[1])), Path(sys.argv[2]))"
    )
    (tmp_path / "assembled").mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [tmp_path, root, package]))}
    command = [sys.executable, "-c", code, analysis, tmp_path / "assembled"]
    subprocess.run(command, check=True, env=environment, cwd=tmp_path)
    source = tmp_path / "assembled" / "scaling.typ"
    assert render(source).startswith(b"%PDF-")
    order = headings(source)
    place = order.index("Threats to validity found in these records")
    assert order[place + 1 : place + 4] == ["The auk", "The dodo", "The moa"]
    assert "A table of the dodo" in words_of(source, "par")
    assert words_of(source, "par").count("cells were asked for.") == 3


def test_the_template_of_a_section_is_a_section(tmp_path):
    """What a stranger copies is drawn and laid out as it stands."""
    analysis = example()
    template = importlib.import_module("harness.report.sections._template")
    figure = draw_section(template.SECTION, analysis)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["lrurec"]
    source = assemble(analysis, tmp_path)
    save(figure, tmp_path / "flags.svg")
    report = json.loads((tmp_path / "report.json").read_text())
    report["appendix"].append("flags")
    report["figures"].append("flags")
    (tmp_path / "report.json").write_text(json.dumps(report))
    (tmp_path / "flags.json").write_bytes(encode(template.SECTION.data(analysis)))
    shutil.copyfile(Path(template.__file__).with_name("_template.typ"), tmp_path / "flags.typ")
    assert render(source).startswith(b"%PDF-")
    assert "cells say: first block slow." in words_of(source, "par") + words_of(source, "list")
