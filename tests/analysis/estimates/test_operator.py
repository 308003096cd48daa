import json
import math
import statistics

import factories
import msgspec
import pytest
from operator_examples import operator_record

from harness import cli
from harness.analysis.analyse import analyse, read, write
from harness.analysis.estimates.operator import median_interval, operator_bench, slopes
from harness.errors import UserError
from harness.records.operator import FILE_NAME, SOURCES, Row, Sample
from harness.records.schema import encode
from harness.records.source_digest import source_digest
from harness.report.operator_table import operator_table


@pytest.fixture
def folder(tmp_path):
    return factories.make_folder(tmp_path / "study")


def test_operator_json_is_in_the_analysis_with_what_follows_from_it(folder, tmp_path):
    record = operator_record()
    (folder / FILE_NAME).write_bytes(encode(record))
    found = analyse(folder)
    assert found.operator == operator_bench(record)
    assert FILE_NAME in found.problems.stale
    write(found, tmp_path / "analysis.json")
    assert read(tmp_path / "analysis.json") == found


def test_one_from_these_sources_is_not_stale(folder):
    record = operator_record()
    provenance = msgspec.structs.replace(record.provenance, source_digest=source_digest(SOURCES))
    (folder / FILE_NAME).write_bytes(encode(msgspec.structs.replace(record, provenance=provenance)))
    assert FILE_NAME not in analyse(folder).problems.stale


def test_without_it_nothing_is_said_and_an_older_analysis_can_be_read(folder, tmp_path):
    found = analyse(folder)
    assert found.operator is None
    value = json.loads(encode(found))
    del value["operator"]
    (tmp_path / "older.json").write_text(json.dumps(value))
    assert read(tmp_path / "older.json") == found


def test_a_broken_one_is_refused_and_the_rest_is_reported(folder, tmp_path):
    (folder / FILE_NAME).write_bytes(encode(operator_record())[:-40])
    found = analyse(folder)
    assert found.operator is None
    assert found.times
    assert any(r.path == FILE_NAME and "not a complete JSON" in r.message for r in found.problems.refused)
    assert cli.main(["report", str(folder), "--output", str(tmp_path / "report.pdf")]) == 0


def test_report_shows_the_page_for_a_folder_that_holds_it(folder, tmp_path):
    (folder / FILE_NAME).write_bytes(encode(operator_record()))
    figures = tmp_path / "figures"
    command = ["report", str(folder), "--output", str(tmp_path / "report.pdf"), "--figures", str(figures)]
    assert cli.main(command) == 0
    assert {"operator-time.svg", "operator-error.svg"} <= {p.name for p in figures.iterdir()}


def test_a_failed_bench_is_listed_among_what_failed(folder):
    record = msgspec.structs.replace(operator_record(), status="error", detail="time pass: broken")
    (folder / "operator.failed.json").write_bytes(encode(record))
    found = analyse(folder)
    assert found.operator is None
    assert ("operator.failed.json", "operator", "error") in {(f.path, f.label, f.status) for f in found.problems.failed}


def test_one_that_ran_out_of_time_is_reported_with_its_reason(folder, tmp_path):
    record = msgspec.structs.replace(operator_record(), status="timeout", detail="memory pass: slow", peak_memory=[])
    (folder / FILE_NAME).write_bytes(encode(record))
    assert analyse(folder).operator.status == "timeout"
    assert cli.main(["report", str(folder), "--output", str(tmp_path / "report.pdf")]) == 0


def test_a_stale_one_is_listed_and_removed_on_request(folder, capsys):
    (folder / FILE_NAME).write_bytes(encode(operator_record()))
    study = json.loads((folder / "study.json").read_bytes())["study"]["name"]
    assert cli.main(["cells", "cpu", "--results", str(folder), "--stale"]) == 0, study
    assert f"stale   {FILE_NAME}" in capsys.readouterr().out
    assert cli.main(["cells", "cpu", "--results", str(folder), "--remove-stale"]) == 0
    assert not (folder / FILE_NAME).exists()


def test_speedups_are_medians_of_ratios_within_rounds():
    record = operator_record()
    for one in operator_bench(record).rows:
        assert one.seconds == statistics.median(s.seconds / s.calls for s in one.samples)
        order = 16 if one.kernel_order is None else one.kernel_order
        layout = "channel_major" if one.kind == "attention" else one.layout
        key = ("fft", one.length, order, layout, one.pass_)
        fft = next(r for r in record.rows if (r.backend, r.length, r.kernel_order, r.layout, r.pass_) == key)
        ratios = [(f.seconds / f.calls) / (s.seconds / s.calls) for f, s in zip(fft.samples, one.samples, strict=True)]
        assert one.speedup_over_fft == statistics.median(ratios)
        assert (one.speedup_low, one.speedup_high) == (min(ratios), max(ratios))


def test_rows_without_their_fft_are_refused():
    record = operator_record()
    record = msgspec.structs.replace(record, rows=[r for r in record.rows if r.backend != "fft"])
    with pytest.raises(UserError, match="no FFT of the same rounds"):
        operator_bench(record)


@pytest.mark.parametrize(
    ("count", "low", "high"), [(5, None, None), (6, 1, 6), (8, 1, 8), (9, 2, 8), (12, 3, 10), (20, 6, 15)]
)
def test_the_medians_interval_covers_95_percent_by_the_binomial(count, low, high):
    assert median_interval(range(1, count + 1)) == (low, (count + 1) / 2, high)
    if low is not None:
        outside = 2 * sum(math.comb(count, k) for k in range(low)) / 2**count
        assert outside <= 0.05 < outside + 2 * math.comb(count, low) / 2**count


def row(backend, length, seconds, order=16, pass_="forward_backward", layout="channel_major"):
    return Row(
        kind="attention" if backend == "sdpa" else "convolution",
        backend=backend,
        length=length,
        batch=65_536 // length,
        kernel_order=order,
        layout=layout,
        pass_=pass_,
        operations=1.0,
        bytes=1.0,
        samples=[Sample(calls=2, seconds=2 * seconds * s, minor_faults=0) for s in (0.99, 1.0, 1.01)],
    )


def test_slopes_are_those_of_time_per_sequence():
    rows = [row("tree", n, 0.05) for n in (64, 512, 1024, 8192)]
    rows += [row("sdpa", n, 1e-5 * n, order=None, layout="batch_length_channel") for n in (512, 1024, 2048)]
    rows += [row("fft", n, 0.05 * math.log2(n)) for n in (512, 65_536)]
    rows += [row("tree", 512, 9.0, order=8), row("tree", 512, 9.0, pass_="forward"), row("dense", 512, 1.0)]
    found = slopes(rows, 16)
    assert set(found) == {"tree", "sdpa", "fft"}
    # Samples of 0.99, 1 and 1.01 have a geometric mean a little below 1, the same at every length.
    assert found["tree"].slope == pytest.approx(1.0)
    assert found["sdpa"].slope == pytest.approx(2.0)
    assert found["fft"].slope == pytest.approx(1 + math.log(16 / 9) / math.log(128))
    assert found["tree"].window == (512, 8192)
    low, high = found["tree"].interval
    assert low < 1.0 < high


def test_the_table_names_every_backend_and_every_length():
    text = operator_table(operator_bench(operator_record()))
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
    assert len(lines) == 8
    assert "[1.00" in lines[0]
