"""What an option of a model may be, as data in its annotation.

    kernel_order: Annotated[int, Range(1)] = 16

A study is checked without torch, so the registry reads these from a model's source and a config checks
itself when it is made; both ask `Option.problem`. Arguments are literals.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_TYPES: dict[str, Any] = {"int": int, "float": (int, float), "bool": bool, "str": str}
MAX_HEAD_WIDTH = 64


class Rule(ABC):
    """A condition on the value of an option."""

    @abstractmethod
    def problem(self, value: Any, options: Mapping[str, Any]) -> str | None:
        """What is wrong with a value, given all options; None if nothing is."""


@dataclass(frozen=True)
class Range(Rule):
    """A number from `least` on, and below `below` where that is given."""

    least: float
    below: float | None = None

    def problem(self, value: Any, options: Mapping[str, Any]) -> str | None:
        """What is wrong with a value, given all options; None if nothing is."""
        if value >= self.least and (self.below is None or value < self.below):
            return None
        return f"it must be at least {self.least}" + ("" if self.below is None else f" and below {self.below}")


@dataclass(frozen=True)
class Heads(Rule):
    """A number of attention heads, see `head_count`; they must divide the option that `width` names."""

    width: str = "hidden_size"

    def problem(self, value: Any, options: Mapping[str, Any]) -> str | None:
        """What is wrong with a value, given all options; None if nothing is."""
        if value < 1:
            return "it must be at least 1"
        heads = head_count(options[self.width], value)
        if options[self.width] % heads == 0:
            return None
        return f"{self.width} {options[self.width]} must be a multiple of its {heads} heads"


@dataclass(frozen=True)
class Added:
    """Marks an option that was added when records of its model existed already.

    Its default must mean "as before". It stands in a cell's spec only where it differs from that, so the
    cells measured before keep their keys.
    """


def head_count(width: int, asked: int) -> int:
    """Heads for a layer of `width`: as many as asked, more where one would be wider than 64."""
    return max(asked, math.ceil(width / MAX_HEAD_WIDTH))


@dataclass(frozen=True)
class Option:
    """One option of a model.

    Attributes:
        default: Its default.
        type_name: Name of its type; only `int`, `float`, `bool` and `str` are checked.
        legal: Its legal values, where its type lists them.
        rules: What else must hold.
        added: Whether it is marked as `Added`.
    """

    default: Any
    type_name: str
    legal: tuple[Any, ...] | None = None
    rules: tuple[Rule, ...] = ()
    added: bool = False

    def problem(self, value: Any, options: Mapping[str, Any]) -> str | None:
        """What is wrong with a value, given all options of the model; None if nothing is."""
        if self.legal is not None:
            return None if value in self.legal else f"it must be one of {', '.join(map(str, self.legal))}"
        expected = _TYPES.get(self.type_name)
        if expected is not None and (
            not isinstance(value, expected) or (isinstance(value, bool) and self.type_name != "bool")
        ):
            return f"it must be of type {self.type_name}"
        if isinstance(value, float) and not math.isfinite(value):
            return "it must be finite"
        found = (rule.problem(value, options) for rule in self.rules)
        return next((words for words in found if words is not None), None)
