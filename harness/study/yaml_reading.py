"""From a YAML file to a typed structure, with errors that name the legal values."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import msgspec
import yaml

from harness.errors import UserError, unknown

_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `([^`]+)`(?: - at `([^`]+)`)?")
_OUT_OF_RANGE = re.compile(r"Expected `(?:int|float)` (>=|>|<=|<) ([^ ]+) - at `([^`]+)`")
_EMPTY = re.compile(r"Expected `(?:array|object)` of length >= 1 - at `([^`]+)`")
_RELATIONS = {
    ">=": ("at least", operator.ge),
    ">": ("above", operator.gt),
    "<=": ("at most", operator.le),
    "<": ("below", operator.lt),
}
_BAD_ENUM = re.compile(r"Invalid enum value '([^']+)'(?: - at `([^`]+)`)?")

# What a study's numbers can be; a file with another one is refused before anything is measured.
Count = Annotated[int, msgspec.Meta(ge=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Seed = Annotated[int, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of a study's parts: unknown keys are errors."""


def read_yaml(path: Path, kind: Any) -> Any:
    """Read a YAML file as `kind` (a msgspec type).

    Raises:
        UserError: No valid YAML, a key given twice, an unknown key, a value of the wrong type or out of range.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except (yaml.YAMLError, ValueError) as error:
        # ValueError: bytes that are no UTF-8, and what looks like a date but is none.
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    for place, value in _leaves(raw):
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{path}: {place} is {value}; numbers must be finite")
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {_explain(str(error), kind, raw)}") from None


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML forbids a key given twice; PyYAML silently keeps the last, and a threshold is lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be one word", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key.value}' is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _explain(message: str, kind: Any, raw: Any) -> str:
    """The message of msgspec with the legal values added."""
    if match := _UNKNOWN_FIELD.match(message):
        target = _type_at(kind, match[2] or "$")
        legal = [f.name for f in msgspec.structs.fields(target)] if target is not None else []
        return str(unknown(f"key{_at(match[2])}", match[1], legal))
    if match := _BAD_ENUM.match(message):
        target = _type_at(kind, match[2] or "$")
        return str(unknown(f"value{_at(match[2])}", match[1], [str(a) for a in get_args(target)]))
    if match := _OUT_OF_RANGE.match(message):
        words, fits = _RELATIONS[match[1]]
        found = [(place, v) for place, v in _leaves(raw) if _fits_path(match[3], place) and isinstance(v, int | float)]
        for place, value in found:
            if not fits(value, float(match[2])):
                return f"{place} is {value}; it must be {words} {match[2]}"
    if match := _EMPTY.match(message):
        return f"{match[1].removeprefix('$.')} is empty; name at least one, or leave its section out"
    return message.replace("$.", "").replace("`$`", "the file")


def _leaves(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Values that are no mapping and no list, by their dotted path with list places in brackets."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f"{place}.{key}" if place else str(key))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _leaves(value, f"{place}[{number}]")
    else:
        yield place, node


def _fits_path(path: str, place: str) -> bool:
    """Whether a place is what msgspec means, who writes `$.a[...]` for any value of a mapping."""
    # A key of a mapping may itself hold dots and brackets.
    pattern = re.escape(path.removeprefix("$").removeprefix(".")).replace(r"\[\.\.\.\]", r"(\..+|\[\d+\])")
    return re.fullmatch(pattern, place) is not None


def _at(path: str | None) -> str:
    return f" in {path[2:]}" if path and len(path) > 2 else ""


def _type_at(kind: Any, path: str) -> Any:
    """Follow a path such as `$.speed.sweeps[...].lengths` through the types."""
    for part in re.findall(r"\.(\w+)|(\[[^\]]*\])", path):
        kind = _strip_optional(kind)
        if part[0]:
            kind = get_type_hints(kind).get(part[0]) if isinstance(kind, type) else None
        else:
            arguments = get_args(kind)
            kind = arguments[-1] if arguments else None
    return _strip_optional(kind)


def _strip_optional(kind: Any) -> Any:
    arguments = [a for a in get_args(kind) if a is not type(None)]
    return arguments[0] if type(None) in get_args(kind) and len(arguments) == 1 else kind
