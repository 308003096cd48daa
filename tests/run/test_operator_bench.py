import json
import math
import os
import subprocess
import sys

import msgspec
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from harness import cli
from harness.errors import UserError
from harness.measure.operator import timing
from harness.measure.operator.errors import errors
from harness.measure.operator.workloads import Inputs, convolution, inputs
from harness.records import operator as operator_record
from harness.records.operator import OperatorRecord, Row, Sample, Settings
from harness.records.schema import encode, write_atomic
from harness.run import operator_bench as bench
from models.ops.attention.softmax import causal_attention
from models.ops.build import native
from models.ops.convolution.cost import bytes_moved, operations

CPU = torch.device("cpu")
TINY = Settings(
    elements=1024,
    channels=16,
    lengths=[64, 512, 1024, 2048],
    kernel_orders=[16, 8],
    rounds=6,
    group_seconds=0.01,
    block_seconds=0.0005,
    error_lengths=[64, 512],
    memory_lengths=[512, 2048],
)


@pytest.fixture(scope="module")
def record():
    return bench.bench(TINY)


def row(backend, length, seconds, order=16, pass_="forward_backward", layout="channel_major"):
    return Row(
        kind="attention" if backend == "sdpa" else "convolution",
        backend=backend,
        length=length,
        batch=65_536 // length,
        kernel_order=order,
        layout=layout,
        pass_=pass_,
        seconds=seconds,
        speedup_over_fft=1.0,
        speedup_low=None,
        speedup_high=None,
        operations=1.0,
        bytes=1.0,
        samples=[Sample(calls=2, seconds=2 * seconds * s, minor_faults=0) for s in (0.99, 1.0, 1.01)],
    )


def test_every_combination_has_a_row_and_no_length_exceeds_the_batch(record):
    found = {(r.backend, r.length, r.kernel_order, r.layout, r.pass_) for r in record.rows}
    missing = {(o.backend, o.length, o.kernel_order, o.layout, o.pass_) for o in record.omitted}
    assert len(found) == len(record.rows)
    for length in (64, 512, 1024):
        for pass_ in ("forward", "forward_backward"):
            for order, layout in ((16, "channel_major"), (16, "batch_length_channel"), (8, "channel_major")):
                for backend in ("fft", "tree", "dense") if length <= 512 else ("fft", "tree"):
                    assert (backend, length, order, layout, pass_) in found | missing
                assert ("fft", length, order, layout, pass_) in found
            assert ("sdpa", length, None, "batch_length_channel", pass_) in found
    assert {r.length for r in record.rows} == {64, 512, 1024}
    assert not any(r.backend == "dense" and r.length > 512 for r in record.rows)


def test_ratios_are_medians_over_pairs_of_one_round(record):
    for one in record.rows:
        if one.kind == "convolution":
            key = (one.length, one.kernel_order, one.layout, one.pass_)
            fft = next(
                r for r in record.rows if r.backend == "fft" and (r.length, r.kernel_order, r.layout, r.pass_) == key
            )
            ratios = [
                (f.seconds / f.calls) / (s.seconds / s.calls) for f, s in zip(fft.samples, one.samples, strict=True)
            ]
            assert one.speedup_over_fft == pytest.approx(sorted(ratios)[2] / 2 + sorted(ratios)[3] / 2)
            assert (one.speedup_low, one.speedup_high) == (min(ratios), max(ratios))
        assert len(one.samples) == 6
        assert one.batch * one.length == 1024


def test_json_holds_the_promised_names_and_no_nan(record, tmp_path):
    def refuse(constant):
        raise AssertionError(constant)

    value = json.loads(encode(record), parse_constant=refuse)
    names = {"backend", "length", "kernel_order", "layout", "pass", "seconds", "speedup_over_fft", "speedup_low"}
    assert all(names | {"speedup_high", "operations", "bytes"} <= set(r) for r in value["rows"])
    assert {"slope", "interval", "window"} <= set(value["slopes"]["fft"])
    assert {"backend", "length", "kernel_order", "output", "x_gradient", "decay_gradient"} <= set(value["errors"][0])
    assert value["environment"]["threads"] == 1
    assert value["environment"]["allocator"]
    write_atomic(tmp_path / "operator.json", encode(record))
    assert operator_record.read(tmp_path / "operator.json") == record


