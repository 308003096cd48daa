"""The schema of operator.json: the convolution operator timed by itself, its errors and its memory.

Field names carry units. Raw samples are kept. JSON has no NaN or Infinity: null means not measured.
Imports no torch: the report reads this file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from harness.errors import UserError
from harness.records.schema import Environment, Provenance

OPERATOR_SCHEMA = 1
FILE_NAME = "operator.json"
# What a measurement executes begins here; see harness/records/source_digest.py.
SOURCES = ["harness.run.operator_child.main"]

Layout = Literal["channel_major", "batch_length_channel"]
Pass = Literal["forward", "forward_backward"]
Reference = Literal["direct", "fft"]


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
        seconds: Median over the rounds of the time of one call.
        speedup_over_fft: Median over the rounds of FFT time / this time, both of the same round.
            Attention is paired with the channel-major FFT of the first kernel order.
        speedup_low: Lower end of the median's 95 % interval from order statistics over the
            rounds; it describes this process, not others. Null with fewer than six rounds.
        speedup_high: Upper end.
        operations: Predicted floating-point operations of one call (models/ops/convolution/cost.py).
        bytes: Predicted bytes that one call reads and writes.
        samples: One per round, in the order in which they ran.
    """

    kind: Literal["convolution", "attention"]
    backend: str
    length: int
    batch: int
    kernel_order: int | None
    layout: Layout
    pass_: Pass = msgspec.field(name="pass")
    seconds: float
    speedup_over_fft: float
    speedup_low: float | None
    speedup_high: float | None
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


class Slope(_Frozen, frozen=True):
    """Slope of log seconds per sequence in log length: 1 is linear, 2 quadratic.

    An FFT's is above 1 by about 1 / ln L, attention's goes from 1 to 2.

    Attributes:
        interval: 95 % over the rounds of this process, lengths independent; null where a length
            has fewer than three rounds.
        window: Shortest and longest length.
        points: Number of lengths.
    """

    slope: float
    interval: tuple[float, float] | None
    window: tuple[int, int]
    points: int


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
    """All of operator.json."""

    schema_version: int
    settings: Settings
    environment: Environment
    provenance: Provenance
    rows: list[Row]
    slopes: dict[str, Slope]
    peak_memory: list[PeakMemory]
    errors: list[Error]
    omitted: list[Omission]


def read(path: Path) -> OperatorRecord:
    """Read operator.json.

    Raises:
        UserError: No such file, no JSON, another schema version, or not this schema.
    """
    remedy = "delete it and `python -m harness bench --output FILE` measures it again"
    try:
        content = path.read_bytes()
        header = msgspec.json.decode(content)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a complete JSON file ({error}); {remedy}") from None
    version = header.get("schema_version") if isinstance(header, dict) else None
    if version != OPERATOR_SCHEMA:
        raise UserError(
            f"{path}: operator schema {version}, this harness reads schema {OPERATOR_SCHEMA}; "
            f"read it with the version that wrote it, or {remedy}"
        )
    try:
        return msgspec.json.decode(content, type=OperatorRecord)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: not a valid operator record: {error}; {remedy}") from None
