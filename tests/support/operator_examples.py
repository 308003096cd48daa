"""An operator.json with plausible numbers, for the tests of the report."""

import math

from harness.records.operator import (
    OPERATOR_SCHEMA,
    Error,
    Omission,
    OperatorRecord,
    PeakMemory,
    Row,
    Sample,
    Settings,
)
from harness.records.schema import Environment, Provenance

# Nanoseconds per element of forward and backward.
_TIMES = {
    "fft": lambda n: 6.0 + 2.1 * math.log2(n),
    "tree": lambda n: 10.0,
    "dense": lambda n: 0.3 * n,
    "sdpa": lambda n: 4.0 + 0.11 * n,
}
_LONGEST = {"fft": 65_536, "tree": 65_536, "dense": 512, "sdpa": 8192}


def operator_record(settings=None):
    """A record with every backend; `settings` such as those of a quick run."""
    settings = settings or Settings()
    rows = []
    for length in settings.lengths:
        for pass_ in settings.passes:
            for order in settings.kernel_orders:
                for layout in settings.layouts if order == settings.kernel_orders[0] else settings.layouts[:1]:
                    first = (order, layout) == (settings.kernel_orders[0], settings.layouts[0])
                    for backend, time in _TIMES.items():
                        if length <= _LONGEST[backend] and (backend != "sdpa" or first):
                            rows.append(_row(settings, backend, time, length, order, layout, pass_))
    return OperatorRecord(
        schema_version=OPERATOR_SCHEMA,
        status="ok",
        settings=settings,
        environment=Environment(
            cpu="AMD EPYC 7B13",
            cores=2,
            cores_usable=2,
            memory_bytes=8 * 2**30,
            system="Linux 6.1 x86_64",
            python="3.11.7",
            packages={"torch": "2.13.0"},
            threads=1,
        ),
        provenance=Provenance(
            git_commit=None, git_dirty=None, started_at="2026-01-01T00:00:00+00:00", source_digest="0" * 64
        ),
        rows=rows,
        peak_memory=[
            PeakMemory(
                backend=backend,
                length=4096,
                kernel_order=16,
                method="VmHWM",
                extra_bytes=int(times * 2**24),
                input_bytes=2**24,
                relative_to_x=times,
            )
            for backend, times in (("fft", 14.7), ("tree", 5.4))
        ],
        errors=[
            Error(
                backend=backend,
                length=length,
                kernel_order=order,
                reference="direct" if length <= 2048 else "fft",
                output=2e-7 * order**0.1,
                x_gradient=2e-7,
                coefficients_gradient=4e-7,
                decay_gradient=1e-6,
            )
            for length in settings.error_lengths
            for order in settings.kernel_orders
            for backend in ("fft", "tree", "dense")
            if length <= _LONGEST[backend]
        ],
        omitted=[
            Omission(
                backend="tree",
                length=64,
                kernel_order=order,
                layout="channel_major",
                pass_="forward",
                reason="too short",
            )
            for order in settings.kernel_orders
        ],
    )


def _row(settings, backend, time, length, order, layout, pass_):
    batch = settings.elements // length
    share = 1.0 if pass_ == "forward_backward" else 0.35
    seconds = share * time(length) * 1e-9 * settings.elements * settings.channels
    return Row(
        kind="attention" if backend == "sdpa" else "convolution",
        backend=backend,
        length=length,
        batch=batch,
        kernel_order=None if backend == "sdpa" else order,
        layout="batch_length_channel" if backend == "sdpa" else layout,
        pass_=pass_,
        operations=1e9,
        bytes=1e8,
        samples=[Sample(calls=2, seconds=2 * seconds * s, minor_faults=0) for s in (0.97, 0.99, 1, 1, 1.01, 1.02)],
    )
