import dataclasses
import json
import math

import factories
import msgspec
import numpy as np
import pytest
from scipy import stats

from harness import cli
from harness.analysis import compare as module
from harness.analysis.analyse import analyse
from harness.analysis.compare import Comparison, compare
from harness.analysis.compare_sets import Set
from harness.analysis.evidence import Evidence, against
from harness.analysis.load import Counted, Folder, load
from harness.errors import UserError
from harness.records import schema as record
from harness.records.environment import ROOT
from harness.report.comparison_table import comparison_table
from harness.study.manifest import Manifest, read_manifest
from harness.study.schema import Study

LENGTHS = (256, 512, 1024, 2048)
LABELS = ("hyenarec", "sasrec-sdpa", "gru4rec")
NOISE = {"process_noise": 0.01, "block_noise": 0.01}


def make(path, seed, slower=1.0, label="sasrec-sdpa", **options):
    truths = {k: factories.TRUTHS[k] for k in LABELS}
    law = truths[label].law
    truths[label] = dataclasses.replace(truths[label], law=lambda tokens, length: slower * law(tokens, length))
    options = {"memory": False, "training": False, "noise": NOISE, "lengths": LENGTHS, **options}
    return factories.make_folder(path, truths=truths, rng_seed=seed, **options)


def rows(found, quantity, label=None):
    return [c for c in found.changes if c.quantity == quantity and label in (None, c.label)]


def rewrite(folder, change, kind="speed"):
    for cell in read_manifest(folder).cells:
        if cell.kind == kind and (folder / cell.path).is_file():
            old = record.read(folder / cell.path)
            record.write_atomic(folder / cell.path, record.encode(change(old)))


def test_a_folder_against_itself(tmp_path):
    folder = make(tmp_path, 1, memory=True, training=True)
    found = compare(folder, folder)
    assert (found.changed, found.undecided) == (0, 0)
    assert found.environment == found.only_first == found.only_second == []
    assert {c.quantity for c in found.changes} == {"step-seconds", "speed-up", "peak-bytes", "ndcg@10"}
    assert all(c.ratio == pytest.approx(1) for c in found.changes if c.ratio is not None)
    assert all(c.difference == 0 for c in rows(found, "ndcg@10"))


def test_a_slower_model_is_the_only_change(tmp_path):
    found = compare(make(tmp_path / "a", 1), make(tmp_path / "b", 2, slower=1.6))
    assert {(c.quantity, c.label) for c in found.changes if c.changed} == {
        ("step-seconds", "sasrec-sdpa"),
        ("speed-up", "sasrec-sdpa"),
    }
    own = rows(found, "step-seconds", "sasrec-sdpa")
    assert [c.length for c in own] == list(LENGTHS)
    assert [c.ratio for c in own] == pytest.approx([1.6] * 4, rel=0.05)
    assert all(c.simultaneous[0] < c.interval[0] < 1.6 < c.interval[1] < c.simultaneous[1] for c in own)


def test_the_interval_is_that_of_welch(tmp_path):
    one, two = make(tmp_path / "a", 1), make(tmp_path / "b", 2)
    change = rows(compare(one, two), "step-seconds", "gru4rec")[0]
    values = []
    for folder in (one, two):
        own = [c for c in read_manifest(folder).cells if c.label == "gru4rec" and c.spec.length == 256]
        blocks = [[b for b in record.read(folder / c.path).timing.blocks if b.side == "model"] for c in own]
        values.append(np.log([np.median([b.seconds / b.steps for b in process]) for process in blocks]))
    expected = stats.ttest_ind(values[1], values[0], equal_var=False).confidence_interval(0.95)
    assert change.interval == pytest.approx((math.exp(expected.low), math.exp(expected.high)))
    assert change.counts == (3, 3)


