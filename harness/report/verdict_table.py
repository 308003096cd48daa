"""The verdict table as plain text for the terminal and as Markdown for a README."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable

from harness.analysis.estimates.accuracy import SEEDS_TO_SUPPORT
from harness.analysis.estimates.statistics import MINIMUM_PROCESSES
from harness.analysis.problems import flag_kinds
from harness.analysis.results import Analysis, ClaimVerdict
from harness.report.numbers import window

WIDTH = 100
_HEAD = ("claim", "verdict", "allowed", "lengths")
VERDICTS = ("supported", "refuted", "inconclusive", "missing")
_LEAST = {"processes": MINIMUM_PROCESSES, "seeds": SEEDS_TO_SUPPORT}
# Beyond it a number is no plan.
_MOST = 1000
# Share of flagged cells from which on the table itself says so.
_MANY_FLAGS = 0.5
_SHAPES = {"supported": "●", "refuted": "▼", "inconclusive": "◇", "missing": "□"}


def verdict_table(analysis: Analysis) -> str:
    """Verdicts for the terminal, at most 100 columns wide.

    A claim, what was measured and why that decides; below it the same of every variant, without reasons.

    Returns:
        Lines without a newline at the end.
    """
    if not analysis.claims:
        return f"study {analysis.study.name} asks for no claim"
    rows: list[tuple[tuple[str, ...], list[str]]] = []
    for claim in analysis.claims:
        rows.append((_cells(claim.id, claim.overall), [claim.overall.measured, _reason(claim.overall)]))
        rows += [(_cells(f"  {_labelled(analysis, v)}", v), [v.measured]) for v in claim.variants]
    widths = [max(len(cells[i]) for cells in (_HEAD, *(cells for cells, _ in rows))) for i in range(len(_HEAD))]
    # A label may be of any length; the claim's column gives way, so that the line still fits.
    widths[0] = max(12, min(widths[0], WIDTH - sum(widths[1:]) - 2 * (len(widths) - 1)))
    lines = [_line(_HEAD, widths), "-" * min(WIDTH, sum(widths) + 2 * (len(widths) - 1))]
    for place, (cells, sentences) in enumerate(rows):
        if place and not cells[0].startswith("  "):
            lines.append("")
        lines.append(_line(cells, widths))
        for sentence in sentences:
            lines += textwrap.wrap(sentence, WIDTH, initial_indent="    ", subsequent_indent="    ")
    counts = Counter[str](claim.overall.verdict for claim in analysis.claims)
    found = ", ".join(f"{counts[word]} {word}" for word in VERDICTS if counts[word])
    lines += ["", f"{found}: of {len(analysis.claims)} claim{'' if len(analysis.claims) == 1 else 's'}"]
    for doubt in doubts(analysis):
        lines += textwrap.wrap(doubt, WIDTH)
    return "\n".join(lines)


def doubts(analysis: Analysis) -> list[str]:
    """Why a verdict of these records should not be quoted without a word, a sentence each."""
    found = []
    if analysis.study.preliminary:
        found.append("Preliminary: the study measures too little to quote a verdict; it shows what a whole one would.")
    # A cell that measures memory alone has a peak and no time; one of streamed steps has neither of the two.
    timed = [
        row
        for row in analysis.records
        if row.kind == "speed" and row.status == "ok" and (row.step_seconds is not None or row.net_bytes is None)
    ]
    flagged = [row for row in timed if row.flags]
    if timed and len(flagged) >= _MANY_FLAGS * len(timed):
        (kind, count), *_ = flag_kinds(row.flags for row in flagged)
        found.append(f"{len(flagged)} of {len(timed)} timed cells carry a flag, {count} of them: {kind}.")
    return found


def threat_list(analysis: Analysis) -> str:
    """Threats to validity for the terminal, a line or more each; "" where there are none."""
    lines = ["", "threats to validity"] if analysis.problems.threats else []
    for threat in analysis.problems.threats:
        lines += textwrap.wrap(threat, WIDTH, initial_indent="  - ", subsequent_indent="    ", break_long_words=False)
    return "\n".join(lines)


def verdict_markdown(analysis: Analysis) -> str:
    """Verdicts as a Markdown table, one row per claim and variant; ends with a newline."""
    lines = ["| claim | verdict | measured | allowed | lengths |", "|---|---|---|---|---|"]
    for claim in analysis.claims:
        lines.append(_markdown_row(claim.sentence, claim.overall))
        if len(claim.variants) > 1:
            lines += [_markdown_row(f"– {_labelled(analysis, v)}", v) for v in claim.variants]
    return "\n".join(lines) + "\n"


def _labelled(analysis: Analysis, verdict: ClaimVerdict) -> str:
    """The variant's label, marked where the model sees the whole history at every position."""
    # A variant is a label, or begins with one where it is about a sweep or a data set of it.
    names = (verdict.variant, verdict.variant.split(" ")[0])
    bidirectional = any(row.label in names and not row.causal for row in analysis.models)
    return f"{verdict.variant} (non-causal)" if bidirectional else str(verdict.variant)


def _cells(name: str, verdict: ClaimVerdict) -> tuple[str, ...]:
    return (
        name,
        verdict.verdict,
        verdict.allowed or "-",
        window(verdict.window),
    )


def _reason(verdict: ClaimVerdict) -> str:
    parts = [verdict.detail]
    missing = [item for item in verdict.missing if item not in verdict.detail]
    if missing and verdict.verdict in {"missing", "inconclusive"}:
        more = f"; {len(missing) - 2} more" if len(missing) > 2 else ""
        parts.append(f"Missing: {'; '.join(missing[:2])}{more}.")
    parts.append(what_would_decide(verdict))
    return " ".join(part for part in parts if part)


def what_would_decide(verdict: ClaimVerdict) -> str:
    """How many samples would decide, as a sentence, or ""; the least that give an interval promise nothing."""
    size, unit = verdict.sample_size, verdict.sample_unit
    if size is None:
        return ""
    if size <= _LEAST.get(unit, 0):
        return f"At least {size} {unit} are needed."
    if size > _MOST:
        return f"More than {_MOST:,} {unit} would be needed: measure on a quieter machine, or another size."
    return f"About {size:,} {unit} would decide."


def verdict_words(verdict: ClaimVerdict) -> dict[str, str]:
    """A ruling as the document and the page show it; "" for what is not there."""
    return {
        "variant": verdict.variant,
        "verdict": verdict.verdict,
        "measured": verdict.measured,
        "allowed": verdict.allowed,
        "window": "" if verdict.window is None else window(verdict.window),
        "detail": " ".join(part for part in (verdict.detail, what_would_decide(verdict)) if part),
    }


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    parts = []
    for text, width in zip(cells, widths, strict=True):
        short = text if len(text) <= width else f"{text[: width - 1]}…"
        parts.append(f"{short:<{width}}")
    return "  ".join(parts).rstrip()


def _markdown_row(name: str, verdict: ClaimVerdict) -> str:
    return markdown_row(
        (name, marked(verdict), verdict.measured or "-", verdict.allowed or "-", window(verdict.window))
    )


def marked(verdict: ClaimVerdict) -> str:
    """The verdict's shape and word, in Markdown."""
    return f"{_SHAPES[verdict.verdict]} **{verdict.verdict}**"


def markdown_row(cells: Iterable[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(" ".join(cell.split()).replace("\\", "\\\\").replace("|", "\\|") for cell in cells) + " |"
