"""Serving: time of one more event against the length of the history."""

from __future__ import annotations

from matplotlib.figure import Figure

from harness.analysis.results import Analysis, StreamPoint
from harness.report.drawing import Ends, curves, frame, looks_of, name_lines, panels, points, present, widen
from harness.report.section import Section
from harness.report.theme import length_axis, log_axis


def streaming(analysis: Analysis) -> Figure | None:
    """Microseconds per event against history, each label's longest model; None without streamed steps.

    A level line is a cost that does not grow with the history.
    """
    if not analysis.streams:
        return None
    looks = looks_of(analysis)
    groups = list(frame(analysis.streams).groupby("sweep", sort=False))
    figure, axes = panels(len(groups), 1.85)
    ends: list[Ends] = []
    for one, (sweep, rows) in zip(axes, groups, strict=True):
        own = rows[rows["length"] == rows.groupby("label")["length"].transform("max")]
        means = points(own, "history", "event_seconds", interval="event_interval", factor=1e6)
        ends.append(curves(one, means, looks))
        histories = sorted(set(own["history"]))
        length_axis(one, histories, "history (events)")
        widen(one, histories)
        log_axis(one, "time per event (µs)")
        one.set_title(f"One more event, sweep {sweep}")
    name_lines(figure, axes, present(looks, (p.label for p in analysis.streams)), looks, ends, [{} for _ in axes])
    return figure


def see(analysis: Analysis) -> str:
    """How much dearer an event becomes with the history, for the timing partner and for whom it grows most."""
    longest: dict[str, StreamPoint] = {}
    for point in analysis.streams:
        if point.history > point.shortest and point.history >= getattr(longest.get(point.label), "history", 0):
            longest[point.label] = point
    if not longest:
        return ""
    partner = longest.pop(analysis.study.timing_partner, None) or longest.pop(next(iter(longest)))
    words = f"After {partner.history:,} events one more takes {partner.label} {partner.ratio:.2f} times as long as "
    words += f"after {partner.shortest:,}"
    if not longest:
        return f"{words}."
    most = max(longest.values(), key=lambda point: point.ratio)
    return f"{words}, and {most.label} {most.ratio:.2f} times."


SECTION = Section(
    order=36,
    page="growth",
    lacks="No cell timed single events, so nothing is said about serving event by event.",
    figures={"streaming": streaming},
    see={"streaming": see},
)
