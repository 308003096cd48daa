import json
import math

import msgspec
import pytest
import typst
from examples import example
from operator_examples import operator_record
from typst_words import words_of

from harness.analysis.estimates.operator import operator_bench
from harness.records.operator import Settings
from harness.report.document import assemble, render
from harness.report.section import draw
from harness.report.sections.operator import LOOKS
from harness.report.theme import font_folder
from harness.run.operator.bench import settings


@pytest.fixture(scope="module")
def analysis():
    return example(("hyenarec", "gru4rec"), operator=True, training=False, memory=False, oom=())


def headings(source):
    found = typst.query(
        str(source),
        "heading",
        root=str(source.parent),
        font_paths=[str(font_folder())],
        ignore_system_fonts=True,
    )
    return [h["body"].get("text") for h in json.loads(found)]


def test_the_page_stands_in_the_report_when_the_folder_holds_operator_json(analysis, tmp_path):
    source = assemble(analysis, tmp_path)
    assert "The convolution operator" in headings(source)
    assert (tmp_path / "operator-time.svg").exists()
    assert (tmp_path / "operator-error.svg").exists()
    assert render(source).startswith(b"%PDF-")


def test_without_it_the_page_says_so(tmp_path):
    source = assemble(example(training=False), tmp_path)
    assert "No record of the operator by itself is here." in words_of(source, "list") + words_of(source, "<aside>")
    assert not list(tmp_path.glob("operator-*.svg"))


def test_a_quick_run_and_one_with_nothing_but_times_make_a_page_too(analysis, tmp_path):
    quick = operator_bench(operator_record(settings(quick=True)))
    bare = msgspec.structs.replace(operator_bench(operator_record()), slopes={}, peak_memory=[], errors=[], omitted=[])
    for place, record in enumerate((quick, bare)):
        folder = tmp_path / str(place)
        folder.mkdir()
        source = assemble(msgspec.structs.replace(analysis, operator=record), folder)
        assert render(source).startswith(b"%PDF-")


def test_time_per_element_is_what_the_rows_say(analysis):
    figure = draw(analysis, "operator-time")
    assert [axes.get_title(loc="left").split(",")[0] for axes in figure.axes] == ["Forward", "Forward and backward"]
    axes = figure.axes[1]
    record = analysis.operator
    lines = {line.get_color(): line for line in axes.lines if line.get_linestyle() == "-" and len(line.get_xdata()) > 2}
    for backend in ("fft", "tree", "sdpa"):
        rows = [
            r
            for r in record.rows
            if (r.backend, r.pass_) == (backend, "forward_backward")
            and (r.kernel_order in {16, None})
            and (backend == "sdpa" or r.layout == "channel_major")
        ]
        expected = [1e9 * r.seconds / (65_536 * 64) for r in rows]
        line = lines[LOOKS[backend].colour]
        assert list(line.get_xdata()) == [r.length for r in rows]
        assert list(line.get_ydata()) == pytest.approx(expected)


def test_the_error_drawn_is_that_of_the_worst_kernel_order(analysis):
    figure = draw(analysis, "operator-error")
    axes = figure.axes[0]
    line = next(n for n in axes.lines if n.get_color() == LOOKS["tree"].colour and n.get_linestyle() == "-")
    worst = max(e.output for e in analysis.operator.errors if e.backend == "tree" and e.length == 64)
    assert math.isclose(line.get_ydata()[0], worst)
    assert {t.get_text() for t in figure.legends[0].get_texts()} == {"FFT", "tree", "dense"}


def test_a_run_of_convolutions_only_is_drawn_without_attention(analysis):
    record = operator_bench(operator_record(Settings(passes=["forward_backward"])))
    record = msgspec.structs.replace(record, rows=[r for r in record.rows if r.kind == "convolution"])
    figure = draw(msgspec.structs.replace(analysis, operator=record), "operator-time")
    names = {t.get_text() for t in figure.axes[0].texts}
    assert names == {"FFT", "tree", "dense"}
