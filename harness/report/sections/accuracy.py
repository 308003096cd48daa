"""Figures of accuracy: between models, against length, and against training time."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from harness.analysis.results import AccuracyRow, Analysis
from harness.metrics import SELECTION
from harness.report.drawing import legend, looks_of, name_lines, panels, present, rule, widen
from harness.report.numbers import number
from harness.report.theme import MUTED, Style, length_axis

_PAGE_INCHES = 8.4


def _longest(groups: Iterable[tuple[str, int | None]]) -> list[tuple[str, int | None]]:
    """Each data set once, with the longest history it was trained on."""
    found: dict[str, int | None] = {}
    for dataset, length in groups:
        found[dataset] = max(found.get(dataset) or 0, length or 0) or None
    return list(found.items())


def accuracy(analysis: Analysis) -> Figure | None:
    """Test NDCG@10 per data set at the longest history, best first, references as lines; None without."""
    trained = [r for r in analysis.accuracy if not r.is_reference and SELECTION in r.metrics]
    groups = _longest((r.dataset, r.length) for r in trained)
    if not groups:
        return None
    looks = looks_of(analysis)
    most = max(sum((r.dataset, r.length) == g for r in trained) for g in groups)
    references = max(sum(r.is_reference and r.dataset == g[0] for r in analysis.accuracy) for g in groups)
    height = min(0.175 * (most + references) + 0.85, _PAGE_INCHES / -(-len(groups) // 2))
    figure, axes = panels(len(groups), height, columns=min(2, len(groups)))
    for one, (dataset, length) in zip(axes, groups, strict=True):
        rows = [r for r in trained if (r.dataset, r.length) == (dataset, length)]
        untrained = [r for r in analysis.accuracy if r.is_reference and r.dataset == dataset and SELECTION in r.metrics]
        _accuracy_panel(one, rows, untrained, looks)
        one.set_title(f"{dataset}, histories of {length:,}" if length else dataset)
    return figure


def _accuracy_panel(
    axes: Axes, rows: list[AccuracyRow], references: list[AccuracyRow], looks: dict[str, Style]
) -> None:
    ordered = sorted(rows, key=lambda r: -r.metrics[SELECTION].mean)
    untrained = sorted(references, key=lambda r: -r.metrics[SELECTION].mean)
    height = len(ordered) + len(untrained)
    values = [v for r in ordered for v in (r.metrics[SELECTION].interval or (r.metrics[SELECTION].mean,))]
    # The best reference with its interval; one far below would squeeze the models, and is given as a number.
    values += [v for r in untrained[:1] for v in (r.metrics[SELECTION].interval or (r.metrics[SELECTION].mean,))]
    pad = max(0.12 * (max(values) - min(values)), 0.01 * max(values), 1e-4)
    low, high = min(values) - pad, max(values) + pad
    for place, row in enumerate([*ordered, *untrained]):
        y, look, metric = height - 1 - place, looks[row.label], row.metrics[SELECTION]
        if metric.mean < low:
            axes.annotate(
                f"◂ {metric.mean:.3f}",
                (low, y),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                color=look.colour,
                fontsize=6.5,
            )
            continue
        if row.is_reference:
            axes.plot([metric.mean] * 2, [y, height - 0.5], "--", color=look.colour, linewidth=0.8, zorder=1.5)
        if metric.interval is not None:
            axes.plot(metric.interval, [y, y], "-", color=look.colour, linewidth=2.2 if look.emphasis else 1.5)
        if len(metric.per_seed) > 1:
            axes.plot(metric.per_seed, [y] * len(metric.per_seed), ".", color=look.colour, alpha=0.5, markersize=3)
        axes.plot(
            [metric.mean],
            [y],
            marker=look.marker,
            color=look.colour,
            markeredgecolor="white",
            markersize=6,
            markerfacecolor=look.colour,
        )
    axes.set_xlim(low, high)
    axes.set_ylim(-0.6, height - 0.4)
    axes.set_yticks(range(height), [r.label for r in reversed([*ordered, *untrained])])
    for tick, row in zip(axes.get_yticklabels(), reversed([*ordered, *untrained]), strict=True):
        tick.set_color(MUTED if row.is_reference else looks[row.label].colour)
        tick.set_fontweight("bold" if looks[row.label].emphasis else "normal")
    axes.set_xlabel("test NDCG@10 (0 to 1)")


def accuracy_length(analysis: Analysis) -> Figure | None:
    """Test NDCG@10 against the longest history a model sees; None with fewer than two lengths."""
    rows = [r for r in analysis.accuracy if r.length is not None and not r.is_reference and SELECTION in r.metrics]
    datasets = [
        d for d in dict.fromkeys(r.dataset for r in rows) if len({r.length for r in rows if r.dataset == d}) > 1
    ]
    if not datasets:
        return None
    labels = present(analysis, (r.label for r in rows if r.dataset in datasets))
    looks = looks_of(analysis)
    figure, axes = panels(len(datasets), 2.6, columns=min(2, len(datasets)))
    ends: list[dict[str, tuple[float, float]]] = []
    for one, dataset in zip(axes, datasets, strict=True):
        here = [r for r in rows if r.dataset == dataset]
        ends.append({})
        here_labels = present(analysis, (r.label for r in here))
        for place, label in enumerate(here_labels):
            mine = sorted((r for r in here if r.label == label), key=lambda r: r.length or 0)
            metrics = [r.metrics[SELECTION] for r in mine]
            # Side by side: bands of models that differ little would hide each other.
            shift = 1.03 ** (place - (len(here_labels) - 1) / 2)
            look = looks[label]
            x = [(r.length or 0) * shift for r in mine]
            for a, metric in zip(x, metrics, strict=True):
                if metric.interval is not None:
                    one.plot([a, a], metric.interval, "-", color=look.colour, linewidth=0.9, alpha=0.8)
            one.plot(
                x,
                [m.mean for m in metrics],
                "-",
                marker=look.marker,
                color=look.colour,
                linewidth=look.width,
                markeredgecolor="white",
                markersize=4.6,
            )
            ends[-1][label] = (mine[-1].length or 0, metrics[-1].mean)
        lengths = sorted({r.length for r in here if r.length is not None})
        length_axis(one, lengths, "longest history (events)")
        widen(one, lengths)
        one.set_ylabel("test NDCG@10 (0 to 1)")
        one.set_title(dataset)
    name_lines(figure, axes, labels, looks, ends, [{} for _ in axes])
    return figure


def learning(analysis: Analysis) -> Figure | None:
    """Validation NDCG@10 against training time at the longest history, a line per run; None untimed."""
    points = [p for p in analysis.learning if p.train_seconds]
    groups = _longest((p.dataset, p.length) for p in points)
    if not groups:
        return None
    labels = present(analysis, (p.label for p in points))
    looks = looks_of(analysis)
    height = min(2.7, _PAGE_INCHES / -(-len(groups) // 2))
    figure, axes = panels(len(groups), height, columns=min(2, len(groups)))
    for one, (dataset, length) in zip(axes, groups, strict=True):
        here = [p for p in points if (p.dataset, p.length) == (dataset, length)]
        runs = list(dict.fromkeys((p.label, p.seed) for p in here))
        for label, seed in runs:
            mine = [p for p in here if (p.label, p.seed) == (label, seed)]
            look = looks[label]
            single = sum(name == label for name, _ in runs) == 1
            one.plot(
                [p.train_seconds or 0.0 for p in mine],
                [p.validation_ndcg10 for p in mine],
                "-",
                marker=look.marker,
                color=look.colour,
                linewidth=look.width if single else 0.8,
                # Several runs of a model lie close: a marker at the end of each is enough.
                markevery=1 if single else [len(mine) - 1],
                markersize=3.6,
                markeredgecolor="white",
                markeredgewidth=0.4,
            )
        one.set_xscale("log")
        one.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0), numticks=30))
        one.xaxis.set_minor_locator(NullLocator())
        one.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        one.set_xlabel("training time, evaluation excluded (s)")
        one.set_ylabel("validation NDCG@10 (0 to 1)")
        one.set_title(f"{dataset}, histories of {length:,}" if length else dataset)
        target = next((t.target for t in analysis.times_to_quality if (t.dataset, t.length) == (dataset, length)), None)
        if target is not None:
            rule(one, target, f"target {target:.3f}")
    legend(figure, labels, looks)
    return figure
