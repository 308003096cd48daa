import json
import math
import shutil

import factories
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.analysis.analyse import analyse
from harness.analysis.load import load
from harness.errors import UserError
from harness.records import schema as record

SMALL = {"lengths": (256, 512, 1024), "memory": False, "training": False}


@pytest.fixture
def folder(tmp_path):
    truths = {k: factories.TRUTHS[k] for k in ("hyenarec", "sasrec-sdpa")}
    return factories.make_folder(tmp_path / "study", truths=truths, **SMALL)


def first(folder, label="sasrec-sdpa"):
    return next(c for c in load(folder).manifest.cells if c.label == label)


def edit(path, **changes):
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps(content))


def only_message(folder):
    found = load(folder)
    assert len(found.refused) == 1
    assert len([c for c in found.counted if c.status == "ok"]) == len(found.counted) - 1
    return found.refused[0].message


def test_all_good(folder):
    found = load(folder)
    assert [c.status for c in found.counted] == ["ok"] * 18
    assert not found.failed
    assert not (found.refused)
    assert not found.orphans
    assert all(c.stale is False for c in found.counted)


def test_no_study_is_an_error_that_says_so(tmp_path):
    with pytest.raises(UserError, match=r"study\.json"):
        load(tmp_path)


def test_a_study_without_any_record_loads_and_analyses(tmp_path):
    folder = factories.make_folder(
        tmp_path,
        absent={(k, n) for k in factories.TRUTHS for n in (256, 512)},
        lengths=(256, 512),
        memory=False,
        training=False,
    )
    found = analyse(folder)
    assert {r.status for r in found.records} == {"missing"}
    assert {c.overall.verdict for c in found.claims} == {"missing"}


@pytest.mark.parametrize("keep", [0, 1, 100, -20])
def test_truncated_file(folder, keep):
    path = folder / first(folder).path
    path.write_bytes(path.read_bytes()[:keep])
    assert "not a complete JSON file" in only_message(folder)


def test_message_names_no_folder_of_this_machine(folder):
    path = folder / first(folder).path
    path.write_text("{")
    found = load(folder)
    assert found.refused[0].path == first(folder).path
    assert str(folder) not in found.refused[0].message


