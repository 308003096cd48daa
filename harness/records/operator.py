"""The schema of operator.json: the convolution operator timed by itself, its errors and its memory.

Field names carry units. Raw samples are kept and nothing is computed from them: speed-ups and slopes are analysis's.
JSON has no NaN or Infinity: null means not measured. Imports no torch: the report reads this file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from harness.records import read_json
from harness.records.schema import Environment, Provenance, Status

OPERATOR_SCHEMA = 2
FILE_NAME = "operator.json"
# What a measurement executes begins here; see harness/records/source_digest.py.
SOURCES = ["harness.run.operator.child.main"]

Layout = Literal["channel_major", "batch_length_channel"]
Pass = Literal["forward", "forward_backward"]
Reference = Literal["direct", "fft"]
# The passes of a bench, in their order.
Measure = Literal["time", "memory", "errors"]


class _Frozen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything in operator.json."""


class Settings(_Frozen, frozen=True):
    """What a run measures; the parent hands it to its children and the record keeps it.

    Attributes:
        elements: Positions per batch, B·L; at length L the batch is elements / L sequences, and
            longer lengths are left out.
        channels: D.
        heads: Heads of the attention beside the convolutions.
        lengths: Sequence lengths L, which are also the kernels' windows.
        kernel_orders: Numbers K of Legendre polynomials, timed in channel-major layout.
        layouts: Memory layouts of x; those after the first with the kernel order of the slopes only.
        passes: Without gradients, or with those of x and of all parameters.
        threads: CPU threads of the children.
        device: `cpu` or `cuda`.
        rounds: Most rounds of a group; a round runs every backend of the group once.
        minimum_rounds: Rounds that every group gets, whatever they take.
        group_seconds: No further round begins after this time in a group.
        block_seconds: A backend is repeated within a round until about this time is filled.
        dense_limit: Longest length for the dense product, O(L²).
        attention_limit: Longest length for attention, O(L²).
        attention_seconds: No longer length is tried once attention takes this time per call.
        error_lengths: Lengths at which errors are found.
        memory_lengths: Lengths at which peaks are read.
        timeout_seconds: Time limit of each pass: times, peaks, errors; null: none.
    """

    elements: int = 65_536
    channels: int = 64
    heads: int = 2
    lengths: list[int] = msgspec.field(default_factory=lambda: [2**n for n in range(6, 17)])
    kernel_orders: list[int] = msgspec.field(default_factory=lambda: [16, 8, 32])
    layouts: list[Layout] = msgspec.field(default_factory=lambda: ["channel_major", "batch_length_channel"])
    passes: list[Pass] = msgspec.field(default_factory=lambda: ["forward", "forward_backward"])
    threads: int = 1
    device: Literal["cpu", "cuda"] = "cpu"
    rounds: int = 9
    minimum_rounds: int = 6
    group_seconds: float = 3.0
    block_seconds: float = 0.02
    dense_limit: int = 512
    attention_limit: int = 8192
    attention_seconds: float = 1.5
    error_lengths: list[int] = msgspec.field(default_factory=lambda: [2**n for n in range(6, 17)])
    memory_lengths: list[int] = msgspec.field(default_factory=lambda: [512, 4096, 65_536])
    timeout_seconds: float | None = None


class Sample(_Frozen, frozen=True):
    """One backend in one round: some consecutive calls, timed as one window."""

    calls: int
    seconds: float
    minor_faults: int


class Row(_Frozen, frozen=True):
    """One backend at one length, kernel order, layout and pass.

    Attributes:
        kind: `convolution`, or `attention` for comparison: causal, without projections.
        backend: `fft`, `tree`, `dense`; `sdpa` for attention.
        kernel_order: K; null for attention.
        layout: Of x; attention reads heads out of `[B, L, D]`.
        pass_: `forward` under no_grad, or `forward_backward` with all gradients.
        operations: Predicted floating-point operations of one call (models/ops/convolution/cost.py).
        bytes: Predicted bytes that one call reads and writes.
        samples: One per round, in the order in which they ran; every row of a length, kernel order, layout and pass
            has the same rounds, and attention those of the first kernel order in the first layout.
    """

    kind: Literal["convolution", "attention"]
    backend: str
    length: int
    batch: int
    kernel_order: int | None
    layout: Layout
    pass_: Pass = msgspec.field(name="pass")
    operations: float
    bytes: float
    samples: list[Sample]


class Omission(_Frozen, frozen=True):
    """A combination that was asked for and not measured, and why."""

    backend: str
    length: int
    kernel_order: int | None
    layout: Layout
    pass_: Pass = msgspec.field(name="pass")
    reason: str


class PeakMemory(_Frozen, frozen=True):
    """Peak of forward and backward, channel-major, above what x and the incoming gradient take.

    Attributes:
        extra_bytes: Output and gradients included.
        input_bytes: Size of x.
        relative_to_x: extra_bytes / input_bytes.
    """

    backend: str
    length: int
    kernel_order: int
    method: str
    extra_bytes: int
    input_bytes: int
    relative_to_x: float


class Error(_Frozen, frozen=True):
    """Relative L2 errors of a float32 backend against float64, on the same float32 inputs.

    Attributes:
        reference: `direct` sums of products, or `fft` where those would take minutes.
        output: Of y.
        x_gradient: Of the input's gradient.
        coefficients_gradient: Of the Legendre coefficients'.
        decay_gradient: Of the decay rates'.
    """

    backend: str
    length: int
    kernel_order: int
    reference: Reference
    output: float
    x_gradient: float
    coefficients_gradient: float
    decay_gradient: float


class OperatorRecord(_Frozen, frozen=True):
    """All of operator.json.

    Attributes:
        status: How the bench ended. After another end than `ok`, what the passes before measured is kept.
        detail: Why something is missing.
    """

    schema_version: int
    status: Status
    settings: Settings
    environment: Environment
    provenance: Provenance
    rows: list[Row] = []
    peak_memory: list[PeakMemory] = []
    errors: list[Error] = []
    omitted: list[Omission] = []
    detail: str | None = None


def read(path: Path) -> OperatorRecord:
    """Read operator.json, also one of schema 1.

    Raises:
        UserError: No such file, no JSON, another schema version, or not this schema.
    """
    remedy = "delete it and `python -m harness bench --output FILE` measures it again"
    record: OperatorRecord = read_json.read(
        path,
        OperatorRecord,
        "operator record",
        remedy,
        version=OPERATOR_SCHEMA,
        converters={1: _from_1},
    )
    return record


def _from_1(content: dict[str, Any]) -> dict[str, Any]:
    """Schema 1 held what follows from the samples, and was written of benches alone that ended well."""
    computed = {"seconds", "speedup_over_fft", "speedup_low", "speedup_high"}
    rows = [{name: value for name, value in row.items() if name not in computed} for row in content.get("rows", [])]
    kept = {name: value for name, value in content.items() if name != "slopes"}
    return {**kept, "status": "ok", "rows": rows}