def test_a_change_within_the_noise_floor_is_none(tmp_path):
    quiet = {"process_noise": 1e-4, "block_noise": 1e-4, "drift": 0.0}
    one, two = make(tmp_path / "a", 1, noise=quiet), make(tmp_path / "b", 2, slower=1.05, noise=quiet)
    changes = compare(one, two).changes
    assert {(c.quantity, c.label) for c in changes if c.changed} == {("speed-up", "sasrec-sdpa")}

    def biased(old):
        if old.label != "hyenarec":
            return old
        blocks = [
            msgspec.structs.replace(b, seconds=b.seconds * (1.2 if b.side == "partner" else 1.0))
            for b in old.timing.blocks
        ]
        return msgspec.structs.replace(old, timing=msgspec.structs.replace(old.timing, blocks=blocks))

    rewrite(two, biased)
    found = compare(one, two)
    assert found.second.noise_floors["constant-tokens"] > 1.19 > found.first.noise_floors["constant-tokens"]
    assert found.changed == 0


def test_a_session_that_is_slower_as_a_whole_is_no_change(tmp_path):
    quiet = {"process_noise": 1e-3, "block_noise": 1e-3, "drift": 0.0}
    one, two = make(tmp_path / "a", 1, noise=quiet), make(tmp_path / "b", 2, noise=quiet)

    def slower(old):
        blocks = [msgspec.structs.replace(b, seconds=b.seconds * 1.1) for b in old.timing.blocks]
        return msgspec.structs.replace(old, timing=msgspec.structs.replace(old.timing, blocks=blocks))

    rewrite(two, slower)
    found = compare(one, two)
    assert [c.ratio for c in rows(found, "step-seconds", "gru4rec")] == pytest.approx([1.1] * len(LENGTHS), rel=0.01)
    assert found.changed == 0


def test_without_a_control_nothing_can_be_told(tmp_path):
    absent = {("hyenarec", n) for n in LENGTHS}
    found = compare(make(tmp_path / "a", 1, absent=absent), make(tmp_path / "b", 2, slower=2.0))
    own = rows(found, "step-seconds", "sasrec-sdpa")
    assert {c.changed for c in own} == {None}
    assert all("A/A control" in c.detail for c in own)
    assert found.first.noise_floors == {}
    assert len(found.only_second) == 12


def test_two_processes_cannot_tell(tmp_path):
    found = compare(make(tmp_path / "a", 1, replicates=2), make(tmp_path / "b", 2))
    assert {c.changed for c in found.changes} == {None}
    assert all("fewer than 3 processes" in c.detail for c in found.changes)
    assert {(w.kind, w.number) for w in found.only_second} == {("speed", 2)}
    assert found.changed == 0


def test_a_status_that_differs_is_a_change(tmp_path):
    found = compare(make(tmp_path / "a", 1), make(tmp_path / "b", 2, oom={("gru4rec", 2048)}))
    changed = [c for c in found.changes if c.changed]
    assert [(c.quantity, c.label, c.length) for c in changed] == [("status", "gru4rec", 2048)] * 3
    assert "ok before, oom after" in changed[0].detail
    assert found.common == 36


def test_differences_of_machine_versions_threads_and_sources(tmp_path):
    one, two = make(tmp_path / "a", 1), make(tmp_path / "b", 2)

    def moved(old):
        changes = {"cpu": "Other", "threads": 4, "packages": {**old.environment.packages, "torch": "3.0"}}
        place = msgspec.structs.replace(old.provenance, source_digest="a" * 64, git_commit="b" * 40)
        return msgspec.structs.replace(
            old, environment=msgspec.structs.replace(old.environment, **changes), provenance=place
        )

    rewrite(two, moved)
    found = {d.field: d for d in compare(one, two).environment}
    assert set(found) == {"cpu", "packages.torch", "threads", "source_digest", "git_commit"}
    assert (found["packages.torch"].first, found["packages.torch"].second) == (["2.13.0"], ["3.0"])
    assert found["threads"].cells == 36
    assert found["source_digest"].second == ["a" * 12]


