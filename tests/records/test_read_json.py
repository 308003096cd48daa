"""The one JSON reader: four failures in one line each, and older versions converted."""

import msgspec
import pytest

from harness.errors import UserError
from harness.records import read_json


class Point(msgspec.Struct, forbid_unknown_fields=True):
    schema_version: int
    x: float


def read(path, **more):
    return read_json.read(path, Point, "point", "delete it", version=3, **more)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read (No such file or directory); delete it"),
        (b"{", "not a complete JSON file"),
        (b"\xff", "not a complete JSON file"),
        (b"[" * 100_000, "not a complete JSON file"),
        (b"[]", "not a valid point: it has no schema_version; delete it"),
        (b'{"schema_version": 4}', "point schema 4, this harness reads schema 3; read it with the version that wrote"),
        (b'{"schema_version": 3}', "not a valid point: Object missing required field `x`; delete it"),
    ],
)
def test_a_file_that_is_of_no_use_is_one_line_with_the_remedy(tmp_path, content, words):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert words in message
    assert "\n" not in message


def test_older_versions_are_converted_step_by_step(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"schema_version": 1, "x_in_cm": 200}')
    converters = {
        1: lambda value: {"x_cm": value["x_in_cm"]},
        2: lambda value: {"x": value["x_cm"] / 100},
    }
    assert read(path, converters=converters) == Point(schema_version=3, x=2.0)
    with pytest.raises(UserError, match="point schema 1"):
        read(path, converters={2: converters[2]})