def test_errors_are_those_of_float32(record):
    assert {(e.backend, e.length, e.kernel_order) for e in record.errors} >= {("fft", 64, 16), ("dense", 512, 8)}
    for e in record.errors:
        assert 0 < e.output < 1e-6
        assert 0 < e.x_gradient < 1e-6
        assert 0 < max(e.coefficients_gradient, e.decay_gradient) < 5e-6


def test_memory_is_read_where_the_length_fits(record):
    assert {p.length for p in record.peak_memory} == {512}
    assert all(p.extra_bytes >= 0 and p.input_bytes == 4 * 1024 * 16 for p in record.peak_memory)


def test_a_wrong_result_is_seen_as_an_error(monkeypatch):
    right = Inputs.apply

    def wrong(self, backend):
        return right(self, backend) * (1.001 if backend == "dense" else 1.0)

    monkeypatch.setattr(Inputs, "apply", wrong)
    found, _ = errors(64, 8, ["fft", "dense"], CPU)
    outputs = {e.backend: e.output for e in found}
    assert outputs["fft"] < 1e-6
    assert outputs["dense"] == pytest.approx(1e-3, rel=0.01)


def test_the_direct_reference_and_the_fourier_one_agree():
    direct, _ = errors(2048, 16, ["fft"], CPU)
    fourier, _ = errors(4096, 16, ["fft"], CPU)
    assert (direct[0].reference, fourier[0].reference) == ("direct", "fft")
    assert fourier[0].output < 1e-6


def test_a_backend_that_refuses_is_left_out_with_its_reason(monkeypatch):
    right = Inputs.apply

    def refusing(self, backend):
        if backend == "tree":
            raise ValueError("no tree today")
        return right(self, backend)

    monkeypatch.setattr(Inputs, "apply", refusing)
    one = timing.Bench(TINY, CPU)
    one.group(64, 16, "channel_major", "forward")
    assert {r.backend for r in one.rows} == {"fft", "dense", "sdpa"}
    assert [(o.backend, o.reason) for o in one.omitted] == [("tree", "no tree today")]
    found, omitted = errors(64, 8, ["fft", "tree"], CPU)
    assert [e.backend for e in found] == ["fft"]
    assert omitted[0].reason == "no tree today"


def test_attention_stops_at_the_length_where_it_becomes_too_slow():
    one = timing.Bench(msgspec.structs.replace(TINY, attention_seconds=0.0), CPU)
    for length in (64, 512):
        one.group(length, 16, "channel_major", "forward")
    assert [r.length for r in one.rows if r.backend == "sdpa"] == [64]


def test_the_order_is_reversed_every_other_round():
    one = timing.Bench(msgspec.structs.replace(TINY, rounds=3, minimum_rounds=3, block_seconds=1e-9), CPU)
    seen = []
    one._rounds({name: lambda name=name: seen.append(name) for name in "ab"})
    assert "".join(seen[-6:]) == "abbaab"


@pytest.mark.parametrize(
    ("count", "low", "high"), [(5, None, None), (6, 1, 6), (8, 1, 8), (9, 2, 8), (12, 3, 10), (20, 6, 15)]
)
def test_the_medians_interval_covers_95_percent_by_the_binomial(count, low, high):
    assert timing.median_interval(range(1, count + 1)) == (low, (count + 1) / 2, high)
    if low is not None:
        outside = 2 * sum(math.comb(count, k) for k in range(low)) / 2**count
        assert outside <= 0.05 < outside + 2 * math.comb(count, low) / 2**count


