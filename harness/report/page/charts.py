"""The charts of the page as Vega-Lite specifications, made by Altair.

A chart has a specification and rows. The rows stand apart, so that the browser can choose among them: by model, by
sweep or data set. Rows have a `label` and a `group`; the groups of a chart are shown one at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from harness.analysis.results import AccuracyRow, Analysis, LearningPoint, MemoryPoint, TimePoint
from harness.metrics import SELECTION
from harness.report.drawing import looks_of
from harness.report.numbers import number
from harness.report.theme import SLOWER_TO_FASTER, Style

# Data that the browser puts in.
ROWS = alt.NamedData("rows")
_SHAPES = {
    "o": "circle",
    "s": "square",
    "D": "diamond",
    "^": "triangle-up",
    "v": "triangle-down",
    "P": "cross",
    "X": "cross",
    "<": "triangle-left",
    ">": "triangle-right",
}
_PHASES = {"step": "training step", "forward": "forward pass"}
_BYTES = 1024.0**2


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One chart.

    Attributes:
        id: Unique on the page.
        title: What is drawn.
        see: How to read it, in one sentence.
        spec: Vega-Lite, with the named data `rows`.
        rows: What is drawn, each with `label` and `group`.
        scales: Channels whose scale the reader may switch between logarithmic and linear.
        lacks: What the records would have to hold, where there are no rows.
        figure: The report's figure of the same, whose sentence goes with it; "" where there is none.
        left_out: Cells that ended without a number, as a sentence; "" where there are none.
    """

    id: str
    title: str
    see: str
    spec: dict[str, Any]
    rows: list[dict[str, Any]]
    scales: Sequence[str] = ()
    lacks: str
    figure: str = ""
    left_out: str = ""


def charts(analysis: Analysis) -> list[Chart]:
    """All charts, in the order of the page; those without rows too, which say what is missing."""
    looks = looks_of(analysis)
    return [
        _cost(analysis, looks),
        _speedup(analysis, looks),
        _heat(analysis),
        _memory(analysis, looks),
        _streaming(analysis, looks),
        _accuracy(analysis, looks),
        _frontier(analysis, looks),
        _learning(analysis, looks),
    ]


