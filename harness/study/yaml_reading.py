"""From a YAML file to a typed structure, with errors that name the legal values."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import yaml
from msgspec import inspect

from harness.errors import UserError, unknown

# What a study's numbers can be; a file with another one is refused before anything is measured.
Count = Annotated[int, msgspec.Meta(ge=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Seed = Annotated[int, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]


# Far beyond any study, and small enough that a file from elsewhere costs neither memory nor time.
_MOST_BYTES, _MOST_VALUES, _DEEPEST = 1 << 18, 100_000, 40

_BOUNDS: tuple[tuple[str, str, Callable[[Any, Any], bool]], ...] = (
    ("ge", "at least", operator.ge),
    ("gt", "above", operator.gt),
    ("le", "at most", operator.le),
    ("lt", "below", operator.lt),
)


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of a study's parts: unknown keys are errors."""


def read_yaml(path: Path, kind: Any) -> Any:
    """Read a YAML file as `kind` (a msgspec type).

    Raises:
        UserError: No valid YAML, a key given twice, an unknown key, a value of the wrong type or out of range; or a
            file that is too large, too deep, or grows too large by its aliases.
    """
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise UserError(f"{path}: {size:,} bytes are too many for a study or a card; at most {_MOST_BYTES:,}")
    try:
        raw = _loaded(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise UserError(f"{path}: nested too deeply; at most {_DEEPEST} levels") from None
    except (yaml.YAMLError, ValueError) as error:
        # ValueError: bytes that are not UTF-8, and what looks like a date and is not one.
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    for place, value in _leaves(raw):
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{path}: {place} is {value}; numbers must be finite")
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        words = _problem(raw, inspect.type_info(kind)) or str(error).replace("$.", "").replace("`$`", "the file")
        raise UserError(f"{path}: {words}") from None


def _loaded(text: str) -> Any:
    loader = _UniqueKeyLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        _count(root, {}, 1)
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _count(node: yaml.Node, known: dict[int, int | None], depth: int) -> int:
    """Values below a node, those behind aliases counted each time they are named.

    Raises:
        YAMLError: Too many, too deep, or a node inside itself.
    """
    if id(node) not in known:
        if depth > _DEEPEST:
            raise _refused(node, f"nested too deeply; at most {_DEEPEST} levels")
        # None while it is being counted.
        known[id(node)] = None
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            parts = node.value
        known[id(node)] = 1 + sum(_count(part, known, depth + 1) for part in parts)
    found = known[id(node)]
    if found is None:
        raise _refused(node, "an alias stands inside what it names; write the values out")
    if found > _MOST_VALUES:
        raise _refused(node, f"more than {_MOST_VALUES:,} values, aliases counted as often as they are named")
    return found


def _refused(node: yaml.Node, words: str) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, words, node.start_mark)


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML forbids a key given twice; PyYAML silently keeps the last, and a threshold is lost."""

    def fetch_flow_collection_start(self, token: type[yaml.Token]) -> None:
        # Here, since its scanner takes a time that grows with the square of the open brackets.
        if self.flow_level >= _DEEPEST:
            words = f"nested too deeply; at most {_DEEPEST} levels"
            raise yaml.scanner.ScannerError(None, None, words, self.get_mark())
        super().fetch_flow_collection_start(token)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be one word", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key.value}' is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _problem(value: Any, kind: inspect.Type, place: str = "") -> str | None:
    """An unknown key, an empty list, or a word or number out of range, with what is legal; None: msgspec says it."""
    parts: Iterable[tuple[Any, inspect.Type, str]] = ()
    match kind, value:
        case inspect.UnionType(), _:
            kinds = [one for one in kind.types if not isinstance(one, inspect.NoneType)]
            parts = [(value, kinds[0], place)] if len(kinds) == 1 and value is not None else []
        case inspect.StructType(), dict():
            fields = {field.encode_name: field.type for field in kind.fields}
            for key in value:
                if key not in fields:
                    return str(unknown(f"key in {place}" if place else "key", str(key), fields))
            parts = [(part, fields[key], _below(place, key)) for key, part in value.items()]
        case inspect.DictType(), dict():
            parts = [(part, kind.value_type, _below(place, key)) for key, part in value.items()]
        case inspect.ListType(), list():
            parts = [(part, kind.item_type, f"{place}[{number}]") for number, part in enumerate(value)]
        case inspect.LiteralType(), str() if value not in kind.values:
            return str(unknown(f"value in {place}", value, map(str, kind.values)))
        case ((inspect.IntType() | inspect.FloatType()), str()) if _is_number(value):
            # YAML takes 1e-3 for text, and 1.0e-3 for a number.
            return f"{place} is the text '{value}'; write {float(value)!r}, without quotes"
        case inspect.ListType(), str() | int() | float():
            return f"{place} must be a list; write [{value}]"
        case ((inspect.IntType() | inspect.FloatType()), int() | float()) if not isinstance(value, bool):
            for bound, words, fits in _BOUNDS:
                limit = getattr(kind, bound)
                if limit is not None and not fits(value, limit):
                    return f"{place} is {value}; it must be {words} {limit:g}"
    if isinstance(kind, inspect.DictType | inspect.ListType) and value in ([], {}) and kind.min_length:
        return f"{place} is empty; name at least one, or leave its section out"
    return next((found for part in parts if (found := _problem(*part)) is not None), None)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _below(place: str, key: Any) -> str:
    return f"{place}.{key}" if place else str(key)


def _leaves(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Values that are no mapping and no list, by their dotted path with list places in brackets."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, _below(place, key))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _leaves(value, f"{place}[{number}]")
    else:
        yield place, node
