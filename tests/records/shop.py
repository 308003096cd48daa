"""A small project with most of Python's syntax: `python shop.py FOLDER` prints its digest, by the standard library."""

import sys
from pathlib import Path

from harness.records.program.modules import Modules
from harness.records.program.reach import Program

FILES = {
    "shop/__init__.py": "",
    "shop/till.py": '''
"""A till."""

from __future__ import annotations

import functools
import math as m
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from shop import prices
from shop.deep import round_up as upwards
from shop.errors import ShopError

if TYPE_CHECKING:
    from shop.unused import Unused

RATE: float = 0.19
_seen = 0
_UNREAD = {"a": [1]}


@dataclass(frozen=True, kw_only=True)
class Bill:
    """A bill."""

    total: float
    lines: list[prices.Line] = field(default_factory=list)

    @property
    def rounded(self) -> int:
        return upwards(self.total)


def run(count: int, *names: str, scale: float = 1.0, **rest: Unused) -> Bill:
    """Sell."""
    # A comment.
    global _seen
    from shop import late

    _seen += 1
    if count < 0:
        raise ShopError(f"cannot sell {count} of {', '.join(names)}, " "only more than none")
    tax = prices.net(count) * (1 + RATE)
    table = {name: (y := tax * scale, f"{name!r:>{count}} a" f"b") for name in names if (x := len(name)) > 2}
    match rest:
        case {"mode": "all" | "some" as mode, **others} if others:
            found = [mode, *others]
        case [first, *_]:
            found = [first]
        case _:
            found = []
    try:
        first, *found = late.offers(count)
    except (KeyError, ValueError) as error:
        print(error)
    with open("log") as file:
        file.write(b"\\x00\\xff".hex() + "\\N{SNOWMAN}" + str(x) + repr((1j, 1e300, -0.0, ..., None)))
    return Bill(total=m.sqrt(np.float32(tax)) + y + prices.TABLE["used"](table, found))


def unread():
    return _UNREAD
''',
    "shop/prices.py": """
from shop.deep import Line, log

CHEAP = 1


def net(count):
    return gross(count - 1) if count > 0 else CHEAP


def gross(count):
    return net(count) + 1


def used(*given):
    return 1


def unused(*given):
    return 2


TABLE = {"used": used, "other": unused}
log.append("prices are loaded")
""",
    "shop/deep/__init__.py": "from .maths import *\nfrom .maths import Line as Line\n",
    "shop/deep/maths.py": """
log = []


class Line:
    text: str


def round_up(x):
    return -(-x // 1)


def round_down(x):
    return x // 1


def register(function):
    log.append(function)
    return function


@register
def listed():
    return 3
""",
    "shop/deep/maths.cpp": "int x;\n",
    "shop/late.py": "def offers(count):\n    return [count]\n\n\ndef others(count):\n    return [count]\n",
    "shop/errors.py": "class ShopError(Exception):\n    pass\n",
    "shop/unused.py": "class Unused:\n    pass\n",
}


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def program(folder):
    def find(module):
        base = folder.joinpath(*module.split("."))
        return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)

    return Program(Modules(["shop"], find))


def digest(folder, table="shop.prices.TABLE"):
    shop = program(folder)
    return shop.reach(shop.definitions("shop.till.run"), {table: ["used"]}).digest()


if __name__ == "__main__":
    print(digest(Path(sys.argv[1])))
