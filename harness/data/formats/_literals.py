"""A line that is a Python dict, as older dumps of reviews have them: `{'asin': '01', 'overall': 5.0}`, `{u'user': …}`.

It is parsed and never run.
"""

from __future__ import annotations

import ast


def parsed(line: str) -> dict[str, str | list[object] | None]:
    """Texts of a dict by their names, numbers as they are written, since an id must not pass through a float.

    Returns:
        None stands for None, and an empty list for whatever else is neither text nor a number.

    Raises:
        ValueError: Something else than a dict whose names are text.
    """
    line = line.strip()
    try:
        found = ast.parse(line, mode="eval").body
    except (SyntaxError, MemoryError) as error:
        raise ValueError(getattr(error, "msg", "too deep")) from None
    if not isinstance(found, ast.Dict):
        raise ValueError("no dict")
    named: dict[str, str | list[object] | None] = {}
    for name, value in zip(found.keys, found.values, strict=True):
        if not isinstance(name, ast.Constant) or not isinstance(name.value, str):
            raise ValueError("a name that is not text")
        named[name.value] = _text(line, value)
    return named


def _text(line: str, value: ast.expr) -> str | list[object] | None:
    if isinstance(value, ast.Constant):
        if value.value is None or isinstance(value.value, str):
            return value.value
        if type(value.value) in (int, float):
            return ast.get_source_segment(line, value)
    if isinstance(value, ast.UnaryOp):
        return ast.get_source_segment(line, value)
    return []
