import factories
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UserError
from harness.records import schema as records
from harness.records.schema import Block, Environment, Provenance, SpeedRecord, Timing


def make(status="ok", seconds=0.5, **changes):
    return SpeedRecord(
        schema_version=records.SCHEMA_VERSION,
        status=status,
        study="tiny",
        label="hyenarec",
        sweep="constant-tokens",
        length=64,
        batch=2,
        replicate=0,
        spec_digest="0" * 8,
        spec=factories.speed_cell("hyenarec", factories.TRUTHS, "constant-tokens", "tokens", 64, 2, 0, ["time"]).spec,
        environment=Environment(cpu="x", cores=1, cores_usable=1, memory_bytes=1, system="s", python="3", packages={}),
        provenance=Provenance(
            git_commit=None, git_dirty=None, started_at="2026-01-01T00:00:00+00:00", source_digest="d"
        ),
        device="cpu",
        precision="float32",
        timing=Timing(paired=True, warmups=[], blocks=[Block(side="model", phase="step", steps=1, seconds=seconds)]),
        **changes,
    )


@given(st.floats(min_value=1e-9, max_value=1e9), st.sampled_from(["ok", "oom", "timeout"]))
def test_round_trip(tmp_path_factory, seconds, status):
    path = tmp_path_factory.mktemp("r") / "a.json"
    record = make(status, seconds)
    assert records.write(record, path) == path
    assert records.read(path) == record


@pytest.mark.parametrize("status", ["killed", "error"])
def test_what_is_not_final_never_takes_the_record_path(tmp_path, status):
    path = tmp_path / "a.json"
    assert records.write(make(status), path) == tmp_path / "a.failed.json"
    assert not path.exists()


def test_no_nan_reaches_the_file(tmp_path):
    path = tmp_path / "a.json"
    records.write(make(seconds=float("nan")), path)
    assert b"NaN" not in path.read_bytes()
    with pytest.raises(UserError, match="seconds"):
        records.read(path)


def test_another_schema_version_is_refused_and_both_are_named(tmp_path):
    path = tmp_path / "a.json"
    value = msgspec.json.decode(records.encode(make()))
    path.write_bytes(msgspec.json.encode({**value, "schema_version": 0}))
    with pytest.raises(UserError, match=rf"schema 0.*schema {records.SCHEMA_VERSION}"):
        records.read(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema_version": 1}', b"\xff\xfe", b'"\x80"'])
def test_damaged_files_give_one_line(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        records.read(path)
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_record_or_a_user_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("r") / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError):
        records.read(path)


def test_a_truncated_record_is_refused(tmp_path):
    path = tmp_path / "a.json"
    records.write(make(), path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match="not a complete JSON file"):
        records.read(path)
