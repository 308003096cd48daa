"""What streaming inference remembers, and what can be done with it without knowing the model.

A state is a nest of dicts and lists whose leaves are tensors, whole numbers and None. Every tensor
has the batch first, one row a user. So a state goes through `torch.save` and
`torch.load(weights_only=True)` as it is, and the functions here work on every model's.

Users of one batch share one clock: they must have seen equally many events. `stack` joins states of
equal age only; users of different ages are served in different batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

State = dict[str, Any]


def select(state: State, rows: Sequence[int]) -> State:
    """A new state with the given users, in that order; a user may be named twice.

    Args:
        state: State of B users.
        rows: Rows, 0 … B − 1.
    """
    return _map(lambda tensors: tensors[0][list(rows)], [state])


def stack(states: Sequence[State]) -> State:
    """A new state of all users of several states of equal age, one after the other.

    Raises:
        ValueError: No state, states of unlike age, or states of different models.
    """
    if not states:
        raise ValueError("no state to stack")
    return _map(torch.cat, list(states))


def clone(state: State) -> State:
    """A copy that shares nothing with `state`; `step` changes a state in place."""
    return _map(lambda tensors: tensors[0].clone(), [state])


def numbers(state: State) -> int:
    """Numbers kept for all users together."""
    return sum(tensor.numel() for tensor in _tensors(state))


def own_limit(limit: int | None, longest: int | None = None) -> int | None:
    """The events a stream can take: the limit asked for, else the most that the model can.

    Raises:
        ValueError: A limit below 1, or beyond the longest.
    """
    if limit is not None and (limit < 1 or (longest is not None and limit > longest)):
        legal = "at least 1" if longest is None else f"1 … {longest}, the positions learned"
        raise ValueError(f"limit {limit} must be {legal}; None is as many events as the model can take")
    return longest if limit is None else limit


def check_limit(age: int, events: int, limit: int | None) -> None:
    """Refuse events beyond the limit a stream was made for.

    Raises:
        ValueError: More events than the limit.
    """
    if limit is not None and age + events > limit:
        raise ValueError(
            f"event {age + events} exceeds the limit of {limit} events that this stream was made for; "
            "make it with a larger limit, or with None for an endless one"
        )


def _map(function: Callable[[list[Tensor]], Tensor], states: list[State]) -> State:
    mapped: State = _walk(function, list(states), "state")
    return mapped


def _walk(function: Callable[[list[Tensor]], Tensor], nodes: list[Any], where: str) -> Any:
    first = nodes[0]
    if any(type(node) is not type(first) for node in nodes):
        raise ValueError(f"{where}: the states differ in kind; only states of one model and of equal age can be joined")
    if isinstance(first, Tensor):
        return function(nodes)
    if isinstance(first, dict):
        if any(node.keys() != first.keys() for node in nodes):
            raise ValueError(f"{where}: the states hold different entries; only states of equal age can be joined")
        return {key: _walk(function, [node[key] for node in nodes], f"{where}.{key}") for key in first}
    if isinstance(first, list):
        if any(len(node) != len(first) for node in nodes):
            raise ValueError(f"{where}: lists of unlike length; only states of one model can be joined")
        return [
            _walk(function, list(items), f"{where}.{place}") for place, items in enumerate(zip(*nodes, strict=True))
        ]
    if any(node != first for node in nodes):
        values = ", ".join(str(value) for value in dict.fromkeys(nodes))
        raise ValueError(f"{where} is {values}; only states of equal age can be joined, serve the others apart")
    return first


def _tensors(node: Any) -> list[Tensor]:
    if isinstance(node, Tensor):
        return [node]
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return [tensor for child in children for tensor in _tensors(child)]
