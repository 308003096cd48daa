"""The figure of streaming: time of one more event against the length of the history."""

from __future__ import annotations

from matplotlib.figure import Figure

from harness.analysis.results import Analysis, Interval
from harness.report.drawing import looks_of, name_lines, panels, present, series, widen
from harness.report.theme import length_axis, log_axis


def streaming(analysis: Analysis) -> Figure | None:
    """Microseconds per event against history, each label's longest model; None without streamed steps.

    A level line is a cost that does not grow with the history.
    """
    if not analysis.streams:
        return None
    labels = present(analysis, (p.label for p in analysis.streams))
    looks = looks_of(analysis)
    sweeps = list(dict.fromkeys(p.sweep for p in analysis.streams))
    figure, axes = panels(len(sweeps), 2.5)
    ends: list[dict[str, tuple[float, float]]] = []
    for one, sweep in zip(axes, sweeps, strict=True):
        here = [p for p in analysis.streams if p.sweep == sweep]
        ends.append({})
        histories: set[int] = set()
        for label in present(analysis, (p.label for p in here)):
            own = [p for p in here if p.label == label]
            mine = [p for p in own if p.length == max(q.length for q in own)]
            x, y = [p.history for p in mine], [1e6 * p.event_seconds for p in mine]
            bands: list[Interval | None] = [
                None if p.event_interval is None else (1e6 * p.event_interval[0], 1e6 * p.event_interval[1])
                for p in mine
            ]
            series(one, looks[label], x, y, bands, [[] for _ in mine])
            ends[-1][label] = (x[-1], y[-1])
            histories.update(x)
        lengths = sorted(histories)
        length_axis(one, lengths, "history (events)")
        widen(one, lengths)
        log_axis(one, "time per event (µs)")
        one.set_title(f"One more event of one user, sweep {sweep}")
    name_lines(figure, axes, labels, looks, ends, [{} for _ in axes])
    return figure
