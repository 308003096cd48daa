"""Two record sets side by side, as plain text for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from harness.analysis.compare import Change, Comparison
from harness.analysis.compare_sets import Difference, Where
from harness.report.numbers import interval, number
from harness.report.verdict_table import WIDTH

_HEAD = ("quantity", "label", "where", "length", "first", "second", "ratio", "95 %", "n", "")
_TEXT = {"quantity", "label", "where", ""}
_LEGEND = (
    "Seconds a step, bytes at the peak, speed-ups in times; ratio: second over first, for NDCG@10 second less first; "
    "n: processes or seeds on either side. Changed: the interval over all lengths leaves out 1 and the ratio exceeds "
    "the noise floor; a peak of memory, read once, by more than 5 %."
)
_WORDS = {True: "changed", False: "", None: "undecided"}


def comparison_table(found: Comparison) -> str:
    """What changed beyond noise, what differs in the circumstances, and all rows."""
    marks = {label: f"{label} (non-causal)" for label in [*found.first.non_causal, *found.second.non_causal]}
    lines = [f"first:  {_set(found, first=True)}", f"second: {_set(found, first=False)}", ""]
    lines += [*_environment(found.environment), *_rows(found.changes, marks)]
    lines += [*_only(found.only_first, "first", marks), *_only(found.only_second, "second", marks)]
    lines += [*_reasons(found.changes)]
    lines += textwrap.wrap(_LEGEND, WIDTH) if found.changes else []
    said = f"{found.changed} of {len(found.changes)} changed beyond noise"
    if found.undecided:
        said += f", {found.undecided} cannot be told"
    return "\n".join([*lines, "", said])


def _set(found: Comparison, *, first: bool) -> str:
    own = found.first if first else found.second
    floors = [
        f"{sweep} {'unknown' if factor is None else f'±{100 * (factor - 1):.1f} %'}"
        for sweep, factor in own.noise_floors.items()
    ]
    parts = [f"{own.cells} cells of study {own.study}", *([f"A/A noise: {', '.join(floors)}"] if floors else [])]
    if own.refused:
        parts.append(f"{len(own.refused)} files refused")
    return f"{own.name} ({'; '.join(parts)})"


def _environment(rows: Sequence[Difference]) -> Iterator[str]:
    for row in rows:
        text = f"{row.field}: {_some(row.first)} -> {_some(row.second)} ({row.cells} cells)"
        yield from textwrap.wrap(text, WIDTH, subsequent_indent="    ")
    if rows:
        yield ""


def _some(values: Sequence[str]) -> str:
    return " | ".join(values[:3]) + (f" and {len(values) - 3} more" if len(values) > 3 else "")


def _rows(changes: Sequence[Change], marks: Mapping[str, str]) -> Iterator[str]:
    table = [_HEAD, *(_cells(change, marks) for change in changes)]
    widths = [max(len(row[i]) for row in table) for i in range(len(_HEAD))]
    for row in table:
        parts = [
            f"{text:<{width}}" if name in _TEXT else f"{text:>{width}}"
            for name, text, width in zip(_HEAD, row, widths, strict=True)
        ]
        yield "  ".join(parts).rstrip()


def _cells(change: Change, marks: Mapping[str, str]) -> tuple[str, ...]:
    relative = number(change.ratio)
    if change.difference is not None:
        relative = f"{change.difference:+.4f}"
    return (
        change.quantity if change.partner is None else f"{change.quantity} of {change.partner}",
        marks.get(change.label, change.label),
        change.where,
        "all" if change.length is None else f"{change.length:,}",
        number(change.first),
        number(change.second),
        relative,
        interval(change.interval),
        f"{change.counts[0]}+{change.counts[1]}",
        _WORDS[change.changed],
    )


def _only(cells: Sequence[Where], name: str, marks: Mapping[str, str]) -> Iterator[str]:
    groups: dict[str, list[Where]] = {}
    for cell in cells:
        beside = "" if cell.beside is None else f" beside {cell.beside}"
        groups.setdefault(f"{cell.kind} {marks.get(cell.label, cell.label)} {cell.where}{beside}", []).append(cell)
    for what, members in groups.items():
        lengths = dict.fromkeys("all" if c.length is None else f"{c.length:,}" for c in members)
        text = f"only in the {name}: {what} at {', '.join(lengths)} ({len(members)} cells)"
        yield from textwrap.wrap(text, WIDTH, subsequent_indent="    ")


def _reasons(changes: Sequence[Change]) -> Iterator[str]:
    reasons: dict[str, int] = {}
    for change in changes:
        if change.detail and change.changed is not False:
            reasons[f"{_WORDS[change.changed]}: {change.detail}"] = (
                reasons.get(f"{_WORDS[change.changed]}: {change.detail}", 0) + 1
            )
    for reason, count in reasons.items():
        yield f"{count} {reason}"
