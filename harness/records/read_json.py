"""The one reader of the JSON files that this project writes or asks for. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from harness.errors import UserError, in_one_line

# What a converter raises over a file that is not what its version promises.
_UNCONVERTIBLE = (AttributeError, LookupError, TypeError, ValueError)
Converter = Callable[[dict[str, Any]], dict[str, Any]]


def read(
    path: Path,
    kind: Any,
    what: str,
    remedy: str,
    *,
    version: int | None = None,
    field: str = "schema_version",
    converters: Mapping[int, Converter] | None = None,
) -> Any:
    """Read one file.

    A version may rise only together with a converter from the one before, so that no measurement is lost.

    Args:
        path: The file.
        kind: What it holds, a msgspec type.
        what: Its name in messages, such as `record`.
        remedy: What to type or do where it cannot be used, in the imperative.
        version: The version that `kind` is; None: files without one.
        field: Where a file says its version.
        converters: By version, what makes a file of it one of the next.

    Raises:
        UserError: It cannot be read, is not complete JSON, is of another version, or does not fit; one line each.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    try:
        value = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not a complete JSON file ({error}); {remedy}") from None
    try:
        if version is None:
            return msgspec.json.decode(content, type=kind)
        found = value.get(field) if isinstance(value, dict) else None
        if found == version:
            return msgspec.json.decode(content, type=kind)
        while isinstance(found, int) and found in (converters or {}):
            value, found = (converters or {})[found](value), found + 1
        if found == version:
            return msgspec.convert({**value, field: version}, kind)
    except (msgspec.ValidationError, *_UNCONVERTIBLE) as error:
        raise UserError(f"{path}: not a valid {what}: {in_one_line(error)}; {remedy}") from None
    if found is None:
        raise UserError(f"{path}: not a valid {what}: it has no {field}; {remedy}")
    raise UserError(
        f"{path}: {what} schema {in_one_line(found)}, this harness reads schema {version}; "
        f"read it with the version that wrote it, or {remedy}"
    )
