"""FMLP-Rec: an all-MLP model with learned filters (Zhou et al., WWW 2022, equations 3 to 9).

    F = FFT(x),   x ← LN(x + drop(FFT⁻¹(W ⊙ F))),   x ← LN(x + drop(FFN(x))),   FFN: D → 4D → D, GELU

The transform runs over the whole window of max_length events and W has one complex number a
frequency and channel: a circular convolution as long as the window. Every position therefore sees
all others: the model is **not causal**, and can be trained on one target a sequence only.

The paper pads on the left. A circular convolution commutes with shifting, so right padding gives
the same states as long as positions are counted back from the last event, as they are here: the
last event always has the last position.

Norms, dropout, GELU and the filters' N(0, 0.02) are those of the authors' code (Woeee/FMLP-Rec).

Departures: padding is zeroed before every filter, so that it carries nothing, where theirs lets
positions, norms and biases fill it; linear layers start as torch's do, theirs from N(0, 0.02) and zero
biases; ε of the norms is 1e-5, theirs 1e-12; one prefix of a history an epoch, theirs all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from models.base import Cost, ModelConfig, Objective, SequenceModel, initialise_embedding, register
from models.layers import Dropout, FeedForward, PostNormBlock


def filter_sequences(x: Tensor, weight: Tensor) -> Tensor:
    """Circular convolution by its spectrum, `irfft(weight ⊙ rfft(x))`, over dimension 1.

    Computed in float32 (float64 for float64 inputs), also under autocast.

    Args:
        x: `[B, W, D]`.
        weight: `[W//2 + 1, D, 2]`, real and imaginary part.

    Returns:
        `[B, W, D]` in the type of `x`.
    """
    working = torch.float64 if x.dtype == torch.float64 else torch.float32
    with torch.autocast(x.device.type, enabled=False):
        y = _spectral_filter(x.to(working), weight.to(working))
    return y.to(x.dtype)


class _SpectralFilter(torch.autograd.Function):
    """Written out, as autograd differentiates a real transform through a complex one of full length."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(x, dim=1)
        ctx.save_for_backward(spectrum, weight)
        ctx.window = x.shape[1]
        y: Tensor = torch.fft.irfft(spectrum * torch.view_as_complex(weight), ctx.window, dim=1)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        spectrum, weight = ctx.saved_tensors
        outer = torch.fft.rfft(gradient, dim=1)
        filtered = outer * torch.view_as_complex(weight).conj_physical()
        cross = torch.view_as_real((outer * spectrum.conj_physical()).sum(0))
        # Each frequency but the first, and the last of an even window, stands for its mirror too.
        cross = cross * (2 / ctx.window)
        alone = [0, -1] if ctx.window % 2 == 0 else [0]
        cross[alone] /= 2
        # irfft does not read the imaginary part of frequencies that are their own mirror.
        cross[alone, :, 1] = 0
        return torch.fft.irfft(filtered, ctx.window, dim=1), cross


# torch leaves `apply` untyped.
_spectral_filter: Callable[..., Tensor] = _SpectralFilter.apply


class FilterLayer(nn.Module):
    """One learned filter a channel."""

    def __init__(self, width: int, window: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(window // 2 + 1, width, 2) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, W, D]` to `[B, W, D]`."""
        return filter_sequences(x, self.weight)


@register(
    "fmlp-rec",
    family="convolution",
    causal=False,
    citation="Zhou et al., Filter-enhanced MLP is all you need for sequential recommendation, WWW 2022",
)
class FMLPRec(SequenceModel):
    """FMLP-Rec; see the module's docstring for the equations.

    Raises:
        ValueError: In `forward`, a sequence longer than the window.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        width, window = config.hidden_size, config.max_length
        self.item_embedding = nn.Embedding(config.num_items + 1, width, padding_idx=0)
        self.position_embedding = nn.Embedding(window, width)
        initialise_embedding(self.item_embedding)
        initialise_embedding(self.position_embedding)
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            PostNormBlock(width, FilterLayer(width, window), FeedForward(width, 4 * width), config.dropout)
            for _ in range(config.num_layers)
        )

    def forward(self, items: Tensor, timestamps: Tensor | None = None) -> Tensor:
        """Hidden states `[B, L, D]` of `items` `[B, L]`; timestamps are not used."""
        length, window = items.shape[1], self.config.max_length
        if length > window:
            raise ValueError(f"length {length} exceeds max_length {window}, the window of the filters")
        padded = functional.pad(items, (0, window - length))
        real = padded != 0
        counts = real.sum(1, keepdim=True)
        positions = (window - counts + torch.arange(window, device=items.device)).clamp(max=window - 1)
        x: Tensor = self.dropout(self.norm(self.item_embedding(padded) + self.position_embedding(positions)))
        for block in self.blocks:
            x = block(x * real[..., None])
        return x[:, :length]

    def objective(self) -> Objective:
        """The last item of every sequence, from those before it."""
        return Objective(loss="cross-entropy", batch="last-item")

    def cost(self, batch: int, length: int) -> Cost:
        """Matrix products and transforms of a forward pass; norms and activations are left out.

        The length does not matter: all W = max_length positions are computed. Per block: FFN 16D²
        a position, two real transforms of 2.5 W log₂ W a channel, and 6 operations for each of its
        W/2 complex products. Bytes: operators read inputs and write outputs once, float32. State:
        the window's inputs of every block, as all states change with every event.
        """
        width, window, layers = self.config.hidden_size, self.config.max_length, self.config.num_layers
        transforms = 2 * 2.5 * math.log2(max(window, 2)) + 3.0
        operations = batch * window * (16.0 * width * width + transforms * width)
        moved = 4.0 * batch * window * 20 * width
        return Cost(layers * operations, layers * moved, float(layers * window * width))

    def backends(self) -> dict[str, str]:
        """How the filters run."""
        return {"filter": "fft"}
