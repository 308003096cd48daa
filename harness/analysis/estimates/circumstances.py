"""Under which circumstances records were made: on which machine, and what really ran in them.

A rule compares cells. What differs between them beside length and label would pass for an effect of these.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from harness.records.environment import cpu_name
from harness.records.schema import ModelFacts, Record, SpeedRecord

# What a backend costs where that stands in the way of a claim of linear time.
_ORDER = {"fft": ", which is O(n log n)", "dense": ", which is O(n²)"}

# What an operator says before its first pass.
_NOT_RUN = "not run"


def machine(record: Record, *, generation: bool = True) -> str:
    """Where a record was made, as far as times depend on it, in words; of the processor perhaps its name alone."""
    own = record.environment
    device = own.device_before or own.device_after
    name = device.name if device else cpu_name(own, record.provenance.processor if generation else None)
    torch = own.packages.get("torch", "unknown")
    return f"{name}, {own.cores_usable} of {own.cores} cores, {own.threads} threads, torch {torch}"


def mixed(records: Iterable[Record]) -> list[str]:
    """One sentence where records come from several machines; nothing where they do not."""
    records = list(records)
    places = dict.fromkeys(map(machine, records))
    if len(places) < 2:
        return []
    words = f"its records come from different machines or versions ({'; '.join(places)})"
    alike = len({machine(record, generation=False) for record in records}) == 1
    if alike and any(record.provenance.processor is None for record in records):
        words += (
            ", or some were made before the processor's generation was kept: delete those, and type the same command "
            "that measured them again"
        )
    return [words]


def conflicts(records: Sequence[SpeedRecord]) -> list[str]:
    """What ran against a label's own option, or not alike in all processes of one length; a sentence each.

    An option that names a backend, such as `attention: sdpa`, is met by every backend that has the word in its
    name; `auto` by all. One that did not run, as where only streamed steps are timed, contradicts nothing.
    """
    found: dict[str, None] = {}
    ran: dict[tuple[str, str, int, str], dict[str, None]] = {}
    for record in records:
        for facts in _sides(record):
            for operator, backend in facts.backends.items():
                if backend == _NOT_RUN:
                    continue
                asked = facts.options.get(operator)
                if isinstance(asked, str) and asked != "auto" and asked not in re.split(r"[^a-z0-9]+", backend.lower()):
                    found[f"{facts.label} asks for {operator} by {asked}, {backend} ran"] = None
                ran.setdefault((facts.label, record.sweep, record.length, operator), {})[backend] = None
    for (label, _, length, operator), backends in ran.items():
        if len(backends) > 1:
            found[f"{operator} of {label} at {length:,} ran by {' in some processes, by '.join(backends)}"] = None
    return list(found)


def changes(records: Iterable[SpeedRecord]) -> dict[tuple[str, str, str], dict[str, list[int]]]:
    """What ran: (label, sweep, operator) → backend → lengths, increasing."""
    found: dict[tuple[str, str, str], dict[str, set[int]]] = {}
    for record in records:
        for facts in _sides(record):
            for operator, backend in facts.backends.items():
                if backend == _NOT_RUN:
                    continue
                own = found.setdefault((facts.label, record.sweep, operator), {})
                own.setdefault(backend, set()).add(record.length)
    return {
        key: {backend: sorted(lengths) for backend, lengths in sorted(own.items(), key=lambda item: min(item[1]))}
        for key, own in found.items()
    }


def in_words(label: str, operator: str, backends: dict[str, list[int]]) -> str:
    """What ran as an operator of a label, by length where that changed, with what it costs where that is no O(n)."""
    parts = [
        f"{backend}{_ORDER.get(backend, '')}" + (f" at {_lengths(lengths)}" if len(backends) > 1 else "")
        for backend, lengths in backends.items()
    ]
    return f"{operator} of {label} by {', '.join(parts)}"


def _lengths(lengths: Sequence[int]) -> str:
    return f"{lengths[0]:,}" if len(lengths) == 1 else f"{lengths[0]:,} to {lengths[-1]:,}"


def _sides(record: SpeedRecord) -> list[ModelFacts]:
    return [side for side in (record.model, record.partner) if side is not None]
