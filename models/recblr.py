"""RecBLR: behaviour-dependent linear recurrent units (Liu et al., CIKM 2024).

A layer is a gated recurrent block and a D → 4D → D network with SiLU, each followed by dropout, residual and
LayerNorm; the item embeddings pass a LayerNorm first. The block, with E = 2D:

    (u, z) = W_in x,   u ← SiLU(conv_4(u)),   (r, i) = W_g u + b_g
    α_t = exp(−softplus(Λ) ⊙ σ(r_t)),   h_t = α_t ⊙ h_{t−1} + √(1 − α_t²) ⊙ σ(i_t) ⊙ u_t
    W_out (SiLU(z) ⊙ h)

Both gates see the input alone, so the recurrence is linear and runs in parallel over time; its states are real. Where
its gate is open, α starts at 0.9 … 0.999. Equations, Λ and the initial weights, N(0, 0.02) without biases but the
convolution's, are those of the authors' code (chengkai-liu/RecBLR).

Departures: no dropout between the layers of the network; ε of the norms is 1e-5, theirs 1e-12; sequences are
padded on the right and not at all for the scan, where theirs are padded on the left to a power of two, with zeros
that the convolution's bias turns into inputs of the recurrence; a chunked or native scan instead of a CUDA kernel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.base import Cost, ModelConfig, StreamingModel, initialise_embedding, register
from models.layers import Dropout, FeedForward, PostNormBlock
from models.ops.scans import native as native_scans
from models.ops.scans.diagonal import diagonal_scan, fused_diagonal_scan, fused_is_available, scan_operations
from models.options import Range
from models.streaming import State, check_limit, own_limit

MIN_FACTOR, MAX_FACTOR = 0.9, 0.999
_INITIAL_DEVIATION = 0.02
# The root has no slope at 0, where the gate is shut and α is 1.
_LEAST_SQUARE = 1e-8


@dataclass(frozen=True, kw_only=True)
class RecBLRConfig(ModelConfig):
    """RecBLR's options.

    Attributes:
        scan: `auto` takes the kernel of the package flash-linear-attention where it is installed and
            the model on a GPU, else our own scan; `chunked` never asks for the package.
        expansion: Channels E per hidden unit.
        convolution_width: Width of the depthwise convolution in events.
    """

    scan: Literal["auto", "chunked"] = "auto"
    expansion: Annotated[int, Range(1)] = 2
    convolution_width: Annotated[int, Range(1)] = 4


class GatedRecurrentUnit(nn.Module):
    """The gated recurrent block."""

    def __init__(self, config: RecBLRConfig) -> None:
        super().__init__()
        width, reach = config.hidden_size, config.convolution_width - 1
        self.scan, self.channels, self.reach = config.scan, config.expansion * width, reach
        self.input = nn.Linear(width, 2 * self.channels, bias=False)
        self.convolution = nn.Conv1d(self.channels, self.channels, reach + 1, groups=self.channels, padding=reach)
        self.gates = nn.Linear(self.channels, 2 * self.channels)
        self.output = nn.Linear(self.channels, width, bias=False)
        # The inverse of softplus, so that softplus(Λ) goes from −log 0.9 to −log 0.999.
        first, last = (math.log(math.expm1(-math.log(factor))) for factor in (MIN_FACTOR, MAX_FACTOR))
        self.rate = nn.Parameter(torch.linspace(first, last, self.channels))
        for layer in (self.input, self.gates, self.output):
            nn.init.normal_(layer.weight, std=_INITIAL_DEVIATION)
        nn.init.zeros_(self.gates.bias)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, L, D]` to `[B, L, D]`."""
        u, z = self.input(x).chunk(2, dim=-1)
        return self._read(self._states(u), z)

    def stream(self, batch: int) -> State:
        """`h`, `[B, E]`, and the last inputs of the convolution, `[B, E, w − 1]`, zero before the first event."""
        weight = self.output.weight
        h = torch.zeros(batch, self.channels, device=weight.device)
        return {"h": h, "inputs": weight.new_zeros(batch, self.channels, self.reach)}

    def step(self, x: Tensor, state: State) -> Tensor:
        """`[B, D]` to `[B, D]`."""
        u, z = self.input(x).chunk(2, dim=-1)
        window = torch.cat((state["inputs"].to(u.dtype), u[..., None]), dim=2)
        state["inputs"] = window[..., 1:]
        taps = self.convolution.weight[:, 0]
        log_factor, driven = self._gated(functional.silu((window * taps).sum(2) + self._bias()))
        state["h"] = log_factor.exp() * state["h"] + driven
        return self._read(state["h"].to(z.dtype), z)

    def prefill(self, x: Tensor) -> tuple[Tensor, State]:
        """`[B, L, D]` to `[B, L, D]`, and the state after the last event."""
        u, z = self.input(x).chunk(2, dim=-1)
        h = self._states(u)
        last = functional.pad(u.transpose(1, 2), (self.reach, 0))[..., x.shape[1] :]
        return self._read(h, z), {"h": h[:, -1].to(torch.float32, copy=True), "inputs": last.clone()}

    def _states(self, u: Tensor) -> Tensor:
        """`[B, L, E]`."""
        convolved = self.convolution(u.transpose(1, 2))[..., : u.shape[1]].transpose(1, 2)
        log_factor, driven = self._gated(functional.silu(convolved))
        if self.uses_fused(u.device):
            return fused_diagonal_scan(log_factor, driven)
        return diagonal_scan(log_factor.exp(), driven)

    def _gated(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Log α and what enters the state, `[..., E]` each; log α in the type of Λ."""
        recurrence, entry = self.gates(u).chunk(2, dim=-1)
        log_factor = -functional.softplus(self.rate) * torch.sigmoid(recurrence)
        # 1 − α², without the cancellation where α is almost 1.
        scale = torch.sqrt(_LEAST_SQUARE - torch.expm1(2 * log_factor))
        return log_factor, scale * torch.sigmoid(entry) * u

    def _read(self, h: Tensor, z: Tensor) -> Tensor:
        y: Tensor = self.output(functional.silu(z) * h)
        return y

    def _bias(self) -> Tensor:
        return cast(Tensor, self.convolution.bias)

    def uses_fused(self, device: torch.device) -> bool:
        """Whether the scan runs in flash-linear-attention's kernel on a device."""
        return self.scan == "auto" and fused_is_available(device)


class _Network(FeedForward):
    """D → 4D → D with SiLU."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 4 * width)
        self.activation = functional.silu
        for layer in (self.inner, self.outer):
            nn.init.normal_(layer.weight, std=_INITIAL_DEVIATION)
            nn.init.zeros_(layer.bias)


class RecurrentLayer(PostNormBlock):
    """`LN(x + drop(unit(x)))`, then `LN(x + drop(ffn(x)))`; also one event at a time."""

    def __init__(self, config: RecBLRConfig) -> None:
        width = config.hidden_size
        super().__init__(width, GatedRecurrentUnit(config), _Network(width), config.dropout)

    @property
    def unit(self) -> GatedRecurrentUnit:
        """The gated recurrent block."""
        return cast(GatedRecurrentUnit, self.mixer)

    def step(self, x: Tensor, state: State) -> Tensor:
        """One event without dropout, `[B, D]` to `[B, D]`."""
        return self._finish(self.unit.step(x, state), x)

    def prefill(self, x: Tensor) -> tuple[Tensor, State]:
        """`forward` without dropout, and the unit's state after the last event."""
        mixed, state = self.unit.prefill(x)
        return self._finish(mixed, x), state

    def _finish(self, mixed: Tensor, x: Tensor) -> Tensor:
        x = self.mixer_norm(x + mixed)
        y: Tensor = self.feed_forward_norm(x + self.feed_forward(x))
        return y


@register(
    "recblr",
    family="recurrent",
    causal=True,
    citation="Liu et al., Behavior-dependent linear recurrent units (RecBLR), CIKM 2024",
    config=RecBLRConfig,
)
class RecBLR(StreamingModel):
    """RecBLR; see the module's docstring for the equations."""

    config: RecBLRConfig

    def __init__(self, config: RecBLRConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.item_embedding = nn.Embedding(config.num_items + 1, width, padding_idx=0)
        initialise_embedding(self.item_embedding)
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(RecurrentLayer(config) for _ in range(config.num_layers))

    def forward(self, items: Tensor, timestamps: Tensor | None = None) -> Tensor:
        """Hidden states `[B, L, D]` of `items` `[B, L]`; timestamps are not used."""
        x: Tensor = self.norm(self.dropout(self.item_embedding(items)))
        for block in self.blocks:
            x = block(x)
        return x

    def stream(self, batch: int, limit: int | None = None) -> State:
        """A block's states and last inputs, as many whatever the limit."""
        blocks = [layer.unit.stream(batch) for layer in self._layers()]
        return {"age": 0, "limit": own_limit(limit), "blocks": blocks}

    @torch.no_grad()
    def step(self, items: Tensor, state: State) -> Tensor:
        """Hidden states `[B, D]` after one more event `[B]`."""
        check_limit(state["age"], 1, state["limit"])
        x: Tensor = self.norm(self.item_embedding(items))
        for layer, own in zip(self._layers(), state["blocks"], strict=True):
            x = layer.step(x, own)
        state["age"] += 1
        return x

    @torch.no_grad()
    def prefill(self, items: Tensor, limit: int | None = None) -> tuple[Tensor, State]:
        """Hidden states `[B, L, D]` of `items` `[B, L]`, and the state after them."""
        limit, length = own_limit(limit), items.shape[1]
        check_limit(0, length, limit)
        x, states = self.norm(self.item_embedding(items)), []
        for layer in self._layers():
            x, own = layer.prefill(x)
            states.append(own)
        return x, {"age": length, "limit": limit, "blocks": states}

    def cost(self, batch: int, length: int) -> Cost:
        """Products, convolution and scan of a forward pass; gates, norms and activations are left out.

        Per block and position, for E channels and a convolution of width w: W_in 4DE, the convolution
        2wE, gates 4E², W_out 2DE, FFN 16D²; the scan's two multiply-adds and one product a channel, and the
        same on a sequence C times shorter for the carries. Bytes: operators read inputs and write outputs
        once, float32; the scan reads its two inputs twice. State: E numbers and w − 1 inputs of the
        convolution a channel and block.
        """
        config, width, layers = self.config, self.config.hidden_size, self.config.num_layers
        channels, reach = config.expansion * width, config.convolution_width
        products = 6.0 * width * channels + 4.0 * channels**2 + 2.0 * reach * channels + 16.0 * width**2
        tokens = batch * length
        operations = tokens * products + batch * channels * scan_operations(length)
        moved = 4.0 * tokens * (18 * width + 26 * channels)
        return Cost(layers * operations, layers * moved, float(layers * channels * reach))

    def backends(self) -> dict[str, str]:
        """The scan: `fla`, `native-scan` or `chunked-scan`."""
        weight = self.item_embedding.weight
        fused = any(layer.unit.uses_fused(weight.device) for layer in self._layers())
        return {"recurrence": "fla" if fused else native_scans.describe(weight)}

    def _layers(self) -> list[RecurrentLayer]:
        return [cast(RecurrentLayer, block) for block in self.blocks]