def test_memory_beyond_the_tolerance(tmp_path):
    one = make(tmp_path / "a", 1, speed=False, memory=True)
    two = make(tmp_path / "b", 2, speed=False, memory=True)
    assert compare(one, two).changed == 0

    def fatter(old):
        more = old.memory.peak_bytes + (old.memory.peak_bytes - old.memory.tiny_peak_bytes) // 5
        return msgspec.structs.replace(old, memory=msgspec.structs.replace(old.memory, peak_bytes=more))

    rewrite(two, fatter)
    found = compare(one, two)
    assert found.changed == len(rows(found, "peak-bytes")) == 3 * len(factories.MEMORY_LENGTHS)
    assert all(1.15 < c.ratio < 1.25 for c in found.changes)


def accuracy_pair(tmp_path, aims, seeds):
    folders = []
    for place, aim in enumerate(aims):
        truths = {"hyenarec": dataclasses.replace(factories.HYENAREC, ndcg=aim)}
        folders.append(
            factories.make_folder(
                tmp_path / str(place), truths=truths, speed=False, memory=False, seeds=range(seeds), users=1500,
                rng_seed=place,
            )
        )  # fmt: skip
    return compare(*folders)


def test_accuracy_over_seeds(tmp_path):
    found = {c.label: c for c in accuracy_pair(tmp_path, (0.15, 0.25), 5).changes}
    assert found["hyenarec"].changed is True
    assert found["hyenarec"].difference == pytest.approx(0.1, abs=0.01)
    assert found["hyenarec"].counts == (5, 5)
    assert found["markov"].changed is True, "counting gives the same ranks every time"


def test_one_seed_decides_nothing(tmp_path):
    found = {c.label: c for c in accuracy_pair(tmp_path, (0.15, 0.25), 1).changes}
    assert found["hyenarec"].changed is None
    assert found["hyenarec"].interval[0] > 0


def test_other_splits_do_not_compare(tmp_path):
    one, two = (make(tmp_path / n, 1, speed=False, training=True) for n in "ab")
    rewrite(
        two,
        lambda old: msgspec.structs.replace(
            old, provenance=msgspec.structs.replace(old.provenance, split_sha256="6" * 64)
        ),
        kind="training",
    )
    found = compare(one, two)
    assert {c.changed for c in found.changes} == {None}
    assert all("different splits" in c.detail for c in found.changes)
    assert [d.field for d in found.environment] == ["split_sha256"]


def test_runs_that_collapsed_in_one_set_alone_are_a_change(tmp_path):
    one, two = (make(tmp_path / name, 1, speed=False, training=True, seeds=(0, 1, 2)) for name in "ab")
    collapsed = ["collapsed: ranks no better than popularity"]

    def lost(old):
        return msgspec.structs.replace(old, flags=collapsed) if old.label == "gru4rec" and old.seed != 1 else old

    rewrite(two, lost, "training")
    (change,) = rows(compare(one, two), "status")
    assert (change.label, change.changed, change.detail) == ("gru4rec", True, "collapsed: none before, seed 0, 2 after")
    rewrite(
        two, lambda old: msgspec.structs.replace(old, flags=collapsed) if old.label == "gru4rec" else old, "training"
    )
    (change,) = rows(compare(one, two), "status")
    assert change.detail == "collapsed: none before, seed 0, 1, 2 after"


def test_nothing_in_common_is_a_mistake(tmp_path):
    one = make(tmp_path / "a", 1)
    two = make(tmp_path / "b", 1, lengths=(64,))
    with pytest.raises(UserError, match="no cell in common"):
        compare(one, two)


def in_memory(rng, lengths=LENGTHS):
    chosen = {k: factories.TRUTHS[k] for k in LABELS}
    counted = []
    for label in chosen:
        for n in lengths:
            for replicate in range(3):
                place = factories.speed_cell(
                    label, chosen, "constant-tokens", "tokens", n, 8192 // n, replicate, ["time"]
                )
                found = factories.speed_record(place, chosen, rng, noise={**NOISE, "pairs": 2})
                counted.append(Counted(place, found, "ok", None, False))
    folder = Folder(Manifest(study=Study(name="x"), claims=[], cells=[c.cell for c in counted]), counted, [], [], [])
    return Set(folder, {})


def test_two_measurements_of_the_same_seldom_differ():
    rng = np.random.default_rng(71)
    trials = 60
    false = 0
    for _ in range(trials):
        one, two = in_memory(rng), in_memory(rng)
        found = module._times(one, two, [module._floors(own, own.partner) for own in (one, two)])
        false += any(c.changed for c in found)
    assert false <= 6


