import itertools

import msgspec
import pytest
from examples import LENGTHS, MODELS, PARTNER, example, with_labels
from matplotlib.backends.backend_agg import FigureCanvasAgg

from harness.data.catalogue import DataSource, Planted
from harness.data.generated.planted import oracles
from harness.report.drawing import _apart, shown
from harness.report.section import draw, figure_names, figures, sections
from harness.report.theme import ACCENT, styles, themed

FIGURES = figure_names()
# What two models that were trained at one length do not give.
LACKING = {"accuracy-lag", "accuracy-length", "layers-share", "variants"}
# No cell of the full ones timed a step without its layers, and none trained on planted data.
ABSENT = {"accuracy-lag", "layers-share"}
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
    drawn = {name for name in FIGURES if draw(full, name) is not None}
    assert drawn == set(FIGURES) - ABSENT


def test_accuracy_is_drawn_against_the_lag_of_planted_data():
    """With what an oracle reaches that knows the lag: the same data drawn anew."""
    names = {"far": 9, "near": 1}
    found = example(speed=False, memory=False, problems=False, oom=(), datasets=tuple(names))
    data = {n: DataSource(format="synthetic", planted=Planted(lag=lag, users=200)) for n, lag in names.items()}
    found = msgspec.structs.replace(found, study=msgspec.structs.replace(found.study, data=data))
    (axes,) = draw(found, "accuracy-lag").axes
    assert set(axes.get_xticks()) >= {1, 9}
    dashed = [line.get_ydata() for line in axes.lines if line.get_linestyle() == "--"]
    expected = [[oracles(data[n].planted)[what] for n in ("near", "far")] for what in ("lag known", "popularity")]
    assert [list(y) for y in dashed] == expected
    words = sections()["accuracy"].see["accuracy-lag"](found)
    assert "9 events back" in words
    assert "hyenarec" in words
    # One lag, or planted data that differ in more, are no curve.
    alone = msgspec.structs.replace(found, study=msgspec.structs.replace(found.study, data={"near": data["near"]}))
    assert draw(alone, "accuracy-lag") is None


# Figures of rows name them at their ticks.
ROWS = {"accuracy", "differences", "growth", "margins", "memory-longest", "speedup-intervals", "variants"}


@pytest.mark.parametrize("name", sorted({*FIGURES} - ABSENT))
def test_axes_name_their_quantity_and_unit(name, full):
    figure = draw(full, name)
    for axes in figure.axes:
        quantities = [axes.get_xlabel()]
        if not (name in ROWS or "challenge" in axes.get_title(loc="left").lower()):
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
        ({"training": False}, {"accuracy", "differences", "frontier", "learning", "variants"}),
        ({"speed": False}, {"time", "speedup", "speedup-map", "speedup-intervals", "growth", "streaming", "noise"}),
        ({"memory": False}, {"memory", "memory-longest"}),
    ],
)
def test_a_figure_without_data_is_left_out(without, names):
    analysis = example(**without)
    assert all(draw(analysis, name) is None for name in names)


LONG = {
    "gru4rec": "gru4rec-with-a-name-that-is-very-long-indeed-and-goes-on",
    "hyenarec": "hyenarec-legendre-of-order-sixteen-of-our-own",
}


@pytest.mark.parametrize("labels", [tuple(MODELS)[:5], tuple(MODELS), LONG], ids=["five", "seven", "long names"])
@pytest.mark.parametrize("name", [n for n in FIGURES if n not in {*ABSENT, "operator-time", "operator-error"}])
def test_no_two_texts_overlap(name, labels):
    if labels is LONG:
        analysis = with_labels(example(tuple(MODELS)[:5], energy=True, training_lengths=(64, 128)), LONG)
    else:
        analysis = example(labels, oom=labels[1:3], energy=True, training_lengths=(64, 128))
    figure = draw(analysis, name)
    FigureCanvasAgg(figure)
    with themed():
        figure.canvas.draw()
        renderer = figure.canvas.get_renderer()
    texts = [t for axes in figure.axes for t in axes.texts if t.get_text()]
    texts += [t for box in figure.legends for t in box.get_texts()]
    for axes in figure.axes:
        texts += [axes.xaxis.label, axes.yaxis.label, *(axes.get_yticklabels() if name in ROWS else [])]
        texts += [axes.title, axes._left_title] if axes.get_title(loc="left") else []
    texts = [t for t in texts if t.get_text()]
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
    assert [p.name for p in first] == [f"{name}.svg" for name in FIGURES if name not in LACKING]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert b"<dc:date>" not in one.read_bytes()
    assert b">hyenarec</text>" in next(p for p in first if p.stem == "time").read_bytes()


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


def test_the_map_holds_every_pair_and_says_where_there_is_none():
    analysis = example(oom=("sasrec-math",))
    (axes,) = draw(analysis, "speedup-map").axes
    labels = [t.get_text() for t in axes.get_yticklabels()]
    lengths = [t.get_text() for t in axes.get_xticklabels()]
    assert PARTNER not in labels
    words = {(round(t.get_position()[1] - 0.5), round(t.get_position()[0] - 0.5)): t.get_text() for t in axes.texts}
    assert len(words) == len(labels) * len(lengths)
    for point in analysis.speedups:
        place = labels.index(point.label), lengths.index(f"{point.length:,}")
        assert float(words[place].rstrip("×")) == pytest.approx(point.speedup, rel=6e-3)
    assert {words[labels.index("sasrec-math"), lengths.index(n)] for n in ("4,096", "8,192")} == {"OOM"}


@pytest.mark.parametrize(("name", "panel"), [("speedup-intervals", 0), ("differences", 0), ("memory-longest", 1)])
def test_intervals_drawn_are_those_of_the_analysis(name, panel, full):
    axes = draw(full, name).axes[panel]
    spans = [sorted(map(float, line.get_xdata())) for line in axes.lines if line.get_linestyle() == "-"]
    if name == "speedup-intervals":
        wanted = [p.simultaneous for p in full.speedups if p.length == max(LENGTHS)]
    elif name == "differences":
        wanted = [d.interval for d in full.accuracy_differences if (d.dataset, d.length) == ("ml-1m", 128)]
    else:
        wanted = [e.interval for e in full.exponents if e.quantity == "memory"]
    assert wanted
    for low, high in wanted:
        assert any(span == pytest.approx([low, high]) for span in spans)


def test_one_length_has_no_lines_and_no_map_but_intervals():
    plain = example()
    one = {name: [p for p in getattr(plain, name) if p.length == 1024] for name in ("times", "speedups", "memory")}
    analysis = msgspec.structs.replace(plain, **one, crossovers=[], trends=[], laws=[], exponents=[], censored=[])
    assert [name for name in ("time", "speedup", "speedup-map", "memory", "growth") if draw(analysis, name)] == []
    assert draw(analysis, "speedup-intervals") is not None
    assert draw(analysis, "memory-longest") is not None


def test_a_long_name_is_written_by_its_two_ends():
    assert shown("short") == "short"
    long = shown("gru4rec-with-a-name-that-is-very-long")
    assert len(long) == 30
    assert long.startswith("gru4rec-with")
    assert long.endswith("very-long")