def test_slopes_are_those_of_time_per_sequence():
    rows = [row("tree", n, 0.05) for n in (64, 512, 1024, 8192)]
    rows += [row("sdpa", n, 1e-5 * n, order=None, layout="batch_length_channel") for n in (512, 1024, 2048)]
    rows += [row("fft", n, 0.05 * math.log2(n)) for n in (512, 65_536)]
    rows += [row("tree", 512, 9.0, order=8), row("tree", 512, 9.0, pass_="forward"), row("dense", 512, 1.0)]
    found = bench.slopes(rows, 16)
    assert set(found) == {"tree", "sdpa", "fft"}
    # Samples of 0.99, 1 and 1.01 have a geometric mean a little below 1, the same at every length.
    assert found["tree"].slope == pytest.approx(1.0)
    assert found["sdpa"].slope == pytest.approx(2.0)
    assert found["fft"].slope == pytest.approx(1 + math.log(16 / 9) / math.log(128))
    assert found["tree"].window == (512, 8192)
    low, high = found["tree"].interval
    assert low < 1.0 < high


def counted(call):
    call()
    counter = FlopCounterMode(display=False)
    with native.suspended(), counter:
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize("backend", ["dense", "tree"])
@pytest.mark.parametrize("pass_", ["forward", "forward_backward"])
def test_predicted_operations_are_those_that_torch_counts(backend, pass_):
    size = {"batch": 4, "length": 512, "channels": 8}
    data = inputs(**size, order=16, layout="channel_major", device=CPU)
    found = counted(convolution(data, backend, pass_))
    assert operations(backend, **size, order=16, backward=pass_ == "forward_backward") == pytest.approx(found, rel=0.25)


def test_predicted_operations_of_attention_are_half_of_both_triangles():
    query = torch.randn(4, 2, 512, 4)
    found = counted(lambda: causal_attention(query, query, query, "math"))
    predicted = operations("sdpa", batch=4, length=512, channels=8, order=16, backward=False)
    assert predicted == pytest.approx(found / 2, rel=0.01)


def test_an_fft_costs_n_log_n_and_the_tree_n():
    def per_element(backend, length, function):
        return function(backend, batch=1, length=length, channels=1, order=16, backward=True) / length

    assert per_element("tree", 65_536, operations) == per_element("tree", 512, operations)
    assert 1.3 < per_element("fft", 65_536, operations) / per_element("fft", 512, operations) < 16 / 9
    assert per_element("fft", 65_536, bytes_moved) > per_element("tree", 65_536, bytes_moved)
    with pytest.raises(ValueError, match=r"nonsense.*fft, tree"):
        operations("nonsense", batch=1, length=8, channels=1, order=1, backward=False)


def test_the_table_names_every_backend_and_every_length(record):
    text = bench.table(record)
    assert max(map(len, text.splitlines())) <= 130
    for word in (
        "fft",
        "tree",
        "dense",
        "sdpa",
        "K = 16, channel_major, forward_backward",
        "K = 8",
        "slope",
        "times x",
    ):
        assert word in text
    lines = [line for line in text.splitlines() if line.startswith("   1,024")]
    assert len(lines) == 6
    assert "[1.00" in lines[0]


def test_the_command_prints_json_and_writes_it(tmp_path):
    command = [sys.executable, "-m", "harness", "bench", "--quick", "--elements", "64", "--json"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "operator.json")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "7", "MALLOC_ARENA_MAX": "1"},
    )
    assert done.returncode == 0, done.stderr
    record = msgspec.json.decode(done.stdout, type=OperatorRecord)
    assert record == operator_record.read(tmp_path / "operator.json")
    assert {r.backend for r in record.rows} >= {"fft", "dense", "sdpa"}
    assert record.environment.threads == 1
    assert record.slopes == {}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--elements", "1000"], ["1000", "power of two"]),
        (["--threads", "0"], ["threads 0", "at least 1"]),
        (["--device", "tpu"], ["tpu", "cpu, cuda"]),
    ],
)
def test_a_wrong_setting_is_one_line(capsys, arguments, words):
    assert cli.main(["bench", *arguments]) == 64
    error = capsys.readouterr().err
    assert all(word in error for word in words)


def test_a_failing_child_is_told_apart_from_a_killed_one(monkeypatch):
    monkeypatch.setattr(bench.sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="status 1"):
        bench.bench(TINY)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"{", "not a complete JSON"), (b'{"schema_version": 9}', "schema 9"), (b'{"schema_version": 1}', "not a valid")],
)
def test_a_bad_file_is_one_clear_message(tmp_path, content, words):
    path = tmp_path / "operator.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        operator_record.read(path)
    assert str(path) in str(caught.value)
