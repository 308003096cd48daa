"""Accuracy: between models, against length, and against training time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from harness.analysis.results import AccuracyRow, Analysis
from harness.data.catalogue import SOURCES
from harness.metrics import SELECTION
from harness.report.drawing import (
    LONGEST_NAME,
    Ends,
    frame,
    legend,
    limit,
    look_of_hues,
    looks_of,
    marks,
    name_lines,
    panels,
    present,
    rows_of_intervals,
    rule,
    shown,
    widen,
)
from harness.report.numbers import counted, duration, number
from harness.report.section import Section
from harness.report.sections.accuracy.lag import accuracy_lag, see_lag
from harness.report.sections.accuracy.means import means_against
from harness.report.theme import MUTED, Style, length_axis, log_axis

_PAGE_INCHES = 8.4


def _longest(groups: Iterable[tuple[str, int | None]]) -> list[tuple[str, int | None]]:
    """Each data set once, with the longest history it was trained on."""
    found: dict[str, int | None] = {}
    for dataset, length in groups:
        found[dataset] = max(found.get(dataset) or 0, length or 0) or None
    return list(found.items())


def _side_by_side(analysis: Analysis) -> bool:
    """Whether figures stand in pairs: one data set, and trainings with a time, so that there are enough of them."""
    trained = [r for r in analysis.accuracy if not r.is_reference]
    return len({r.dataset for r in trained}) == 1 and "training, evaluation excluded (s)" in {
        unit for unit, _ in _costs(analysis).values()
    }


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
    figure, axes = panels(len(groups), height, columns=min(2, len(groups)), narrow=_side_by_side(analysis))
    for one, (dataset, length) in zip(axes, groups, strict=True):
        rows = [r for r in trained if (r.dataset, r.length) == (dataset, length)]
        untrained = [r for r in analysis.accuracy if r.is_reference and r.dataset == dataset and SELECTION in r.metrics]
        _accuracy_panel(one, rows, untrained, looks)
        # Long names leave a short panel.
        alone = len(groups) == 1 and not _side_by_side(analysis)
        roomy = alone or all(len(r.label) < LONGEST_NAME - 8 for r in rows)
        one.set_title(f"{dataset}, histories of {length:,}" if length and roomy else dataset, wrap=True)
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
    found = pd.DataFrame(
        [
            (row.label, height - 1 - place, row.metrics[SELECTION].mean, row.metrics[SELECTION].per_seed)
            for place, row in enumerate([*ordered, *untrained])
        ],
        columns=["label", "y", "mean", "seeds"],
    )
    hues = look_of_hues(looks, list(found["label"]), axes)
    inside = found[found["mean"] >= low]
    seeds = inside[inside["seeds"].map(len) > 1].explode("seeds").astype({"seeds": float})
    if len(seeds):
        sns.stripplot(
            seeds, x="seeds", y="y", orient="h", native_scale=True, jitter=False, size=3, alpha=0.5, linewidth=0, **hues
        )
    marks(axes, inside, "mean", "y", looks, list(found["label"]), s=36, zorder=3)
    for row, y in zip([*ordered, *untrained], found["y"], strict=True):
        look, metric = looks[row.label], row.metrics[SELECTION]
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
    axes.set_xlim(low, high)
    axes.set_ylim(-0.6, height - 0.4)
    axes.set_yticks(range(height), [shown(r.label) for r in reversed([*ordered, *untrained])])
    for tick, row in zip(axes.get_yticklabels(), reversed([*ordered, *untrained]), strict=True):
        tick.set_color(MUTED if row.is_reference else looks[row.label].colour)
        tick.set_fontweight("bold" if looks[row.label].emphasis else "normal")
    # 0.0425, 0.0450, … would run into each other.
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    axes.set_xlabel("test NDCG@10 (0 to 1)")
    axes.set_ylabel("")


def differences(analysis: Analysis) -> Figure | None:
    """Timing partner less each baseline in test NDCG@10 at the longest history, with intervals; None without."""
    groups = _longest((d.dataset, d.length) for d in analysis.accuracy_differences)
    if not groups:
        return None
    looks = looks_of(analysis)
    frames = []
    for dataset, length in groups:
        own = [d for d in analysis.accuracy_differences if (d.dataset, d.length) == (dataset, length)]
        ordered = sorted(own, key=lambda d: -d.difference)
        cells = [(d.label, d.label, d.difference, *(d.interval or (None, None))) for d in ordered]
        frames.append(pd.DataFrame(cells, columns=["label", "name", "value", "low", "high"]))
    height = min(0.175 * max(map(len, frames)) + 0.85, _PAGE_INCHES / -(-len(groups) // 2))
    figure, axes = panels(len(groups), height, columns=min(2, len(groups)), narrow=_side_by_side(analysis))
    for one, (dataset, length), rows in zip(axes, groups, frames, strict=True):
        _near(one, rows, looks, {r.label for r in analysis.accuracy if r.is_reference})
        limit(one, 0, dashed=False)
        one.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
        one.set_xlabel("NDCG@10 difference (−1 to 1)")
        one.set_title(f"{dataset}, {length:,} events" if length else dataset, wrap=True)
    return figure


def _near(axes: Axes, rows: pd.DataFrame, looks: dict[str, Style], references: set[str]) -> None:
    """Rows of intervals; a reference far from all models would squeeze them, and is given as a number at the edge."""
    trained = rows[~rows["label"].isin(references)]
    reach = float(np.nanmax(np.abs(trained[["value", "low", "high"]].to_numpy(float)), initial=0.0))
    far = rows["label"].isin(references) & (rows["value"].astype(float).abs() > 2 * reach) & bool(reach)
    kept = rows.assign(**{name: rows[name].astype(float).mask(far) for name in ("value", "low", "high")})
    rows_of_intervals(axes, kept, looks)
    for place, (label, value) in enumerate(zip(rows["label"], rows["value"].astype(float), strict=True)):
        if far.iloc[place]:
            right = value > 0
            axes.annotate(
                f"{value:.3f} ▸" if right else f"◂ {value:.3f}".replace("-", "−"),
                (1.0 if right else 0.0, len(rows) - 1 - place),
                xycoords=axes.get_yaxis_transform(),
                xytext=(-3 if right else 3, 0),
                textcoords="offset points",
                ha="right" if right else "left",
                va="center",
                color=looks[label].colour,
                fontsize=6.5,
            )


def frontier_figure(analysis: Analysis) -> Figure | None:
    """Test NDCG@10 against its cost, and the frontier of those not surpassed; None without two costs a data set.

    Cost is the time of training where the cells ran alone, else the time of a training step a token of the speed cells
    at the same length.
    """
    found = _costs(analysis)
    if not found:
        return None
    looks = looks_of(analysis)
    figure, axes = panels(len(found), 2.7, columns=min(2, len(found)), narrow=_side_by_side(analysis))
    for one, (dataset, (unit, points)) in zip(axes, found.items(), strict=True):
        rows = pd.DataFrame(
            [(r.label, cost, r.metrics[SELECTION].mean) for r, cost in points], columns=["label", "cost", "mean"]
        )
        labels = present(looks, rows["label"])
        for row, cost in points:
            if row.metrics[SELECTION].interval is not None:
                one.plot([cost] * 2, row.metrics[SELECTION].interval, "-", color=looks[row.label].colour, linewidth=1.2)
        best = surpassing(points)
        x = [*(cost for _, cost in best), float(rows["cost"].max())]
        y = [*(r.metrics[SELECTION].mean for r, _ in best), best[-1][0].metrics[SELECTION].mean]
        one.step(x, y, where="post", color=MUTED, linewidth=0.9, zorder=1)
        marks(one, rows, "cost", "mean", looks, labels, s=42, zorder=3)
        one.set_xscale("log")
        low, high = one.get_xlim()
        one.set_xlim(low / 1.1, high * 1.1)
        log_axis(one, unit, "x")
        one.set_ylabel("test NDCG@10 (0 to 1)")
        one.set_title(dataset, wrap=True)
    legend(figure, present(looks, (r.label for _, points in found.values() for r, _ in points)), looks)
    return figure


def _costs(analysis: Analysis) -> dict[str, tuple[str, list[tuple[AccuracyRow, float]]]]:
    """Data set → what its cost is, and the trained rows with one; only data sets with two labels that have it."""
    trained = [r for r in analysis.accuracy if not r.is_reference and SELECTION in r.metrics]
    steps = {(p.label, p.length): p.microseconds_per_token for p in analysis.times if p.phase == "step"}
    found = {}
    for dataset in dict.fromkeys(r.dataset for r in trained):
        own = [r for r in trained if r.dataset == dataset]
        unit, points = "training, evaluation excluded (s)", [(r, r.training_seconds) for r in own]
        if not any(cost for _, cost in points):
            unit = "training step of the speed cells (µs a token)"
            points = [(r, steps.get((r.label, r.length or 0))) for r in own]
        known = [(r, cost) for r, cost in points if cost]
        if len({r.label for r, _ in known}) > 1:
            found[dataset] = unit, known
    return found


def accuracy_length(analysis: Analysis) -> Figure | None:
    """Test NDCG@10 against the longest history a model sees; None with fewer than two lengths."""
    rows = pd.DataFrame(
        [
            (r.dataset, r.label, r.length, r.metrics[SELECTION].mean, r.metrics[SELECTION].interval or (np.nan, np.nan))
            for r in analysis.accuracy
            if r.length is not None and not r.is_reference and SELECTION in r.metrics
        ],
        columns=["dataset", "label", "length", "mean", "interval"],
    )
    groups = [(name, own) for name, own in rows.groupby("dataset", sort=False) if own["length"].nunique() > 1]
    if not groups:
        return None
    looks = looks_of(analysis)
    figure, axes = panels(len(groups), 2.6, columns=min(2, len(groups)))
    ends: list[Ends] = []
    for one, (dataset, own) in zip(axes, groups, strict=True):
        ends.append(means_against("length", one, own, looks))
        lengths = sorted(set(own["length"]))
        length_axis(one, lengths, "longest history (events)")
        widen(one, lengths)
        one.set_ylabel("test NDCG@10 (0 to 1)")
        one.set_title(str(dataset), wrap=True)
    labels = present(looks, (label for _, own in groups for label in own["label"]))
    name_lines(figure, axes, labels, looks, ends, [{} for _ in axes])
    return figure


def learning(analysis: Analysis) -> Figure | None:
    """Validation NDCG@10 against training time at the longest history, a line per run; None untimed."""
    timed = [p for p in analysis.learning if p.train_seconds]
    groups = _longest((p.dataset, p.length) for p in timed)
    if not groups:
        return None
    looks = looks_of(analysis)
    labels = present(looks, (p.label for p in timed))
    height = min(2.7, _PAGE_INCHES / -(-len(groups) // 2))
    figure, axes = panels(len(groups), height, columns=min(2, len(groups)), narrow=_side_by_side(analysis))
    for one, (dataset, length) in zip(axes, groups, strict=True):
        own = frame([p for p in timed if (p.dataset, p.length) == (dataset, length)])
        for single, some in own.groupby(own.groupby("label")["seed"].transform("nunique").eq(1)):
            _learning_curves(one, some, looks, single=bool(single))
        one.set_xscale("log")
        one.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0), numticks=30))
        one.xaxis.set_minor_locator(NullLocator())
        one.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        one.set_xlabel("training time, evaluation excluded (s)")
        one.set_ylabel("validation NDCG@10 (0 to 1)")
        one.set_title(f"{dataset}, histories of {length:,}" if length else dataset, wrap=True)
        target = next((t.target for t in analysis.times_to_quality if (t.dataset, t.length) == (dataset, length)), None)
        if target is not None:
            rule(one, target, f"target {target:.3f}")
    legend(figure, labels, looks)
    return figure


def _learning_curves(axes: Axes, runs: pd.DataFrame, looks: dict[str, Style], *, single: bool) -> None:
    """A line a run; several runs of a model lie close, so they are thin, with a marker at the end of each."""
    labels = present(looks, runs["label"])
    hues = look_of_hues(looks, labels, axes)
    widths = {label: looks[label].width if single else 0.8 for label in labels}
    sns.lineplot(
        runs, x="train_seconds", y="validation_ndcg10", units="seed", estimator=None, size="label", sizes=widths, **hues
    )
    marked = runs if single else runs.groupby(["label", "seed"], sort=False).tail(1)
    edge = {"edgecolor": "white", "linewidth": 0.4}
    marks(axes, marked, "train_seconds", "validation_ndcg10", looks, labels, s=13, zorder=3, **edge)


def surpassing(points: Iterable[tuple[AccuracyRow, float]]) -> list[tuple[AccuracyRow, float]]:
    """The rows with their costs that no other both outranks and undercuts, cheapest first.

    By the means over the seeds of test NDCG@10; lengths count as different models.
    """
    best, found = -np.inf, []
    for row, cost in sorted(points, key=lambda point: (point[1], -point[0].metrics[SELECTION].mean)):
        if row.metrics[SELECTION].mean > best:
            best = row.metrics[SELECTION].mean
            found.append((row, cost))
    return found


def see_frontier(analysis: Analysis) -> str:
    """Which models no other outranks at less cost."""
    sentences = []
    for dataset, (unit, points) in _costs(analysis).items():
        several = len({r.length for r, _ in points}) > 1
        cost = duration if unit.startswith("training, ") else lambda value: f"{number(value)} µs a token"
        names = [
            f"{r.label}{f' at {r.length:,}' if several else ''} ({r.metrics[SELECTION].mean:.4f} in {cost(value)})"
            for r, value in surpassing(points)
        ]
        words = "no other ranks better on average for less than" if len(names) > 1 else "cheapest and best is"
        sentences.append(f"On {dataset} {words} {', '.join(names)}.")
    return " ".join(sentences[:2])


def see_differences(analysis: Analysis) -> str:
    """Over how many baselines the difference is told apart from zero."""
    sentences = []
    for dataset, length in _longest((d.dataset, d.length) for d in analysis.accuracy_differences):
        own = [d for d in analysis.accuracy_differences if (d.dataset, d.length) == (dataset, length)]
        better = sum(d.interval is not None and d.interval[0] > 0 for d in own)
        worse = sum(d.interval is not None and d.interval[1] < 0 for d in own)
        sentences.append(
            f"On {dataset} {own[0].partner} ranks better than {better} of {len(own)}, worse than {worse}, and is not "
            f"told apart from {len(own) - better - worse}."
        )
    return " ".join(sentences[:2])


def see_length(analysis: Analysis) -> str:
    """What a longer history brings the timing partner, and who gains most."""
    sentences = []
    for dataset in dict.fromkeys(r.dataset for r in analysis.accuracy):
        gains = {}
        for label in dict.fromkeys(r.label for r in analysis.accuracy):
            own = sorted(
                (
                    r
                    for r in analysis.accuracy
                    if (r.dataset, r.label) == (dataset, label) and r.length is not None and SELECTION in r.metrics
                ),
                key=lambda r: r.length or 0,
            )
            if len(own) > 1 and not own[0].is_reference:
                gains[label] = own[0], own[-1], own[-1].metrics[SELECTION].mean - own[0].metrics[SELECTION].mean
        if not gains:
            continue
        label, (first, last, gain) = max(gains.items(), key=lambda item: item[1][2])
        words = f"On {dataset} {label} gains most from {last.length:,} instead of {first.length:,} events, {gain:+.4f}"
        partner = gains.get(analysis.study.timing_partner)
        if partner is not None and label != analysis.study.timing_partner:
            words += f"; {analysis.study.timing_partner} {partner[2]:+.4f}"
        sentences.append(f"{words}.")
    return " ".join(sentences[:2])


def see_learning(analysis: Analysis) -> str:
    """Who reaches the target first, and how many runs never do."""
    for dataset, length in _longest((p.dataset, p.length) for p in analysis.learning if p.train_seconds):
        targets = [t for t in analysis.times_to_quality if (t.dataset, t.length) == (dataset, length)]
        reached = {t.label: [x for x in t.seconds if x is not None] for t in targets}
        runs, met = sum(len(t.seconds) for t in targets), sum(map(len, reached.values()))
        if not met:
            continue
        mean = {label: sum(own) / len(own) for label, own in reached.items() if own}
        first = min(mean, key=lambda label: mean[label])
        return (
            f"On {dataset} {met} of {counted(runs, 'run reaches', 'runs reach')} the target, those of {first} first, "
            f"after {duration(mean[first])} on average."
        )
    last = [p for p in analysis.learning if p.train_seconds]
    if not last:
        return ""
    best = max(last, key=lambda p: p.validation_ndcg10)
    return f"{best.label} reaches the highest validation NDCG@10, {best.validation_ndcg10:.4f}, on {best.dataset}."


def see(analysis: Analysis) -> str:
    """Who ranks best on each data set at its longest history, and where the timing partner stands."""
    trained = [r for r in analysis.accuracy if not r.is_reference and SELECTION in r.metrics]
    sentences = []
    for dataset, length in _longest((r.dataset, r.length) for r in trained):
        own = sorted(
            (r for r in trained if (r.dataset, r.length) == (dataset, length)), key=lambda r: -r.metrics[SELECTION].mean
        )
        best = own[0]
        words = f"On {dataset} {best.label} ranks best of the trained, {best.metrics[SELECTION].mean:.4f}"
        place = next((n for n, r in enumerate(own, 1) if r.is_partner), None)
        if place is not None and place > 1:
            words += f", and {own[place - 1].label} is number {place} of {len(own)}"
        if best.below_best_reference:
            words += "; an untrained reference ranks better"
        sentences.append(f"{words}.")
    return " ".join(sentences[:3])


def data(analysis: Analysis) -> dict[str, Any]:
    """What a reader must know before the numbers: the data, single seeds, models below counting, collapsed runs."""
    trained = [row for row in analysis.accuracy if not row.is_reference]
    weak = list(dict.fromkeys(f"{row.label} on {row.dataset}" for row in trained if row.below_best_reference))
    collapsed = [
        f"{row.label} on {row.dataset}, seed {', '.join(map(str, row.collapsed_seeds))}"
        for row in analysis.accuracy
        if row.collapsed_seeds
    ]
    known = [(name, SOURCES[name].caution) for name in dict.fromkeys(r.dataset for r in trained) if name in SOURCES]
    notes = [(f"{name} illustrates.", caution) for name, caution in known if caution]
    checks = {(row.dataset, row.leaks.words): None for row in trained if row.leaks is not None}
    notes += [("Leak check.", f"{name}: {words}.") for name, words in checks]
    if trained and all(len(row.seeds) <= 1 for row in trained):
        notes.append(
            (
                "One seed decides nothing.",
                "Every trained model here has a single seed. Intervals are over users only and describe this one run; "
                "no accuracy claim can be more than inconclusive.",
            )
        )
    if weak:
        verb = "ranks" if len(weak) == 1 else "rank"
        notes.append(
            ("Below counting.", f"{', '.join(weak)} {verb} below the best untrained reference of its data set.")
        )
    if collapsed:
        notes.append(("Collapsed runs", f"left out of the means: {'; '.join(collapsed)}."))
    return {"notes": notes}


SECTION = Section(
    order=50,
    page="accuracy",
    lacks="No training cell is among these records, so nothing is said about accuracy.",
    figures={
        "accuracy": accuracy,
        "differences": differences,
        "frontier": frontier_figure,
        "accuracy-length": accuracy_length,
        "accuracy-lag": accuracy_lag,
        "learning": learning,
    },
    see={
        "accuracy": see,
        "differences": see_differences,
        "frontier": see_frontier,
        "accuracy-length": see_length,
        "accuracy-lag": see_lag,
        "learning": see_learning,
    },
    data=data,
)
