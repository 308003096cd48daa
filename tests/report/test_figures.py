import itertools

import msgspec
import pytest
from examples import MODELS, PARTNER, example, with_labels
from matplotlib.backends.backend_agg import FigureCanvasAgg

from harness.report.drawing import _apart
from harness.report.section import draw, figure_names, figures
from harness.report.theme import ACCENT, styles, themed

FIGURES = figure_names()
FULL = {
    "energy": True,
    "operator": True,
    "training_lengths": (64, 128),
    "datasets": ("ml-1m", "beauty"),
    "seeds": (0, 1),
}


@pytest.fixture(scope="module")
def full():
    return example(**FULL)


def test_every_figure_can_be_drawn(full):
    assert len(FIGURES) == 12
    assert {name for name in FIGURES if draw(full, name) is not None} == set(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_axes_name_their_quantity_and_unit(name, full):
    figure = draw(full, name)
    for axes in figure.axes:
        quantities = [axes.get_xlabel()]
        if not (name == "accuracy" or "challenge" in axes.get_title(loc="left").lower()):
            quantities.append(axes.get_ylabel())
        assert all("(" in q and q.endswith(")") for q in quantities), quantities


@pytest.mark.parametrize("name", ["time", "speedup", "memory", "energy", "noise", "laws"])
def test_ticks_stand_at_the_measured_lengths(name, full):
    axes = draw(full, name).axes[0]
    ticks = set(axes.get_xticks())
    measured = {p.length for p in (full.memory if name == "memory" else full.times)}
    assert ticks >= measured


@pytest.mark.parametrize("name", ["time", "speedup", "memory"])
def test_both_axes_are_logarithmic(name, full):
    axes = draw(full, name).axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


@pytest.mark.parametrize(
    ("without", "names"),
    [
        ({"training": False}, {"accuracy", "learning"}),
        ({"speed": False}, {"time", "speedup", "streaming", "noise", "laws"}),
        ({"memory": False}, {"memory"}),
    ],
)
def test_a_figure_without_data_is_left_out(without, names):
    analysis = example(**without)
    assert all(draw(analysis, name) is None for name in names)


@pytest.mark.parametrize("labels", [tuple(MODELS)[:5], tuple(MODELS)])
@pytest.mark.parametrize("name", ["time", "speedup", "memory"])
def test_no_two_texts_overlap(name, labels):
    figure = draw(example(labels, oom=labels[1:3]), name)
    FigureCanvasAgg(figure)
    with themed():
        figure.canvas.draw()
        renderer = figure.canvas.get_renderer()
    texts = [t for axes in figure.axes for t in axes.texts if t.get_text()]
    texts += [t for box in figure.legends for t in box.get_texts()]
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in texts]
    width, height = figure.canvas.get_width_height()
    for text, box in boxes:
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= width, text
        assert box.y1 <= height, text
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        overlap = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert not (overlap[0] > 1 and overlap[1] > 1.5), (one, other)


def test_few_lines_are_named_directly_and_many_in_a_legend():
    few, many = draw(example(), "time"), draw(example(tuple(MODELS)), "time")
    assert not few.legends
    assert {"hyenarec", "gru4rec"} <= {t.get_text() for t in few.axes[0].texts}
    assert [t.get_text() for t in many.legends[0].get_texts()] == list(MODELS)


def test_oom_is_marked_at_its_length():
    analysis = example(oom=("sasrec-math",))
    axes = draw(analysis, "time").axes[0]
    crosses = [line for line in axes.lines if line.get_marker() == "x"]
    assert [list(line.get_xdata()) for line in crosses] == [[4096, 8192]]
    assert "OOM" in {t.get_text() for t in axes.texts}


def test_the_claimed_speedup_is_read_from_the_claims(full):
    axes = draw(full, "speedup").axes[0]
    assert "claimed: up to 6×" in {t.get_text() for t in axes.texts}


def test_files_are_the_same_each_time_and_carry_no_date(tmp_path):
    analysis = example(("hyenarec", "gru4rec"), energy=True, operator=True, oom=())
    first = figures(analysis, tmp_path / "a")
    second = figures(analysis, tmp_path / "b")
    assert [p.name for p in first] == [f"{name}.svg" for name in FIGURES if name != "accuracy-length"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert b"<dc:date>" not in one.read_bytes()
    assert b">hyenarec</text>" in first[0].read_bytes()


@pytest.mark.parametrize("ends", [(0.9, 1.2), (0.02, 90.0), (1e-40, 1e40)])
def test_marks_of_the_challenge_stay_apart_however_wide_an_interval(ends, full):
    first = full.laws[0]
    wide = [msgspec.structs.replace(c, interval=ends) for c in first.challenges]
    laws = [msgspec.structs.replace(first, challenges=wide), *full.laws[1:]]
    axes = draw(msgspec.structs.replace(full, laws=laws), "laws").axes[1]
    low, high = axes.get_xlim()
    assert all(low < c.ratio < high for law in laws for c in law.challenges)
    figure = axes.get_figure()
    FigureCanvasAgg(figure)
    with themed():
        figure.canvas.draw()
        boxes = [t.get_window_extent() for t in axes.get_xticklabels() if t.get_text()]
    assert len(boxes) > 1
    for one, other in itertools.pairwise(boxes):
        assert one.x1 < other.x0


def test_the_interval_of_the_best_reference_is_in_the_panel(full):
    axes = draw(full, "accuracy").axes[0]
    low, high = axes.get_xlim()
    spans = [line.get_xdata() for line in axes.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == 2]
    assert spans
    assert all(low <= min(span) and max(span) <= high for span in spans)


def test_other_formats(tmp_path):
    written = figures(example(("hyenarec", "gru4rec"), training=False, oom=()), tmp_path, ("png", "pdf"))
    assert {p.suffix for p in written} == {".png", ".pdf"}


def test_a_label_with_dollars_and_underscores_is_drawn_as_it_is():
    odd = "_a$b$c<d>"
    figure = draw(with_labels(example(tuple(MODELS)), {"gru4rec": odd}), "time")
    assert odd in {t.get_text() for t in figure.legends[0].get_texts()}


def test_styles_are_distinct_and_hardly_change_with_company():
    names = [*MODELS, "popularity", "markov", "mine", "yours", "theirs", "hyenarec-fft", "hyenarec-open"]
    looks = styles(names, PARTNER)
    assert len({(s.colour, s.marker) for s in looks.values()}) == len(names)
    assert looks[PARTNER].colour == ACCENT
    assert [name for name, look in looks.items() if look.emphasis] == [PARTNER]
    assert styles([*names, "another"], PARTNER).items() >= looks.items()
    assert styles(names, "mine")["mine"].emphasis, "emphasis is the study's, not a name's"


def test_many_labels_still_get_styles():
    looks = styles((f"model-{n}" for n in range(60)), "model-0")
    assert len({(s.colour, s.marker) for s in looks.values()}) == 60


def test_labels_are_moved_apart_and_keep_their_order():
    wanted = {"a": 0.50, "b": 0.51, "c": 0.515, "d": 0.9}
    placed = _apart(wanted, 0.05)
    heights = [placed[name] for name in "abcd"]
    assert all(high - low >= 0.05 - 1e-9 for low, high in itertools.pairwise(heights))
    assert placed["d"] == 0.9
