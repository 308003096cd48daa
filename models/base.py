"""The contract between a model and the harness.

Adding a baseline is one file in this folder: a config, a module, and one `register` line. The
harness owns losses, batches, optimiser and evaluation; models differ in the model and in nothing
else. A stack of blocks can take its frame, and its streaming, from models/stack.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, ClassVar, Literal, Protocol, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.options import Option, Range, Rule
from models.streaming import State

Family = Literal["attention", "recurrent", "state_space", "convolution", "reference"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What every model is built from; a model's own options are fields of a subclass.

    Options must have literal defaults, and annotations that are plain, `Literal[...]` or, with a rule
    of models/options.py, such as `Annotated[int, Range(1)]`: the harness reads them from the source,
    without importing the model, to check a study. An option added when records of the model exist is
    marked `Annotated[int, Added()]`, and its default means "as before".

    Attributes:
        num_items: Catalogue size V; items are 1 … V, 0 is padding.
        max_length: Longest history the model is built for, in events.
        hidden_size: Width D of the hidden states.
        num_layers: Number of blocks.
        dropout: Probability, after the embedding, the mixer and the FFN.

    Raises:
        ValueError: An option outside its range.
    """

    num_items: int
    max_length: int
    hidden_size: Annotated[int, Range(1)] = 64
    num_layers: Annotated[int, Range(1)] = 2
    dropout: Annotated[float, Range(0, below=1)] = 0.2

    def __post_init__(self) -> None:
        """Refuse what a study could not ask for either."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, option in _declared(type(self)).items():
            if words := option.problem(values[name], values):
                raise ValueError(f"{name} is {values[name]!r}; {words}")


def _declared(config: type[ModelConfig]) -> dict[str, Option]:
    """The options of a config class, as the registry reads them from its source."""
    hints, found = get_type_hints(config, include_extras=True), {}
    for field in fields(config):
        hint = hints[field.name]
        kind, *marks = get_args(hint) if get_origin(hint) is Annotated else [hint]
        legal = get_args(kind) if get_origin(kind) is Literal else None
        rules = tuple(mark for mark in marks if isinstance(mark, Rule))
        found[field.name] = Option(field.default, getattr(kind, "__name__", str(kind)), legal, rules)
    return found


@dataclass(frozen=True)
class Cost:
    """Predicted cost of one forward pass, without the head that the harness owns.

    Attributes:
        operations: Floating-point operations (a multiply-add counts two).
        bytes_moved: Bytes read and written by the dominant operators, at float32.
        state: Numbers kept per sequence to continue it by one event.
    """

    operations: float
    bytes_moved: float
    state: float


@dataclass(frozen=True)
class Objective:
    """What a model is trained on, by the harness's names.

    Attributes:
        loss: `cross-entropy`, `sampled-softmax`, `bce` or `gbce`. Models are compared under one
            loss, so a study's loss overrides it; it holds where a study says `loss: declared`.
        batch: `next-item`; `masked-item`, whose mask is item V + 1, so that `item_embedding` has
            V + 2 rows; or `last-item`, one target a sequence at the last real position. A model
            that is not causal cannot take `next-item`. Speed cells ask every model for the hidden
            states of the same full batch, whatever its objective.
    """

    loss: str = "cross-entropy"
    batch: str = "next-item"


class SequenceModel(nn.Module, ABC):
    """A network that turns item histories into hidden states.

    Subclasses set `item_embedding`: an `nn.Embedding(num_items + 1 [+ 1 mask row], hidden_size,
    padding_idx=0)`.
    """

    NAME: ClassVar[str]
    FAMILY: ClassVar[Family]
    CAUSAL: ClassVar[bool]
    CITATION: ClassVar[str]
    CONFIG: ClassVar[type[ModelConfig]]

    item_embedding: nn.Embedding

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def forward(self, items: Tensor, timestamps: Tensor | None = None) -> Tensor:
        """Hidden states of a batch.

        Args:
            items: `[B, L]` int64, 0 = padding on the right, oldest first, L ≤ max_length.
            timestamps: `[B, L]` int64 seconds where the data has them, else None.

        Returns:
            `[B, L, D]`; in a causal model position t depends on items ≤ t only.
        """

    @abstractmethod
    def cost(self, batch: int, length: int) -> Cost:
        """Predicted cost of `forward` on `[batch, length]`; the derivation is in the docstring."""

    def objective(self) -> Objective:
        """What the model is trained on; the default is the next item under full cross-entropy."""
        return Objective()

    def backends(self) -> dict[str, str]:
        """What really ran, by operator (for instance `{"attention": "math"}`), for the record."""
        return {}


class StreamingModel(SequenceModel):
    """A causal model that can also take one event at a time, in what it remembers of the events before.

    `issubclass(model, StreamingModel)` tells. Streaming is inference: no gradients, and no dropout in
    either mode. Scores are the hidden state times the item table, as ever. Weights may change between
    streams, not during one.

    A state is plain (models/streaming.py): it can be saved, and `select`, `stack` and `clone`
    work on it. The users of one batch share one clock: each has seen `state["age"]` events.
    """

    @abstractmethod
    def stream(self, batch: int, limit: int | None = None) -> State:
        """The state before the first event.

        Args:
            batch: Users B.
            limit: Most events a stream will ever have, where that is known: some models then keep
                less. None: as many as the model can take.

        Raises:
            ValueError: A limit that the model cannot keep to.
        """

    @abstractmethod
    def step(self, items: Tensor, state: State) -> Tensor:
        """Take in one event of every user.

        Args:
            items: `[B]` int64, 1 … V.
            state: What `stream`, `prefill` or the last step left; changed in place.

        Returns:
            `[B, D]`: what `forward` gives at the last position of the whole history.

        Raises:
            ValueError: More events than the state was made for.
        """

    @abstractmethod
    def prefill(self, items: Tensor, limit: int | None = None) -> tuple[Tensor, State]:
        """Take in whole histories of equal length in one pass.

        Args:
            items: `[B, L]` int64, 1 … V, without padding, oldest first.
            limit: As for `stream`.

        Returns:
            `[B, L, D]`, as `forward`, and the state after the last event, as if stepped.

        Raises:
            ValueError: Histories longer than the limit.
        """


class Interactions(Protocol):
    """What a `Scorer` is fitted on: the training events, user by user, oldest first."""

    @property
    def num_items(self) -> int:
        """Catalogue size V."""

    @property
    def items(self) -> NDArray[np.int32]:
        """`[N]` item of every event, users one after the other."""

    @property
    def offsets(self) -> NDArray[np.int64]:
        """`[U + 1]`: user u owns `items[offsets[u]:offsets[u + 1]]`."""


class Scorer(ABC):
    """An untrained reference: counts instead of gradients. Family `reference`."""

    NAME: ClassVar[str]
    FAMILY: ClassVar[Family] = "reference"
    CAUSAL: ClassVar[bool] = True
    CITATION: ClassVar[str]

    @abstractmethod
    def fit(self, interactions: Interactions) -> None:
        """Count over the training events."""

    @abstractmethod
    def scores(
        self,
        items: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        """Scores of every item as the next event.

        Args:
            items: `[B, L]` histories, 0 = padding on the right, oldest first.
            lengths: `[B]` number of real events of each row, ≥ 1.

        Returns:
            `[B, V]` float64; column j is item j + 1.
        """


_M = TypeVar("_M", bound=SequenceModel)
_S = TypeVar("_S", bound=Scorer)


def register(
    name: str,
    *,
    family: Family,
    causal: bool,
    citation: str,
    config: type[ModelConfig] = ModelConfig,
) -> Callable[[type[_M]], type[_M]]:
    """Labels the class; the registry finds it by its file, which must be `name` with `-` written as `_`.

    Args:
        name: Name used in studies.
        family: Family the report groups by.
        causal: Whether position t depends on items ≤ t only.
        citation: Paper the equations come from.
        config: The model's own config class.
    """

    def decorate(cls: type[_M]) -> type[_M]:
        cls.NAME, cls.FAMILY, cls.CAUSAL, cls.CITATION, cls.CONFIG = name, family, causal, citation, config
        return cls

    return decorate


def register_reference(name: str, *, citation: str) -> Callable[[type[_S]], type[_S]]:
    """Labels the class of an untrained reference; the registry finds it by its file, as for `register`."""

    def decorate(cls: type[_S]) -> type[_S]:
        cls.NAME, cls.CITATION = name, citation
        return cls

    return decorate


def initialise_embedding(embedding: nn.Embedding, deviation: float = 0.02) -> None:
    """N(0, 0.02) with a zero padding row, as all models share it."""
    nn.init.normal_(embedding.weight, std=deviation)
    if embedding.padding_idx is not None:
        with torch.no_grad():
            embedding.weight[embedding.padding_idx].zero_()
