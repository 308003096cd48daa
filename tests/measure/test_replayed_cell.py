"""A whole speed cell on a machine without a GPU, with the synthetic NVML trace in place of the driver.

The steps run on the CPU; energy, power and clocks come from the trace and say nothing about them.
"""

import json

import msgspec
import pytest
import specs
import torch
from factories import make_folder
from traces import MIB, OURS, UUIDS, player
from typst_words import words_of

from harness.analysis.analyse import analyse
from harness.measure import runtime
from harness.measure.device import nvml
from harness.measure.speed import cell
from harness.records import device_series as series
from harness.records import schema as records
from harness.records.environment import describe
from harness.report.document import assemble, render
from harness.run import supervisor
from harness.study.manifest import read_manifest

SPEC = msgspec.structs.replace(specs.SPEC, device="cuda", partner=specs.SPEC.model, minimum_seconds=0.2)


def on_the_cpu(device_name, threads):
    torch.set_num_threads(1)
    return torch.device("cpu")


@pytest.fixture
def replayed(monkeypatch):
    """Runs one pass of the cell with a changed trace."""

    def run(measure="time", **changes):
        api = player(**changes)
        monkeypatch.setattr(nvml, "driver", lambda: api)
        monkeypatch.setattr(runtime, "prepare", on_the_cpu)
        monkeypatch.setattr(cell, "_uuid", lambda device: OURS)
        fields = cell.run(SPEC, measure, describe(1, {}))
        assert api.open == 0
        return fields

    return run


def test_energy_series_and_throttling_are_in_the_fields(replayed):
    fields = replayed()
    assert fields["energy"].seconds >= nvml.LEAST_ENERGY_SECONDS
    assert fields["energy"].energy_joules == pytest.approx(712.5)
    assert fields["energy_detail"] is None
    flags = [f for f in fields["flags"] if f.startswith("device throttled while timing: software power cap")]
    assert len(flags) == 1
    assert fields["environment"].device_before.uuid == UUIDS[1]
    (found,) = fields["series"]
    assert [w.phase for w in found.windows][:2] == ["step", "energy"]
    assert found.windows[0].start_seconds > 0
    assert max(w for w in found.power_watts) == pytest.approx(698.544)


def test_peak_device_memory_is_above_the_baseline(replayed):
    fields = replayed("memory")
    assert fields["memory"].device_peak_bytes == (8412 - 3) * MIB
    assert not [f for f in fields["flags"] if "throttled" in f]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"broken": {"nvmlDeviceGetTotalEnergyConsumption"}}, "no energy counter"),
        ({"answers": {"nvmlDeviceGetTotalEnergyConsumption": [77]}}, "stood still"),
    ],
)
def test_a_cell_without_energy_says_why_and_stands(replayed, monkeypatch, changes, words):
    monkeypatch.setattr(nvml, "LEAST_ENERGY_SECONDS", 0.05)
    fields = replayed(**changes)
    assert fields.get("energy") is None
    assert words in fields["energy_detail"]
    assert fields["timing"].blocks


def test_without_a_driver_a_gpu_cell_still_times(replayed):
    fields = replayed(broken={"nvmlInit"})
    assert fields["series"] == []
    assert fields["timing"].blocks
    assert fields["environment"].device_before is None


def test_the_record_and_the_report_show_energy_device_memory_and_throttling(replayed, tmp_path):
    merged = supervisor._merge(*({**replayed(measure), "import_seconds": 1.5} for measure in ("time", "memory")))
    assert merged["import_seconds"] == 3.0
    # As many steps as these fitted the window: 712.5 J / 4, whatever this machine managed.
    merged["energy"] = msgspec.structs.replace(merged["energy"], steps=4)
    folder = make_folder(tmp_path / "records", training=False)
    manifest = read_manifest(folder)
    changed = []
    for place in manifest.cells:
        if place.label == "gru4rec" and place.spec.replicate == 0:
            path = folder / place.path
            old = json.loads(path.read_bytes())
            wanted = {"memory": ["memory"], "time": ["timing", "energy"]}
            names = [n for m in place.spec.measure for n in wanted[m]]
            new = json.loads(records.encode({name: merged[name] for name in names}))
            # Not the very samples of the record before: such a copy is refused.
            for block in new.get("timing", {}).get("blocks", []):
                block["seconds"] *= 1 + 1e-6 * len(changed)
            path.write_text(json.dumps({**old, **new, "flags": merged["flags"]}))
            assert records.read(path).flags == merged["flags"]
            written = series.write(path, place.label, place.digest, merged["series"])
            assert {p.measure for p in series.read(written).passes} == {"time", "memory"}
            changed.append(place.path)
    analysis = analyse(folder)
    assert not analysis.problems.refused
    assert {e.label for e in analysis.energy} == {"gru4rec"}
    assert all(e.joules_per_step > 0 for e in analysis.energy)
    assert {m.device_peak_bytes for m in analysis.memory if m.label == "gru4rec"} == {(8412 - 3) * MIB}
    assert any("held its clocks back" in t and "gru4rec" in t for t in analysis.problems.threats)
    source = assemble(analysis, tmp_path)
    assert (tmp_path / "energy.svg").is_file()
    text = words_of(source, "table")
    assert "device 8.21 GiB" in text
    assert "device throttled while timing: software power cap" in text
    assert "178 J" in text
    assert "The device held its clocks back while these were timed: gru4rec." in words_of(source, "list")
    assert render(source).startswith(b"%PDF-")
