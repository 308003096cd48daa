"""What speaks against these very records, and what is missing or refused."""

from __future__ import annotations

from typing import Any

from harness.analysis.results import Analysis
from harness.report.section import Section

_MOST = 12
_MOST_PATHS = 6
_MOST_THREATS = 8


def data(analysis: Analysis) -> dict[str, Any]:
    """Lists of what went wrong, each cut short with a word on how to see the rest; lost cells counted."""
    problems = analysis.problems
    lists = [
        ("Failed, to be tried again", [f"{f.path} ({f.status}): {f.detail}" for f in problems.failed], _MOST),
        ("Refused files", [f"{f.path}: {f.message}" for f in problems.refused], _MOST),
        ("Measured from other sources than those here", problems.stale, _MOST_PATHS),
        ("Records that no cell asks for", problems.orphans, _MOST_PATHS),
    ]
    return {
        "lists": [
            {"title": f"{title} ({len(items):,})", "items": items[:most], "more": _more(len(items) - most)}
            for title, items, most in lists
            if items
        ],
        "lost": _lost(analysis),
        "worst": analysis.problems.threats[:_MOST_THREATS],
        "more": max(0, len(analysis.problems.threats) - _MOST_THREATS),
    }


def _more(count: int) -> str:
    return f"and {count:,} more: python -m harness analyse lists them all" if count > 0 else ""


def _lost(analysis: Analysis) -> list[dict[str, Any]]:
    """Cells out of memory or time, or diverged, one row a model, place, length and status."""
    rows: dict[tuple[str, str, int | None, str], dict[str, Any]] = {}
    for cell in analysis.censored:
        key = (cell.label, cell.where, cell.length, cell.status)
        row = rows.setdefault(key, {**dict(zip(("label", "where", "length", "status"), key, strict=True)), "cells": 0})
        row["cells"] += 1
        row.setdefault("detail", cell.detail)
    return list(rows.values())


SECTION = Section(order=74, page="sure", data=data)
