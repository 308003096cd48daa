import json
import os
import subprocess
import sys
import time

import msgspec
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from harness import cli
from harness.analysis.estimates.operator import operator_bench
from harness.analysis.rows import OperatorBench
from harness.errors import UserError
from harness.measure.operator import timing
from harness.measure.operator.errors import errors
from harness.measure.operator.workloads import Inputs, convolution, inputs
from harness.records import operator as operator_record
from harness.records import schema as records
from harness.records.operator import Settings
from harness.records.schema import encode
from harness.run import workers
from harness.run.operator import bench
from harness.run.watch import OutOfTimeError
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
    """Measured where the environment asks for other threads and another allocator."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "7")
        patch.setenv("MALLOC_ARENA_MAX", "1")
        return bench.bench(TINY)


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


def test_every_row_has_the_rounds_of_its_group(record):
    for one in record.rows:
        assert len(one.samples) == 6
        assert one.batch * one.length == 1024


def test_json_holds_samples_no_statistics_and_no_nan(record, tmp_path):
    def refuse(constant):
        raise AssertionError(constant)

    value = json.loads(encode(record), parse_constant=refuse)
    names = {"backend", "length", "kernel_order", "layout", "pass", "operations", "bytes", "samples"}
    assert all(names <= set(r) and not {"seconds", "speedup_over_fft"} & set(r) for r in value["rows"])
    assert "slopes" not in value
    assert value["status"] == "ok"
    assert {"backend", "length", "kernel_order", "output", "x_gradient", "decay_gradient"} <= set(value["errors"][0])
    assert value["environment"]["threads"] == 1
    assert value["environment"]["allocator"]
    records.write(record, tmp_path / "operator.json")
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


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "not a complete JSON"),
        (b'{"schema_version": 9}', "schema 9"),
        (b'{"schema_version": 1}', "not a valid"),
        (b'{"schema_version": 2}', "not a valid"),
    ],
)
def test_a_bad_file_is_one_clear_message(tmp_path, content, words):
    path = tmp_path / "operator.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        operator_record.read(path)
    assert str(path) in str(caught.value)


def test_a_bench_out_of_time_is_a_record_that_says_so(tmp_path):
    record = bench.bench(msgspec.structs.replace(TINY, timeout_seconds=0.1))
    assert record.status == "timeout"
    assert record.detail == "time pass: still running after 0.1 s"
    assert not record.rows
    assert record.environment.threads == 1
    assert records.write(record, tmp_path / "operator.json").name == "operator.json"
    assert operator_record.read(tmp_path / "operator.json") == record


def test_a_bench_out_of_memory_is_a_record_that_says_so():
    # Attention's inputs alone do not fit.
    record = bench.bench(msgspec.structs.replace(TINY, elements=2**24, lengths=[64], channels=2**14))
    assert record.status == "oom"
    assert record.detail.startswith("time pass: ")


def test_a_failed_bench_stands_beside_and_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(workers.sys, "executable", "/bin/false")
    failed = bench.bench(TINY)
    assert failed.status == "error"
    assert "status 1" in failed.detail
    path = records.write(failed, tmp_path / "operator.json")
    assert path.name == "operator.failed.json"
    assert not (tmp_path / "operator.json").exists()
    records.write(msgspec.structs.replace(failed, status="ok", detail=None), tmp_path / "operator.json")
    assert not path.exists()


def test_a_bench_whose_deadline_passed_leaves_nothing():
    with pytest.raises(OutOfTimeError):
        bench.bench(TINY, deadline=time.monotonic() + 0.1)


def test_the_command_prints_rows_and_slopes_and_writes_the_record(record, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(bench, "bench", lambda wanted, **_: asked.append(wanted) or record)
    path = tmp_path / "operator.json"
    assert cli.main(["bench", "--quick", "--elements", "64", "--json", "--output", str(path)]) == 0
    assert asked == [bench.settings(quick=True, elements=64)]
    assert operator_record.read(path) == record
    shown = capsys.readouterr().out
    names = {"backend", "length", "kernel_order", "layout", "pass", "seconds", "speedup_over_fft"}
    assert all(names <= set(row) for row in json.loads(shown)["rows"])
    assert msgspec.json.decode(shown, type=OperatorBench) == operator_bench(record)


@pytest.mark.slow
def test_the_command_measures_in_processes_of_its_own(tmp_path):
    command = [sys.executable, "-m", "harness", "bench", "--quick", "--elements", "64", "--json"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "operator.json")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "7", "MALLOC_ARENA_MAX": "1"},
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    names = {"backend", "length", "kernel_order", "layout", "pass", "seconds", "speedup_over_fft"}
    assert all(names <= set(row) for row in shown["rows"])
    assert shown["slopes"] == {}
    record = operator_record.read(tmp_path / "operator.json")
    assert {r.backend for r in record.rows} >= {"fft", "dense", "sdpa"}
    assert record.environment.threads == 1
    assert msgspec.json.decode(done.stdout, type=OperatorBench) == operator_bench(record)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--elements", "1000"], ["1000", "power of two"]),
        (["--threads", "0"], ["--threads must be at least 1, got 0"]),
        (["--device", "tpu"], ["tpu", "cpu", "cuda"]),
    ],
)
def test_a_wrong_setting_is_one_line(capsys, arguments, words):
    try:
        code = cli.main(["bench", *arguments])
    except SystemExit as stop:
        code = stop.code
    assert code == 64
    error = capsys.readouterr().err.splitlines()[-1]
    assert all(word in error for word in words)


COMPUTED = {"seconds": 1.0, "speedup_over_fft": 1.0, "speedup_low": None, "speedup_high": None}


def test_a_file_of_schema_1_is_read_without_what_it_had_computed(record, tmp_path):
    value = json.loads(encode(record))
    del value["status"], value["detail"]
    rows = [{**row, **COMPUTED} for row in value["rows"]]
    older = {**value, "schema_version": 1, "rows": rows, "slopes": {"fft": {"slope": 1.0}}}
    path = tmp_path / "operator.json"
    path.write_text(json.dumps(older))
    assert operator_record.read(path) == record
