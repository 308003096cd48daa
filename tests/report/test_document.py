import json

import msgspec
import pytest
import typst
from examples import MODELS, example, with_labels
from factories import make_folder
from typst_words import words_of

from harness.analysis.analyse import analyse
from harness.errors import UserError
from harness.report.document import assemble, build, render
from harness.report.theme import font_folder
from harness.study.training import Budget

ODD = {"gru4rec": "a_b#c*d<e>$f$@g[h]`\\", "sasrec-math": "_under*score_"}


def query(source, selector):
    found = typst.query(
        str(source),
        selector,
        field="value",
        one=True,
        root=str(source.parent),
        font_paths=[str(font_folder())],
        ignore_system_fonts=True,
    )
    return json.loads(found)


def test_writes_the_pdf_and_the_figures_and_twice_the_same_bytes(tmp_path):
    analysis = example(energy=True)
    build(analysis, tmp_path / "a.pdf", figures_folder=tmp_path / "figures")
    build(analysis, tmp_path / "deep" / "b.pdf")
    first = (tmp_path / "a.pdf").read_bytes()
    assert first.startswith(b"%PDF-")
    assert first == (tmp_path / "deep" / "b.pdf").read_bytes()
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"time.svg", "speedup.svg", "memory.svg", "energy.svg", "accuracy.svg", "laws.svg"} <= names
    assert not list(tmp_path.glob(".*.part"))


def test_other_records_give_another_document(tmp_path):
    build(example(training=False), tmp_path / "a.pdf")
    build(example(training=False, oom=()), tmp_path / "b.pdf")
    assert (tmp_path / "a.pdf").read_bytes() != (tmp_path / "b.pdf").read_bytes()


@pytest.mark.parametrize(
    "contents",
    [
        {"training": False},
        {"speed": False, "memory": False},
        {"speed": False, "memory": False, "training": False, "problems": False, "oom": ()},
        {"oom": ("hyenarec", "sasrec-math"), "seeds": (0, 1, 2, 3, 4)},
        {"labels": tuple(MODELS), "datasets": ("ml-1m", "beauty"), "training_lengths": (64, 256)},
        {"labels": ("hyenarec",), "oom": ()},
    ],
    ids=["no-training", "no-speed", "nothing", "partner-oom", "seven-models", "partner-only"],
)
def test_builds_with_any_part_missing(contents, tmp_path):
    source = assemble(example(**contents), tmp_path)
    assert render(source).startswith(b"%PDF-")


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
        budgets={"gru4rec": Budget(epochs=400)},
    )
    models = [msgspec.structs.replace(m, causal=m.label != "gru4rec") for m in plain.models]
    study = msgspec.structs.replace(plain.study, training=training)
    build(msgspec.structs.replace(plain, study=study, models=models), tmp_path / "a.pdf")
    build(plain, tmp_path / "b.pdf")
    assert (tmp_path / "a.pdf").read_bytes() != (tmp_path / "b.pdf").read_bytes()


def test_builds_without_claims_models_machines_or_records(tmp_path):
    bare = example(speed=False, memory=False, training=False, problems=False, oom=())
    bare = msgspec.structs.replace(bare, claims=[], models=[], machines=[], records=[])
    assert render(assemble(bare, tmp_path)).startswith(b"%PDF-")


def test_builds_from_a_folder_of_records(tmp_path):
    folder = make_folder(
        tmp_path / "records",
        oom=[("sasrec-math", 8192)],
        failed=[("sasrec-sdpa", 512)],
        stale=["sasrec-math"],
        dirty=["hyenarec"],
        flags={("gru4rec", 256): ["first block slower"]},
    )
    analysis = analyse(folder)
    assert analysis.problems.failed
    assert analysis.problems.stale
    assert analysis.censored
    build(analysis, tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF-")


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


def test_verdicts_in_the_document_are_those_of_the_analysis(tmp_path):
    analysis = example()
    source = assemble(analysis, tmp_path)
    found = query(source, "<verdicts>")
    assert [(c["id"], c["verdict"], c["statistic"]) for c in found] == [
        (c.id, c.overall.verdict, c.overall.statistic) for c in analysis.claims
    ]
    assert [[(v["variant"], v["verdict"]) for v in c["variants"]] for c in found] == [
        [(v.variant, v.verdict) for v in c.variants] for c in analysis.claims
    ]


def test_figures_in_the_document_are_those_that_could_be_drawn(tmp_path):
    source = assemble(example(training=False), tmp_path)
    assert query(source, "<figures>") == ["time", "speedup", "memory", "streaming", "noise", "laws"]


def test_labels_are_text_and_never_markup(tmp_path):
    analysis = with_labels(example(), ODD)
    assert ODD["gru4rec"] in {m.label for m in analysis.models}
    source = assemble(analysis, tmp_path)
    assert render(source).startswith(b"%PDF-")
    variants = {v["variant"] for c in query(source, "<verdicts>") for v in c["variants"]}
    assert set(ODD.values()) <= variants


def test_nothing_of_this_machine_is_in_the_document(tmp_path):
    pdf = render(assemble(example(), tmp_path))
    assert str(tmp_path).encode() not in pdf


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
    source = assemble(with_labels(example(), {"gru4rec": odd, "resident memory reached the limit": odd}), tmp_path)
    assert render(source).startswith(b"%PDF-")
    variants = {v["variant"] for c in query(source, "<verdicts>") for v in c["variants"]}
    assert "\\u6a21\U0001f600\\u202e\\u0007\\u001b[31m end" in variants


def test_the_pdf_declares_that_it_is_archival_and_accessible(tmp_path):
    pdf = render(assemble(example(), tmp_path))
    assert b"pdfaid:part" in pdf
    assert b"pdfuaid:part" in pdf


def test_page_one_says_how_many_would_decide(tmp_path):
    analysis = example()
    claim = analysis.claims[0]
    changed = []
    for size, unit in ((17, "processes"), (5, "seeds")):
        overall = msgspec.structs.replace(claim.overall, verdict="inconclusive", sample_size=size, sample_unit=unit)
        changed.append(msgspec.structs.replace(claim, overall=overall, variants=[]))
    text = words_of(assemble(msgspec.structs.replace(analysis, claims=changed), tmp_path), "table")
    assert "About 17 processes would decide." in text
    assert "At least 5 seeds are needed." in text


def test_a_target_that_was_not_reached_is_a_bound(tmp_path):
    analysis = example(seeds=(0,))
    target = next(t for t in analysis.times_to_quality if t.seconds == [None])
    assert target.trained_seconds == [171.0]
    text = words_of(assemble(analysis, tmp_path), "figure")
    assert "> 171" in text
    assert "that any model reached" in text
