"""Builds the page: what the analysis says, the cells with their samples, styles, scripts and charts in one HTML file.

Nothing in it is fetched. What records say is carried as JSON and put in as text, so a label cannot become markup.
"""

from __future__ import annotations

import contextlib
import html
import os
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import numpy as np
import vl_convert

from harness.analysis.frame import load as load_frame
from harness.analysis.results import Analysis, ClaimResult, Machine, RecordRow
from harness.data.sources import cache_folder
from harness.errors import UserError
from harness.records.schema import write_atomic
from harness.report.drawing import looks_of
from harness.report.page.charts import Chart, charts, shape, strip
from harness.report.section import sections, seen
from harness.report.verdict_table import verdict_words

HERE = Path(__file__).parent
# A sample is kept to four digits: more than two pixels can show.
_DIGITS = 4
_FIRST_SERIES = 48  # "0": a character a series, in the order in which the blocks ran


def build(analysis: Analysis, output: Path, *, records: Path | None = None) -> None:
    """Write the page; identical analyses and records give identical bytes.

    Args:
        analysis: What the page says.
        output: The HTML file, replaced in one step once it is complete.
        records: Folder of the records, for the samples of each cell and links to the files; None: without both.
    """
    found = _payload(analysis, output, records)
    parts = {
        "title": html.escape(f"{found['title']} – {analysis.study.name}"),
        "style": (HERE / "page.css").read_text(encoding="utf-8"),
        "library": _in_script(library()),
        "data": _as_data(found),
        "script": _in_script((HERE / "page.js").read_text(encoding="utf-8")),
    }
    text = (HERE / "page.html").read_text(encoding="utf-8")
    pieces = text.split("@@")
    # Odd pieces are names, so that what is put in is never searched for names itself.
    write_atomic(output, "".join(parts[p] if n % 2 else p for n, p in enumerate(pieces)).encode())


def library() -> str:
    """Vega, Vega-Lite and vega-embed in one script, from the installed package, as `vegaEmbed`.

    To bundle them takes two seconds, so the script is kept beside other prepared files where that can be written.
    """
    kept = cache_folder() / "page" / f"vega-{metadata.version('vl-convert-python')}.js"
    if kept.is_file():
        return kept.read_text(encoding="utf-8")
    script = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
    with contextlib.suppress(OSError):
        write_atomic(kept, script.encode())
    return script


def _in_script(code: str) -> str:
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _as_data(found: Mapping[str, Any]) -> str:
    return msgspec.json.encode(found).decode().replace("<", "\\u003c")


def _payload(analysis: Analysis, output: Path, records: Path | None) -> dict[str, Any]:
    words = sections()["verdicts"].data(analysis)
    said = seen(analysis)
    flags = {flag: place for place, flag in enumerate(dict.fromkeys(f for row in analysis.records for f in row.flags))}
    base = "" if records is None else os.path.relpath(records.resolve(), output.resolve().parent)
    paths = {row.path: place for place, row in enumerate(analysis.records)}
    return {
        "title": words["title"],
        "subtitle": words["subtitle"],
        "study": {"name": analysis.study.name, "description": analysis.study.description},
        "tally": words["tally"],
        "doubts": words["doubts"],
        "claims": [_claim(claim, paths) for claim in analysis.claims],
        "threats": analysis.problems.threats,
        "refused": [f"{file.path}: {file.message}" for file in analysis.problems.refused],
        "machines": [_machine(machine) for machine in analysis.machines],
        "elapsed": words["elapsed"],
        "labels": [
            {"label": label, "colour": style.colour, "shape": shape(style)}
            for label, style in looks_of(analysis).items()
        ],
        "charts": [_chart(chart, said) for chart in charts(analysis)],
        "strip": strip(),
        "flags": list(flags),
        "cells": [_cell(row, flags) for row in analysis.records],
        "base": quote(base),
        "samples": _samples(paths, records),
    }


def _claim(claim: ClaimResult, paths: Mapping[str, int]) -> dict[str, Any]:
    return {
        "id": claim.id,
        "sentence": claim.sentence,
        "source": claim.source,
        "setting": claim.setting or "",
        "differs": claim.differs or "",
        "computed": claim.statistic,
        **verdict_words(claim.overall),
        "missing": claim.overall.missing,
        "evidence": [paths[path] for path in claim.overall.evidence if path in paths],
        "variants": [verdict_words(variant) for variant in claim.variants],
    }


def _machine(machine: Machine) -> dict[str, Any]:
    return {
        "name": machine.name,
        "system": machine.system,
        "cores": machine.cores_usable,
        "threads": ", ".join(map(str, machine.threads)),
        "records": machine.records,
    }


def _chart(chart: Chart, said: Mapping[str, str]) -> dict[str, Any]:
    rows = [{key: _short(value) for key, value in row.items()} for row in chart.rows]
    fields = {name: getattr(chart, name) for name in chart.__dataclass_fields__}
    return {**fields, "rows": rows, "said": said.get(chart.figure, "")}


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _cell(row: RecordRow, flags: Mapping[str, int]) -> list[Any]:
    """One cell, a value a column of the table; the script names them."""
    return [
        row.kind,
        row.label,
        row.where,
        row.length,
        row.number,
        row.status,
        _short(row.step_seconds),
        _short(row.partner_step_seconds),
        row.net_bytes,
        _short(row.ndcg10),
        [flags[flag] for flag in row.flags],
        row.stale,
        row.detail,
        row.path,
    ]


def _samples(paths: Mapping[str, int], records: Path | None) -> dict[str, Any]:
    """Place of a cell → its timed blocks: series as side and phase, which block is of which, milliseconds a step."""
    if records is None:
        return {}
    try:
        frame = load_frame(records, "samples")
    except UserError:
        # An analysis may outlive its records; the page then has no strips, and says so at each cell.
        return {}
    found: dict[str, Any] = {}
    # A study may have grown since its analysis.
    for path, own in frame[frame["path"].isin(list(paths))].groupby("path", sort=False):
        lengths = own["history"].to_numpy(float, na_value=np.nan)
        at = ["" if np.isnan(length) else f" after {length:,.0f} events" for length in lengths]
        names = [(side + where, phase) for side, where, phase in zip(own["side"], at, own["phase"], strict=True)]
        series = list(dict.fromkeys(names))
        places = {name: chr(_FIRST_SERIES + place) for place, name in enumerate(series)}
        found[str(paths[str(path)])] = {
            "series": series,
            "order": "".join(places[name] for name in names),
            "ms": [float(f"{1e3 * value:.{_DIGITS}g}") for value in own["seconds_per_step"]],
        }
    return found