def strip() -> dict[str, Any]:
    """The samples of one cell in the order in which they ran; its rows have `block`, `series` and `value`."""
    return _as_spec(
        alt.Chart(ROWS)
        .mark_line(point=alt.OverlayMarkDef(size=28, filled=True), strokeWidth=1)
        .encode(
            x=alt.X("block:Q", title="block, in the order of measurement", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("value:Q", title="ms a step", scale=_log(), axis=_plain()),
            color=alt.Color("series:N", title=None, legend=alt.Legend(orient="top", columns=2, labelLimit=320)),
            tooltip=[
                alt.Tooltip("series:N", title="timed"),
                alt.Tooltip("block:Q", title="block"),
                alt.Tooltip("value:Q", title="ms a step", format=".4~g"),
            ],
        )
        .properties(height=190, width="container")
    )


def _cost(analysis: Analysis, looks: dict[str, Style]) -> Chart:
    rows = [
        {
            "label": point.label,
            "group": f"{_PHASES.get(point.phase, point.phase)}, {_held(point)}, sweep {point.sweep}",
            "x": point.length,
            "value": factor * point.step_seconds,
            **_ends(point.step_interval, factor),
            "unit": unit,
            "processes": point.processes,
        }
        for point in analysis.times
        for factor, unit in [(1e6 / point.tokens, "µs a token") if point.constant == "tokens" else (1e3, "ms a step")]
        if point.phase != "rest"
    ]
    return Chart(
        id="cost",
        figure="time",
        title="What a step costs",
        see="At a constant number of tokens a batch, a level line is linear time, and a line that climbs with slope 1 "
        "is quadratic. Bands are 95 % intervals.",
        spec=_curves(looks, "time (µs a token; at a constant batch ms a step)"),
        rows=rows,
        scales=("x", "y"),
        lacks="No timed cells.",
        left_out=_left_out(analysis),
    )


def _speedup(analysis: Analysis, looks: dict[str, Style]) -> Chart:
    claimed = {
        claim.challenger: claim.overall.threshold
        for claim in analysis.claims
        if claim.marks_speedup and claim.overall.threshold is not None
    }
    rows = [
        {
            "label": point.label,
            "group": f"{point.partner} over the others, sweep {point.sweep}",
            "x": point.length,
            "value": point.speedup,
            **_ends(point.simultaneous or point.interval),
            "unit": "× as fast",
            "processes": point.processes,
            **({"claimed": claimed[point.partner]} if point.partner in claimed else {}),
        }
        for point in analysis.speedups
    ]
    line = alt.Chart(ROWS).mark_rule(strokeDash=[5, 4])
    extras = [
        alt.Chart(alt.InlineData([{"one": 1}])).mark_rule(color="#888").encode(y="one:Q"),
        line.encode(y="max(claimed):Q", color=alt.value("#888")),
    ]
    return Chart(
        id="speedup",
        figure="speedup",
        title="How many times as fast",
        see="Above 1 the first-named model trains faster than the model drawn; dashed is what was claimed. Bands are "
        "95 % intervals for all lengths together.",
        spec=_curves(looks, "speed-up (×)", extras),
        rows=rows,
        scales=("x", "y"),
        lacks="No models timed in turns.",
    )


def _heat(analysis: Analysis) -> Chart:
    rows = [
        {
            "label": point.label,
            "group": f"{point.partner} over the others, sweep {point.sweep}",
            "x": point.length,
            "value": math.log2(point.speedup),
            "words": f"{number(point.speedup)}×",
            "open": "" if point.faster or point.slower else "within the noise",
        }
        for point in analysis.speedups
    ]
    base = alt.Chart(ROWS).encode(
        x=alt.X("x:O", title="sequence length (events)", axis=alt.Axis(format=",", labelAngle=-35)),
        y=alt.Y("label:N", title=None),
    )
    squares = base.mark_rect().encode(
        color=alt.Color(
            "value:Q",
            title="doublings",
            scale=alt.Scale(range=[*SLOWER_TO_FASTER], domain=[-4, 0, 4], clamp=True),
        ),
        tooltip=[
            alt.Tooltip("label:N", title="over"),
            alt.Tooltip("x:Q", title="length", format=","),
            alt.Tooltip("words:N", title="speed-up"),
            alt.Tooltip("open:N", title="note"),
        ],
    )
    dark = "abs(datum.value) > 2"
    text = base.mark_text(fontSize=11).encode(
        text="words:N", color=alt.condition(dark, alt.value("#ffffff"), alt.value("#22262b"))
    )
    return Chart(
        id="heat",
        title="Speed-up over model and length",
        see="Orange: the first-named model is faster; blue: slower; a step of colour is a doubling.",
        spec=_as_spec((squares + text).properties(**_rows(26))),
        rows=rows,
        lacks="No models timed in turns.",
    )


def _memory(analysis: Analysis, looks: dict[str, Style]) -> Chart:
    rows = [
        {
            "label": point.label,
            "group": f"{_held(point)}, sweep {point.sweep}",
            "x": point.length,
            "value": point.net_bytes / _BYTES,
            "unit": "MiB",
            "processes": 1,
        }
        for point in analysis.memory
        if point.net_bytes > 0
    ]
    return Chart(
        id="memory",
        figure="memory",
        title="Peak memory of a training step",
        see="At a constant batch, slope 1 is memory linear in the length. What a tiny batch needs is taken off.",
        spec=_curves(looks, "memory (MiB)"),
        rows=rows,
        scales=("x", "y"),
        lacks="No cells that measured memory.",
    )


def _streaming(analysis: Analysis, looks: dict[str, Style]) -> Chart:
    rows = [
        {
            "label": point.label,
            "group": f"sweep {point.sweep}, models of length {point.length:,}",
            "x": point.history,
            "value": 1e6 * point.event_seconds,
            **_ends(point.event_interval, 1e6),
            "unit": "µs an event",
            "processes": point.processes,
        }
        # The longest first: it is what is shown at once.
        for point in sorted(analysis.streams, key=lambda point: -point.length)
    ]
    return Chart(
        id="streaming",
        figure="streaming",
        title="One more event of one user",
        see="Serving from a state of constant size is a level line.",
        spec=_curves(looks, "time (µs an event)", x_title="history (events)"),
        rows=rows,
        scales=("x", "y"),
        lacks="No streamed steps.",
    )


def _accuracy(analysis: Analysis, looks: dict[str, Style]) -> Chart:
    trained = [row for row in analysis.accuracy if not row.is_reference and SELECTION in row.metrics]
    rows = [_accuracy_row(row, _group(row)) for row in trained]
    # Untrained references see the whole history: they stand beside every length of their data set.
    for group, dataset in dict.fromkeys((_group(row), row.dataset) for row in trained):
        rows += [
            _accuracy_row(row, group)
            for row in analysis.accuracy
            if row.is_reference and row.dataset == dataset and SELECTION in row.metrics
        ]
    base = alt.Chart(ROWS).encode(
        y=alt.Y("label:N", title=None, sort=alt.EncodingSortField("value", order="descending")), color=_colour(looks)
    )
    spread = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q"), x2="high:Q")
    means = base.mark_point(filled=True, size=70, opacity=1).encode(
        x=_quality(alt.X, "test"),
        shape=_shape(looks),
        tooltip=[
            alt.Tooltip("label:N", title="model"),
            alt.Tooltip("value:Q", title="NDCG@10", format=".4f"),
            alt.Tooltip("low:Q", title="95 % from", format=".4f"),
            alt.Tooltip("high:Q", title="95 % to", format=".4f"),
            alt.Tooltip("seeds:N", title="seeds"),
        ],
    )
    return Chart(
        id="accuracy",
        figure="accuracy",
        title="How well the models rank",
        see="The best is on top. Bars are 95 % intervals over users and, with several seeds, over seeds; models "
        "without training are among them.",
        spec=_as_spec((spread + means).properties(**_rows(20))),
        rows=rows,
        lacks=_no_means(analysis) or "No trained models.",
    )


def _no_means(analysis: Analysis) -> str:
    """Why trained models have no mean, where all have collapsed."""
    trained = [row for row in analysis.accuracy if not row.is_reference]
    runs = sum(len(row.collapsed_seeds) for row in trained)
    if not runs or any(row.seeds for row in trained):
        return ""
    return (
        f"{runs} trained and all collapsed: none ranks above popularity, so there is no mean of them. "
        "See the cells, and the learning curves."
    )


def _frontier(analysis: Analysis, looks: dict[str, Style]) -> Chart:
    rows = [
        {**_accuracy_row(row, row.dataset), "x": row.training_seconds, "length": row.length}
        for row in analysis.accuracy
        if row.training_seconds and SELECTION in row.metrics and not row.is_reference
    ]
    spec = (
        alt.Chart(ROWS)
        .mark_point(filled=True, size=90, opacity=1)
        .encode(
            x=alt.X("x:Q", title="training (s, evaluation excluded)", scale=_log(), axis=_plain()),
            y=_quality(alt.Y, "test"),
            color=_colour(looks),
            shape=_shape(looks),
            tooltip=[
                alt.Tooltip("label:N", title="model"),
                alt.Tooltip("length:Q", title="length", format=","),
                alt.Tooltip("value:Q", title="NDCG@10", format=".4f"),
                alt.Tooltip("x:Q", title="seconds", format=",.4~g"),
            ],
        )
        .properties(width="container", height=300)
    )
    return Chart(
        id="frontier",
        title="Quality against training time",
        see="Up is better and left is cheaper: nobody is left of and above a model on the frontier.",
        spec=_as_spec(spec),
        rows=rows,
        scales=("x",),
        lacks=_no_means(analysis) or "No training that ran alone, so that its time counts.",
    )


def _learning(analysis: Analysis, looks: dict[str, Style]) -> Chart:
    rows = [
        {
            "label": point.label,
            "group": _group(point),
            "x": point.epoch,
            "value": point.validation_ndcg10,
            "seed": point.seed,
        }
        for point in analysis.learning
    ]
    spec = (
        alt.Chart(ROWS)
        .mark_line(strokeWidth=1.2, point=alt.OverlayMarkDef(size=14, filled=True))
        .encode(
            x=alt.X("x:Q", title="epoch", axis=alt.Axis(tickMinStep=1)),
            y=_quality(alt.Y, "validation"),
            color=_colour(looks),
            detail="seed:N",
            tooltip=[
                alt.Tooltip("label:N", title="model"),
                alt.Tooltip("seed:N", title="seed"),
                alt.Tooltip("x:Q", title="epoch"),
                alt.Tooltip("value:Q", title="NDCG@10", format=".4f"),
            ],
        )
        .properties(width="container", height=300)
    )
    return Chart(
        id="learning",
        title="Learning curves",
        see="A line a run. One that still climbs at its end was stopped early.",
        spec=_as_spec(spec),
        rows=rows,
        lacks="No trained models.",
    )


def _curves(
    looks: dict[str, Style], y_title: str, extras: Iterable[Any] = (), *, x_title: str = "sequence length (events)"
) -> dict[str, Any]:
    """A line a label over lengths, with bands where there are intervals."""
    base = alt.Chart(ROWS).encode(
        x=alt.X("x:Q", title=x_title, scale=alt.Scale(type="log", base=2, nice=False), axis=alt.Axis(format=",")),
        color=_colour(looks),
    )
    band = base.mark_area(opacity=0.16).encode(y=alt.Y("low:Q"), y2="high:Q")
    line = base.mark_line(strokeWidth=1.6).encode(y="value:Q")
    marks = base.mark_point(filled=True, size=55, opacity=1).encode(
        y=alt.Y("value:Q", title=y_title, scale=_log(), axis=_plain()),
        shape=_shape(looks),
        tooltip=[
            alt.Tooltip("label:N", title="model"),
            alt.Tooltip("x:Q", title="length", format=","),
            alt.Tooltip("value:Q", title="mean", format=",.4~g"),
            alt.Tooltip("low:Q", title="95 % from", format=",.4~g"),
            alt.Tooltip("high:Q", title="95 % to", format=",.4~g"),
            alt.Tooltip("unit:N", title="unit"),
            alt.Tooltip("processes:Q", title="processes"),
        ],
    )
    return _as_spec(alt.layer(*extras, band, line, marks).properties(width="container", height=320))


def _rows(height: int) -> dict[str, Any]:
    """A row a label, of so many pixels; the page makes a number of it, since Vega fits no steps into a width."""
    return {"width": "container", "height": alt.Step(height)}


def _as_spec(chart: Any) -> dict[str, Any]:
    spec: dict[str, Any] = chart.to_dict()
    # The page sets these itself, after its theme.
    spec.pop("config", None)
    return spec


def _colour(looks: dict[str, Style]) -> Any:
    colours = [style.colour for style in looks.values()]
    return alt.Color("label:N", scale=alt.Scale(domain=list(looks), range=colours), legend=None)


def _shape(looks: dict[str, Style]) -> Any:
    shapes = [shape(style) for style in looks.values()]
    return alt.Shape("label:N", scale=alt.Scale(domain=list(looks), range=shapes), legend=None)


def shape(style: Style) -> str:
    """Vega's name of a marker; those that Vega does not have are circles."""
    return _SHAPES.get(style.marker, "circle")


def _quality(channel: Any, held_out: str) -> Any:
    return channel("value:Q", title=f"{held_out} NDCG@10 (0 to 1)", scale=alt.Scale(zero=False), axis=_plain())


def _log() -> Any:
    return alt.Scale(type="log", nice=False)


def _plain() -> Any:
    return alt.Axis(format=",.4~g", labelOverlap=True)


def _ends(interval: tuple[float, float] | None, factor: float = 1.0) -> dict[str, float]:
    return {} if interval is None else {"low": factor * interval[0], "high": factor * interval[1]}


def _held(point: TimePoint | MemoryPoint) -> str:
    """What is the same at all lengths of a sweep."""
    same = point.constant == "tokens"
    return f"{point.batch * point.length:,} tokens a batch" if same else f"batch of {point.batch:,}"


def _group(row: AccuracyRow | LearningPoint) -> str:
    return f"{row.dataset}, histories of {row.length:,}" if row.length else row.dataset


def _accuracy_row(row: AccuracyRow, group: str) -> dict[str, Any]:
    metric = row.metrics[SELECTION]
    return {
        "label": row.label,
        "group": group,
        "value": metric.mean,
        **_ends(metric.interval),
        "seeds": ", ".join(f"{value:.4f}" for value in metric.per_seed) or "none",
    }


def _left_out(analysis: Analysis) -> str:
    words = {"oom": "out of memory", "timeout": "out of time", "diverged": "diverged"}
    found: dict[str, None] = {}
    for cell in analysis.censored:
        if cell.kind == "speed":
            found[f"{cell.label} at {cell.length:,} ({words[cell.status]})"] = None
    return f"Without a number: {', '.join(found)}." if found else ""