@pytest.mark.parametrize(("value", "words"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")])
def test_a_number_that_is_none_is_named_with_its_place(folder, value, words):
    path = folder / first(folder).path
    content = json.loads(path.read_text())
    content["timing"]["blocks"][1]["seconds"] = value
    path.write_text(json.dumps(content))
    message = only_message(folder)
    assert message.startswith(f"timing.blocks[1].seconds is {words}, which no measurement gives; delete it")


@pytest.mark.parametrize(("field", "value"), [("seconds", 0.0), ("seconds", -1.0), ("steps", 0)])
def test_impossible_blocks(folder, field, value):
    path = folder / first(folder).path
    content = json.loads(path.read_text())
    content["timing"]["blocks"][1][field] = value
    path.write_text(json.dumps(content))
    assert "block 1" in only_message(folder)


def test_another_schema_names_both_versions(folder):
    edit(folder / first(folder).path, schema_version=99)
    message = only_message(folder)
    assert "99" in message
    assert str(record.SCHEMA_VERSION) in message


@pytest.mark.parametrize("content", ["[]", "null", "3", '"x"', "{}"])
def test_json_that_is_no_record(folder, content):
    (folder / first(folder).path).write_text(content)
    assert "it has no schema_version" in only_message(folder)


def test_unknown_field(folder):
    edit(folder / first(folder).path, colour="blue")
    assert "colour" in only_message(folder)


def test_a_record_under_the_name_of_another_cell(folder):
    cells = load(folder).manifest.cells
    source = next(c for c in cells if c.label == "sasrec-sdpa")
    target = next(c for c in cells if c.label == "hyenarec")
    shutil.copy(folder / source.path, folder / target.path)
    message = only_message(folder)
    assert source.digest in message
    assert target.digest in message


def test_coordinates_that_contradict_the_spec(folder):
    edit(folder / first(folder).path, length=77)
    assert "length is 77" in only_message(folder)


def test_two_records_of_one_cell_count_once(folder):
    path = folder / first(folder).path
    shutil.copy(path, path.with_name("copy.json"))
    found = load(folder)
    assert len(found.refused) == 1
    assert "second record" in found.refused[0].message
    assert all(c.status == "ok" for c in found.counted)


def test_a_record_without_a_result_is_none(folder):
    edit(folder / first(folder).path, status="killed", detail="by hand")
    message = only_message(folder)
    assert message.startswith("status 'killed' is not a result")
    assert {c.status for c in load(folder).counted if c.record is None} == {"refused"}


def test_a_renamed_record_is_to_be_moved_and_not_deleted(folder):
    path = folder / first(folder).path
    cell = first(folder).path
    path.rename(path.with_name("renamed.json"))
    message = only_message(folder)
    assert message == f"the record of a cell that has none at its own path; move it to {cell}"
    path.with_name("renamed.json").rename(path)
    assert all(c.status == "ok" for c in load(folder).counted)


def test_orphans_are_listed_and_do_not_count(folder):
    path = folder / first(folder).path
    content = json.loads(path.read_text())
    content["spec_digest"] = "deadbeef"
    path.with_name("other-deadbeef.json").write_text(json.dumps(content))
    found = load(folder)
    assert found.orphans == [path.with_name("other-deadbeef.json").relative_to(folder).as_posix()]
    assert not found.refused


def test_failed_records_are_listed_and_give_the_cell_its_status(tmp_path):
    folder = factories.make_folder(tmp_path, failed={("gru4rec", 512)}, **SMALL)
    found = load(folder)
    assert len(found.failed) == 3
    assert {f.status for f in found.failed} == {"error"}
    assert "example of a failure" in found.failed[0].detail
    own = [c for c in found.counted if c.cell.label == "gru4rec" and c.cell.spec.length == 512]
    assert {(c.status, c.record) for c in own} == {("error", None)}


def test_a_damaged_failed_record_is_refused_only(folder):
    path = folder / first(folder).path
    path.with_suffix(record.FAILED_SUFFIX).write_text("{")
    found = load(folder)
    assert [r.path for r in found.refused] == [first(folder).path.removesuffix(".json") + ".failed.json"]
    assert all(c.status == "ok" for c in found.counted)


def test_series_and_half_written_files_are_no_records(folder):
    path = folder / first(folder).path
    path.with_suffix(".series.json").write_text("[]")
    (path.parent / f".{path.name}.abc.part").write_text("{")
    (path.parent / ".hidden.json").write_text("{")
    found = load(folder)
    assert not (found.refused)
    assert not found.orphans
    assert not found.failed


def test_a_folder_in_place_of_a_record(folder):
    path = folder / first(folder).path
    path.unlink()
    path.mkdir()
    assert "cannot be read" in only_message(folder)


def test_stale_records_are_flagged(tmp_path):
    folder = factories.make_folder(tmp_path, stale={"gru4rec"}, **SMALL)
    found = analyse(folder)
    assert len(found.problems.stale) == 9
    assert any("stale" in t for t in found.problems.threats)


def test_a_model_that_is_not_installed_has_unknown_staleness(tmp_path):
    truths = {
        "hyenarec": factories.HYENAREC,
        "elsewhere": factories.Truth("not-here", "attention", factories.linear_law(0.1, 0)),
    }
    folder = factories.make_folder(tmp_path, truths=truths, **SMALL)
    found = {c.cell.label: c.stale for c in load(folder).counted}
    assert found == {"hyenarec": False, "elsewhere": None}


def test_metrics_that_do_not_follow_from_the_ranks(tmp_path):
    folder = factories.make_folder(tmp_path, speed=False, memory=False)
    path = folder / first(folder).path
    content = json.loads(path.read_text())
    content["test"]["metrics"]["ndcg@10"] = 0.9
    path.write_text(json.dumps(content))
    assert "its ranks give" in only_message(folder)


def test_a_rank_below_one(tmp_path):
    folder = factories.make_folder(tmp_path, speed=False, memory=False)
    path = folder / first(folder).path
    content = json.loads(path.read_text())
    content["test"]["ranks"][0] = 0.5
    path.write_text(json.dumps(content))
    assert "rank below 1" in only_message(folder)


@pytest.mark.parametrize("kind", ["speed", "training"])
def test_samples_that_are_those_of_another_record_to_the_last_digit_are_refused(tmp_path, kind):
    folder = factories.make_folder(tmp_path, lengths=(256,), memory=False, seeds=(0, 1))
    one, other = (
        next(
            c.path
            for c in load(folder).counted
            if (c.cell.kind, c.cell.spec.number, c.cell.label) == (kind, n, "gru4rec")
        )
        for n in (0, 1)
    )
    first, second = (json.loads((folder / path).read_text()) for path in (one, other))
    for field in ("timing", "epochs"):
        if field in first:
            second[field] = first[field]
    (folder / other).write_text(json.dumps(second))
    refused = {r.path: r.message for r in load(folder).refused}
    assert set(refused) == {one, other}, "which of them was measured cannot be told"
    assert one in refused[other]
    assert other in refused[one]
    assert {c.status for c in load(folder).counted if c.path in refused} == {"refused"}


def test_order_of_labels_is_that_of_the_study(tmp_path):
    folder = factories.make_folder(tmp_path, lengths=(256,), memory=False)
    assert load(folder).labels() == [*factories.TRUTHS, *factories.REFERENCES]


@given(content=st.binary(max_size=200))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_give_one_message_and_hide_nothing(folder, content):
    path = folder / first(folder).path
    original = path.read_bytes()
    path.write_bytes(content)
    try:
        assert only_message(folder)
    finally:
        path.write_bytes(original)


@given(place=st.integers(0, 10_000), value=st.sampled_from([None, -1, 0, 1e308, 1e-308, "", "x", [], {}, True]))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_changed_value_is_refused_or_analysed(folder, place, value):
    path = folder / first(folder).path
    original = path.read_text()
    content = json.loads(original)
    spots = [(o, key) for o in walk(content) for key in (o if isinstance(o, dict) else range(len(o)))]
    holder, key = spots[place % len(spots)]
    holder[key] = value
    path.write_text(json.dumps(content))
    try:
        found = analyse(folder)
        assert len(found.records) == 18
        assert msgspec.json.decode(record.encode(found), type=type(found)) == found
    finally:
        path.write_text(original)


def walk(value):
    if isinstance(value, dict | list):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from walk(inner)


def test_users_that_do_not_belong_to_the_ranks(tmp_path):
    folder = factories.make_folder(tmp_path, speed=False, memory=False)
    path = folder / first(folder).path
    content = json.loads(path.read_text())
    content["test"]["users"] = [0, 1]
    path.write_text(json.dumps(content))
    assert "ranks, but 2 users to whom they belong" in only_message(folder)


def test_energy_of_no_steps(tmp_path):
    folder = factories.make_folder(tmp_path, **SMALL)
    path = folder / first(folder).path
    content = json.loads(path.read_text())
    content["energy"] = {"seconds": 1.0, "steps": 0, "energy_joules": 5.0}
    path.write_text(json.dumps(content))
    assert "energy of no steps" in only_message(folder)
