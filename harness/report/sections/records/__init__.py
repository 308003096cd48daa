"""Every cell of the study, and every accuracy metric."""

from __future__ import annotations

from typing import Any

from harness import metrics
from harness.analysis.results import Analysis
from harness.report.section import Section


def data(analysis: Analysis) -> dict[str, Any]:
    """Names of all metrics, in the order of their table."""
    return {"metrics": metrics.names()}


SECTION = Section(order=130, data=data)
