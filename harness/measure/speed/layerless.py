"""The part of a training step that every model shares: embedding, head, loss and optimiser, no layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.measure.losses import sampled_softmax
from models.base import SequenceModel


class Rest:
    """A step with everything between the embedding and the loss left out.

    What it costs is not the mixer's: the whole step less this is. The optimiser steps over as many
    numbers as the model has parameters; those of the layers are stand-ins with a fixed gradient, since
    zeros would let Adam's moments decay into denormal numbers, which a CPU multiplies slowly.

    Args:
        model: The model it belongs to; none of its tensors is touched.
        learning_rate: Of the cell.
    """

    def __init__(self, model: SequenceModel, learning_rate: float) -> None:
        embedding = model.item_embedding.weight
        rows, width = embedding.shape
        self._embedding = nn.Embedding(rows, width, padding_idx=0, device=embedding.device, dtype=embedding.dtype)
        with torch.no_grad():
            self._embedding.weight.copy_(embedding)
        self._others: list[nn.Parameter] = []
        for parameter in model.parameters():
            if parameter.requires_grad and parameter is not embedding:
                stand_in = nn.Parameter(torch.zeros_like(parameter))
                stand_in.grad = torch.ones_like(parameter)
                self._others.append(stand_in)
        parameters = [*self._embedding.parameters(), *self._others]
        self._optimiser = torch.optim.Adam(parameters, lr=learning_rate, fused=True)

    def step(self, items: Tensor, targets: Tensor, negatives: Tensor) -> None:
        """Embedding, loss, backward, optimiser step.

        Args:
            items: `[B, L]` identities, 0 for padding.
            targets: `[B·L]` next items.
            negatives: `[N]` shared negatives.
        """
        self._embedding.weight.grad = None
        hidden = self._embedding(items).flatten(0, 1)
        loss = sampled_softmax(hidden, self._embedding.weight, targets, negatives)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
