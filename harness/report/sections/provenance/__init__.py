"""What is published, what of it was built, and where these numbers come from."""

from __future__ import annotations

import ast
from typing import Any

from harness.analysis.results import Analysis, ModelRow
from harness.report.numbers import counted, duration
from harness.report.section import Section
from models import registry

_COMMIT_DIGITS = 12


def data(analysis: Analysis) -> dict[str, Any]:
    """Claims by source, the reading of the model under test, versions, and references."""
    published: dict[str, list[str]] = {}
    for claim in analysis.claims:
        published.setdefault(claim.source, []).append(claim.sentence)
    own = next((model for model in analysis.models if model.label == analysis.study.timing_partner), None)
    return {
        "published": list(published.items()),
        "reading": "" if own is None else _reading(own),
        "ran": "" if own is None else _ran(own),
        "versions": _versions(analysis),
        "cited": list(dict.fromkeys((model.name, model.citation) for model in analysis.models if model.citation)),
    }


def _reading(model: ModelRow) -> str:
    """What the model's file says of it: the docstring's first lines; "" where it is not installed here."""
    entry = registry.entries().get(model.name)
    if entry is None:
        return ""
    words = ast.get_docstring(ast.parse(entry.path.read_text(encoding="utf-8"))) or ""
    # Further down come equations, which are no prose.
    return " ".join(" ".join(words.split("\n\n")[:2]).split())


def _ran(model: ModelRow) -> str:
    if "convolution" not in model.backends:
        return ""
    ran = "; ".join(f"{operator} by {' and '.join(names)}" for operator, names in model.backends.items())
    return f"What ran here for {model.label}: {ran}."


def _versions(analysis: Analysis) -> list[tuple[str, str]]:
    own = analysis.versions
    commits = ", ".join(commit[:_COMMIT_DIGITS] for commit in own.git_commits) or "–"
    if own.git_dirty_records > 0:
        commits += f"; {counted(own.git_dirty_records, 'record', 'records')} from a changed working tree"
    measured = f"{own.started_first} to {own.started_last}, {duration(own.elapsed_seconds)} in cells"
    return [
        ("harness, record schema", f"{own.harness}, schema {own.record_schema}"),
        ("Python", ", ".join(own.python) or "–"),
        ("packages", ", ".join(f"{name} {' / '.join(found)}" for name, found in own.packages.items()) or "–"),
        ("CUDA", ", ".join(own.cuda) or "–"),
        ("commit", commits),
        ("measured", measured if own.started_first else "–"),
    ]


SECTION = Section(order=120, data=data)
