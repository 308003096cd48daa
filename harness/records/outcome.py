"""How a cell ended, in words: what a command prints of a record that it has just written."""

from __future__ import annotations

from harness.metrics import SELECTION
from harness.records.operator import OperatorRecord
from harness.records.schema import Record, TrainingRecord


def outcome(record: Record | OperatorRecord) -> str:
    """The status, and of one that ended well its main numbers and flags."""
    if record.status != "ok":
        return f"{record.status}: {record.detail}"
    if isinstance(record, OperatorRecord):
        return f"ok, {len(record.rows)} rows"
    if isinstance(record, TrainingRecord):
        return f"ok, test NDCG@10 {record.test.metrics[SELECTION]:.4f}" if record.test else "ok, no test"
    parts = []
    if record.timing is not None:
        steps = [b for b in record.timing.blocks if b.side == "model" and b.phase == "step"]
        if steps:
            parts.append(f"{1e3 * sum(b.seconds for b in steps) / sum(b.steps for b in steps):.1f} ms a step")
    if record.memory is not None:
        parts.append(f"peak {record.memory.peak_bytes / 2**20:.0f} MiB")
    return ", ".join(["ok", *parts, *record.flags])
