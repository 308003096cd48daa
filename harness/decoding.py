"""From a YAML file to a typed structure, with errors that name the legal values."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import yaml

from harness.errors import UserError, unknown

_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `([^`]+)`(?: - at `([^`]+)`)?")
_BAD_ENUM = re.compile(r"Invalid enum value '([^']+)'(?: - at `([^`]+)`)?")


def read_yaml(path: Path, kind: Any) -> Any:
    """Read a YAML file as `kind` (a msgspec type).

    Raises:
        UserError: No valid YAML, a key given twice, an unknown key, a value of the wrong type.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {_explain(str(error), kind)}") from None


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML forbids a key given twice; PyYAML silently keeps the last, and a threshold is lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key.value}' is given twice", key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _explain(message: str, kind: Any) -> str:
    """The message of msgspec with the legal values added."""
    if match := _UNKNOWN_FIELD.match(message):
        target = _type_at(kind, match[2] or "$")
        legal = [f.name for f in msgspec.structs.fields(target)] if target is not None else []
        return str(unknown(f"key{_at(match[2])}", match[1], legal))
    if match := _BAD_ENUM.match(message):
        target = _type_at(kind, match[2] or "$")
        return str(unknown(f"value{_at(match[2])}", match[1], [str(a) for a in get_args(target)]))
    return message.replace("$.", "").replace("`$`", "the file")


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
