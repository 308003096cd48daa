"""The frame that most models share: items embedded, a stack of blocks, a norm; and how such a stack streams.

    x = drop(s · E[items] + P[t]),   x ← block_n(x),  n = 1 … num_layers,   hidden = LN(x)

A model of this shape names its block and is otherwise its own equations; one of another shape derives from
`SequenceModel` itself. This file is no model.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from models.base import ModelConfig, SequenceModel, StreamingModel, initialise_embedding
from models.layers import Dropout, ResidualBlock, StreamingMixer
from models.streaming import State, check_limit, own_limit


class BlockStack(SequenceModel):
    """A model that is the module's equations, with `block()` for its blocks.

    Attributes:
        SCALED: Whether s = √D; else 1.
        POSITIONS: Whether there are learned positions P, one for each of `max_length` events; else P = 0.
    """

    SCALED: ClassVar[bool] = False
    POSITIONS: ClassVar[bool] = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.item_embedding = nn.Embedding(config.num_items + 1, width, padding_idx=0)
        if self.POSITIONS:
            self.position_embedding = nn.Embedding(config.max_length, width)
        initialise_embedding(self.item_embedding)
        if self.POSITIONS:
            initialise_embedding(self.position_embedding)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(self.block() for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(width)

    @abstractmethod
    def block(self) -> nn.Module:
        """A new block, `[B, L, D]` to `[B, L, D]`, from `self.config`."""

    def forward(self, items: Tensor, timestamps: Tensor | None = None) -> Tensor:
        """Hidden states `[B, L, D]` of `items` `[B, L]`; timestamps are not used.

        Raises:
            ValueError: A sequence longer than the positions learned.
        """
        return self._through(items)

    def _through(self, items: Tensor, *context: Tensor | None) -> Tensor:
        """`forward`, with `context` to every block as it is."""
        x = self.dropout(self._embedded(items))
        for block in self.blocks:
            x = block(x, *context)
        hidden: Tensor = self.norm(x)
        return hidden

    def _embedded(self, items: Tensor) -> Tensor:
        """`s · E[items] + P[t]`, `[B, L, D]` of `[B, L]`."""
        x = self._scaled(items)
        if not self.POSITIONS:
            return x
        length, learned = items.shape[1], self.config.max_length
        if length > learned:
            raise ValueError(f"length {length} exceeds max_length {learned}, the positions learned")
        return x + self.position_embedding.weight[:length]

    def _scaled(self, items: Tensor) -> Tensor:
        x: Tensor = self.item_embedding(items)
        return x * math.sqrt(self.config.hidden_size) if self.SCALED else x


class StreamingStack(BlockStack, StreamingModel):
    """A stack of `ResidualBlock`s whose mixers are `StreamingMixer`s.

    A state is `{"age", "limit", "blocks": one state a mixer}`.
    """

    @abstractmethod
    def block(self) -> ResidualBlock:
        """A new block with a `StreamingMixer`, from `self.config`."""

    def stream(self, batch: int, limit: int | None = None) -> State:
        """What the mixers remember; with learned positions a stream takes `max_length` events at most."""
        limit = self._limit(limit)
        mixers = [cast(StreamingMixer, block.mixer) for block in self._blocks()]
        return {"age": 0, "limit": limit, "blocks": [mixer.stream(batch, limit) for mixer in mixers]}

    @torch.no_grad()
    def step(self, items: Tensor, state: State) -> Tensor:
        """Hidden states `[B, D]` after one more event `[B]`."""
        check_limit(state["age"], 1, state["limit"])
        x = self._scaled(items)
        if self.POSITIONS:
            x = x + self.position_embedding.weight[state["age"]]
        for block, own in zip(self._blocks(), state["blocks"], strict=True):
            x = block.step(x, own)
        state["age"] += 1
        hidden: Tensor = self.norm(x)
        return hidden

    @torch.no_grad()
    def prefill(self, items: Tensor, limit: int | None = None) -> tuple[Tensor, State]:
        """Hidden states `[B, L, D]` of `items` `[B, L]`, and the state after them."""
        limit, length = self._limit(limit), items.shape[1]
        check_limit(0, length, limit)
        x, states = self._embedded(items), []
        for block in self._blocks():
            x, own = block.prefill(x, limit)
            states.append(own)
        return self.norm(x), {"age": length, "limit": limit, "blocks": states}

    def _limit(self, limit: int | None) -> int | None:
        return own_limit(limit, self.config.max_length if self.POSITIONS else None)

    def _blocks(self) -> list[ResidualBlock]:
        return [cast(ResidualBlock, block) for block in self.blocks]