# --- the command ----------------------------------------------------------------------------------


def test_exit_codes_and_json(tmp_path, capsys):
    one, two = make(tmp_path / "a", 1), make(tmp_path / "b", 2, slower=1.6)
    assert cli.main(["compare", str(one), str(one)]) == 0
    assert "0 of 20 changed beyond noise" in capsys.readouterr().out
    assert cli.main(["compare", str(one), str(two), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == module.COMPARISON_SCHEMA == 1
    assert set(found) == {
        "schema", "first", "second", "changed", "undecided", "common", "only_first", "only_second", "environment",
        "changes",
    }  # fmt: skip
    assert set(found["changes"][0]) == {
        "quantity", "label", "where", "length", "counts", "changed", "first", "second", "ratio", "difference",
        "interval", "simultaneous", "floor", "detail", "partner",
    }  # fmt: skip
    assert msgspec.convert(found, Comparison).changed == 8
    assert cli.main(["compare", str(one), str(tmp_path / "none")]) == 64
    assert "study.json" in capsys.readouterr().err


def test_the_table_names_what_changed_and_what_is_refused(tmp_path, capsys):
    one, two = make(tmp_path / "a", 1), make(tmp_path / "b", 2, slower=1.6, absent={("gru4rec", 256)})
    broken = next(c for c in read_manifest(one).cells if c.label == "gru4rec" and c.spec.length == 512)
    (one / broken.path).write_text("{")
    assert cli.main(["compare", str(one), str(two)]) == 1
    shown = capsys.readouterr()
    line = next(text for text in shown.out.splitlines() if text.startswith("step-seconds  sasrec-sdpa"))
    assert line.endswith("changed")
    assert "only in the first: speed gru4rec constant-tokens at 256 (3 cells)" in shown.out
    assert "1 files refused" in shown.out
    assert f"{one}/{broken.path}: not a complete JSON file" in shown.err


def test_a_model_that_sees_the_future_is_marked_in_every_row(tmp_path, capsys):
    one, two = make(tmp_path / "a", 1, absent={("gru4rec", 256)}), make(tmp_path / "b", 2)

    def marked(old):
        if old.label != "gru4rec":
            return old
        return msgspec.structs.replace(old, model=msgspec.structs.replace(old.model, causal=False))

    rewrite(one, marked)
    rewrite(two, marked)
    cli.main(["compare", str(one), str(two)])
    shown = capsys.readouterr().out
    assert "only in the second: speed gru4rec (non-causal) constant-tokens at 256" in shown
    own = [change for change in compare(one, two).changes if change.label == "gru4rec"]
    assert shown.count("gru4rec (non-causal)  constant-tokens") == len(own) > 0
    assert shown.count("gru4rec") == shown.count("(non-causal)")


def test_every_challenger_of_a_study_is_compared_beside_its_own_partners():
    """HyenaRec is timed beside three challengers here; what one of them gains over it is no other's."""
    folders = [ROOT / "results" / "reference" / name for name in ("field-cpu", "field-cpu-again")]
    found = compare(*folders)
    assert found.common == sum(row.status != "missing" for row in analyse(folders[0]).records)
    (own,) = [
        c
        for c in found.changes
        if (c.quantity, c.label, c.where, c.partner) == ("speed-up", "sasrec-sdpa", "long", None) and c.length == 8192
    ]
    study = load(folders[0])
    evidence = Evidence(against(study), {})
    (known,) = [p for p in evidence.points("sasrec-sdpa", "long") if p.length == 8192]
    assert own.first == pytest.approx(known.speedup)
    assert own.counts == (3, 3)
    rows = [(c.quantity, c.label, c.where, c.length, c.partner) for c in found.changes]
    assert len(rows) == len(set(rows))
    assert {c.partner for c in found.changes} == {None, "lrurec", "mamba4rec", "hyenarec", "fuxi-linear", "hstu"}
    assert "speed-up of lrurec" in comparison_table(found)
