"""Claims of papers: as published, by their own tables, here, and why they differ."""

from __future__ import annotations

from typing import Any

from harness.analysis.results import Analysis, ClaimVerdict
from harness.report.field_table import field_rows, multiplicity
from harness.report.section import Section


def data(analysis: Analysis) -> dict[str, Any]:
    """A row a claim whose card says where the published figure comes from or what differs here."""
    rows = field_rows([analysis])
    return {
        "rows": [
            {
                "sentence": row.claim.sentence,
                "source": row.claim.source,
                "setting": row.claim.setting or "",
                "own": [{"source": one.source, **_ruling(one.overall)} for one in row.own],
                "here": _ruling(row.claim.overall),
                "differs": row.claim.differs or "",
            }
            for row in rows
        ],
        "multiplicity": multiplicity(rows),
    }


def _ruling(verdict: ClaimVerdict) -> dict[str, str]:
    return {"verdict": verdict.verdict, "measured": verdict.measured}


SECTION = Section(order=12, data=data)
