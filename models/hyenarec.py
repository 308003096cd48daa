"""HyenaRec: Hyena blocks whose long convolutions have Legendre kernels (arXiv 2603.25027).

Public are the abstract and summaries, not the full text: item embedding, a stack of Hyena blocks
(Poli et al., ICML 2023), kernels built from Legendre polynomials, gated convolutions. The rest is
our reading, each choice an option.

One block is

    x ← x + W_o z + b_o,          z = Hyena(LN(x))
    x ← x + FFN(LN(x)),           FFN: D → 4D → D with GELU

and the Hyena operator of order N, channel by channel, with a short causal convolution s:

    (x_1, …, x_N, v) = s ∗ (W_i LN(x) + b_i)
    z_1 = v;   z_{n+1} = h_n ∗ u_n + δ_n ⊙ u_n,  u_n = x_n ⊙ z_n,  n = 1 … N − 1;   z = x_N ⊙ z_N
    h_{n,d}(τ) = e^{−a_{n,d} τ} Σ_{k<K} c_{n,d,k} P_k(2τ/(W−1) − 1),  0 ≤ τ < W,  a ≥ 0

With `gates: parallel` there is one gate beside the convolutions, as in a gated linear unit:

    (x_1, v) = s ∗ (W_i LN(x) + b_i),    z = σ(x_1) ⊙ (h_{N−1} ∗ … h_1 ∗ v),  each h_n with its δ_n

W is the model's maximum length, never the batch's: else the same weights would mean another kernel
at another length. There are no positions outside the kernels. An FFT convolution is O(L log L);
the tree, which needs Legendre coefficients (times an exponential), is O(L) and exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from models.base import Cost, ModelConfig, register
from models.layers import FeedForward, ResidualBlock
from models.ops.build import accelerated
from models.ops.build.untraced import untraced
from models.ops.convolution import cost as convolution_cost
from models.ops.convolution.causal import causal_convolution, describe_backend, select_backend
from models.ops.convolution.parameterisations import PolynomialKernel, build_parameterisation
from models.ops.convolution.short import gated_short_convolution, short_convolution
from models.ops.convolution.streams.base import ConvolutionStream
from models.ops.convolution.streams.legendre import convolution_stream, stream_numbers
from models.ops.convolution.streams.ring import RingStream
from models.ops.legendre.taps import ExplicitKernel, Kernel
from models.options import Range
from models.stack import StreamingStack
from models.streaming import State

# Limits for which a model keeps tables at a time.
MAX_PREPARED = 4


@dataclass(frozen=True, kw_only=True)
class HyenaRecConfig(ModelConfig):
    """HyenaRec's options.

    Attributes:
        kernel: Parameterisation of the long convolution; see models/ops/convolution/parameterisations.py.
        kernel_order: Number K of polynomials, or of what stands in their place.
        kernel_decay: Whether kernels carry the factor e^{−aτ}; `explicit` and `exponential` never do.
        convolution: Backend; `auto` is `dense` for short sequences and `tree` beyond, `fft` where
            the kernel is no Legendre kernel, or its K too large or the batch too small for them to pay.
        order: Order N of the Hyena operator: N gates, N − 1 long convolutions.
        short_convolution: Width of the short convolution in events; 0 leaves it out.
        gates: Whether the gates x_1 … x_N exist, without them their projections go too; or `parallel`,
            one gate beside the convolutions.
        feed_forward: Hidden width of the feed-forward network, in units of D.
        initialisation: `open`: gates start at 1, the short convolution at the identity, kernels
            smooth and positive, δ at 0. `plain`: torch's defaults, random kernels, δ from N(0, 1)
            as in Hyena. Kernels start with ‖h‖₂ = 1 either way.
    """

    kernel: Literal["legendre", "chebyshev", "legendre-mlp", "fourier-mlp", "explicit", "exponential"] = "legendre"
    kernel_order: Annotated[int, Range(1)] = 16
    kernel_decay: bool = True
    convolution: Literal["auto", "fft", "tree", "dense"] = "auto"
    order: Annotated[int, Range(2)] = 2
    short_convolution: Annotated[int, Range(0)] = 3
    gates: Literal[True, False, "parallel"] = True
    feed_forward: Annotated[int, Range(1)] = 4
    initialisation: Literal["open", "plain"] = "open"

    @property
    def gate_count(self) -> int:
        """Streams besides v."""
        return 1 if self.gates == "parallel" else self.order if self.gates else 0


class LongConvolution(nn.Module):
    """One long convolution `h ∗ u + δ ⊙ u` with its kernel's parameters."""

    def __init__(self, config: HyenaRecConfig) -> None:
        super().__init__()
        self.backend = config.convolution
        self.kernel = build_parameterisation(
            config.kernel,
            config.hidden_size,
            config.max_length,
            config.kernel_order,
            decay=config.kernel_decay,
            initialisation=config.initialisation,
        )

    def forward(self, u: Tensor) -> Tensor:
        """`[D, B, L]` to `[D, B, L]`."""
        return causal_convolution(u, self.kernel(), backend=self.backend, check=False)


class _Prepared(NamedTuple):
    """The streams of one operator, and the weights they were made from."""

    versions: list[tuple[int, int]]
    weights: list[Tensor]
    short: ConvolutionStream | None
    kernels: list[ConvolutionStream]


class HyenaOperator(nn.Module):
    """The gated operator of order N; activations are channel-major inside."""

    def __init__(self, config: HyenaRecConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.gates, self.parallel = config.gate_count, config.gates == "parallel"
        self.projection = nn.Linear(width, (self.gates + 1) * width)
        self.kernels = nn.ModuleList(LongConvolution(config) for _ in range(config.order - 1))
        self.output = nn.Linear(width, width)
        self._prepared: dict[int | None, _Prepared] = {}
        self.short = None
        if config.short_convolution:
            taps = torch.empty((self.gates + 1) * width, config.short_convolution)
            self.short = nn.Parameter(nn.init.uniform_(taps, -(taps.shape[1] ** -0.5), taps.shape[1] ** -0.5))
        if config.initialisation == "open":
            with torch.no_grad():
                self.projection.weight[: self.gates * width].normal_(std=0.02)
                self.projection.bias[: self.gates * width].fill_(1.0)
                if self.short is not None:
                    self.short.zero_()[:, 0] = 1.0

    def forward(self, x: Tensor) -> Tensor:
        """`[B, L, D]` to `[B, L, D]`."""
        streams = self._project(x)
        if not self._fuses(streams):
            return self._leave(self._mix(streams, []))
        (convolution,) = cast(list[LongConvolution], list(self.kernels))
        return self._leave(_fused(streams, convolution.kernel(), cast(Tensor, self.short)))

    def _project(self, x: Tensor) -> Tensor:
        """`[B, L, D]` to the gates and v, `[G + 1, D, B, L]`.

        W Xᵀ lands channel-major, and `_leave` reads the transpose: no layout copies.
        """
        batch, length, width = x.shape
        flat = torch.addmm(self.projection.bias[:, None], self.projection.weight, x.reshape(-1, width).t())
        return flat.view(-1, width, batch, length)

    def _leave(self, z: Tensor) -> Tensor:
        """`[D, B, L]` to `[B, L, D]`."""
        y: Tensor = self.output(z.reshape(len(z), -1).t())
        return y.view(*z.shape[1:], -1)

    def _mix(self, streams: Tensor, inputs: list[Tensor]) -> Tensor:
        """Streams to `[D, B, L]`; leaves the input of every convolution, the short one first, in `inputs`."""
        if self.short is not None:
            inputs.append(streams.flatten(0, 1))
        z, gates = self._gated(streams)
        for kernel, gate in zip(self.kernels, gates, strict=True):
            inputs.append(z)
            z = kernel(z)
            if gate is not None:
                z = gate * z
        return z

    def _fuses(self, streams: Tensor) -> bool:
        """Whether one Triton kernel does all of `_mix`: on such a GPU, of order 2, where the product is dense."""
        if not accelerated.available(streams.device) or self.gates != 2 or self.short is None:
            return False
        from models.ops.convolution import triton_dense

        length, (convolution,) = streams.shape[3], cast(list[LongConvolution], list(self.kernels))
        # Whether the product is dense does not depend on the kernel, which takes a launch or more to compute.
        name = select_backend(convolution.backend, length, streams.device)
        narrow = self.short.shape[1] <= triton_dense.MAX_SHORT_WIDTH
        return name == "dense" and narrow and triton_dense.supports(length, streams.dtype)

    def _gated(self, streams: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """`[G + 1, D, B, L]` to what `_opened` gives, behind the short convolution."""
        if self.short is not None:
            if self.gates and not self.parallel:
                first, *after = gated_short_convolution(streams, self.short.view(*streams.shape[:2], -1))
                return first, [*after]
            streams = short_convolution(streams.flatten(0, 1), self.short).view_as(streams)
        *gates, value = streams.unbind(0)
        return self._opened(gates, value)

    def _opened(self, gates: list[Tensor], value: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """The first long convolution's input, and what multiplies each one's output; None: nothing does."""
        if self.gates and not self.parallel:
            return gates[0] * value, [*gates[1:]]
        last = torch.sigmoid(gates[0]) if self.parallel else None
        return value, [*[None] * (len(self.kernels) - 1), last]

    def stream(self, batch: int, limit: int | None) -> State:
        """The limit, and what each convolution remembers."""
        short, kernels = self._streams(limit, begins=True)
        first = None if short is None else short.start(batch)
        return {"limit": limit, "short": first, "kernels": [kernel.start(batch) for kernel in kernels]}

    def step(self, x: Tensor, state: State) -> Tensor:
        """`[B, D]` to `[B, D]`."""
        short, kernels = self._streams(state["limit"])
        flat = self.projection(x)
        if short is not None:
            flat = short.step(flat, state["short"])
        *gates, value = flat.view(len(x), -1, x.shape[1]).unbind(1)
        z, after = self._opened(gates, value)
        for kernel, own, gate in zip(kernels, state["kernels"], after, strict=True):
            z = kernel.step(z, own)
            if gate is not None:
                z = gate * z
        y: Tensor = self.output(z)
        return y

    def prefill(self, x: Tensor, limit: int | None) -> tuple[Tensor, State]:
        """`[B, L, D]` to `[B, L, D]`, as `forward`, and the state after the last event."""
        inputs: list[Tensor] = []
        y = self._leave(self._mix(self._project(x), inputs))
        short, kernels = self._streams(limit, begins=True)
        first = None if short is None else short.prefill(inputs.pop(0))
        past = [kernel.prefill(own) for kernel, own in zip(kernels, inputs, strict=True)]
        return y, {"limit": limit, "short": first, "kernels": past}

    def _streams(
        self, limit: int | None, *, begins: bool = False
    ) -> tuple[ConvolutionStream | None, list[ConvolutionStream]]:
        """The convolutions one event at a time, tabulated anew where a weight has changed."""
        weights = [*self.kernels.parameters(), *([] if self.short is None else [self.short])]
        versions = [(w._version, w.data_ptr()) for w in weights]
        found = self._prepared.get(limit)
        # Fused optimisers change weights without a new version, so a stream that begins compares them.
        if (
            found is None
            or found.versions != versions
            or (begins and not all(map(torch.equal, found.weights, weights)))
        ):
            if len(self._prepared) >= MAX_PREPARED:
                self._prepared.pop(next(iter(self._prepared)))
            with torch.no_grad():
                found = self._prepared[limit] = _Prepared(
                    versions,
                    [w.detach().clone() for w in weights],
                    None if self.short is None else RingStream(ExplicitKernel(self.short), limit=limit),
                    [convolution_stream(cast(LongConvolution, c).kernel(), limit=limit) for c in self.kernels],
                )
        return found.short, found.kernels


# A launch of Triton is not to be traced, nor are tables built in NumPy.
@untraced
def _fused(streams: Tensor, kernel: Kernel, short: Tensor) -> Tensor:
    """`HyenaOperator._mix` of order 2 as one kernel: `[3, D, B, L]` to `[D, B, L]`."""
    from models.ops.convolution import triton_dense

    first, second, value = streams.unbind(0)
    return triton_dense.dense_convolution(
        value,
        kernel.taps(min(kernel.window, streams.shape[3])),
        kernel.skip,
        pre_gate=first,
        post_gate=second,
        short=short.view(3, len(value), -1),
    )


@register(
    "hyenarec",
    family="convolution",
    causal=True,
    citation="HyenaRec, arXiv 2603.25027 (our reading); Poli et al., Hyena Hierarchy, ICML 2023",
    config=HyenaRecConfig,
)
class HyenaRec(StreamingStack):
    """Our reading of HyenaRec; see the module's docstring for the equations."""

    config: HyenaRecConfig

    def __init__(self, config: HyenaRecConfig) -> None:
        super().__init__(config)
        self._shapes: set[tuple[int, int]] = set()

    def forward(self, items: Tensor, timestamps: Tensor | None = None) -> Tensor:
        """Hidden states `[B, L, D]` of `items` `[B, L]`; timestamps are not used."""
        self._note(*items.shape)
        return super().forward(items, timestamps)

    @untraced
    def _note(self, batch: int, length: int) -> None:
        """Remember the shapes seen; traced, every new one would be compiled anew."""
        self._shapes.add((batch, length))

    def block(self) -> ResidualBlock:
        """`x + W_o Hyena(LN(x)) + b_o`, then `x + FFN(LN(x))`."""
        config, width = self.config, self.config.hidden_size
        return ResidualBlock(
            width, HyenaOperator(config), FeedForward(width, config.feed_forward * width), config.dropout
        )

    def cost(self, batch: int, length: int) -> Cost:
        """Matrix products and convolutions of a forward pass; norms and activations are left out.

        Per block and position: projection 2D·(G+1)D with G = N gates (0 without, 1 in parallel), output 2D²,
        FFN 4F·D² with F = `feed_forward`, short convolution 2·width·(G+1)D, gates G·D. Per long
        convolution: its kernel's taps, and the backend's operations
        (models/ops/convolution/cost.py). Bytes: each operator reads its inputs and writes its
        outputs once, float32. State, of a stream of at most `max_length` = W events, channel by
        channel: `width` inputs per short convolution; per long one W inputs up to W = 512 and for
        free taps, else about 2C + 2J log₂(W/C) moments and inputs of a Legendre kernel, C = 64,
        J = min(C, K) (models/ops/convolution/streams/legendre.py).
        """
        config, width = self.config, self.config.hidden_size
        streams = config.gate_count + 1
        tokens = batch * length
        pointwise = 2.0 * width * width * (streams + 1 + 2 * config.feed_forward)
        pointwise += 2.0 * config.short_convolution * streams * width + (streams - 1) * width
        operations = tokens * pointwise
        moved = 4.0 * tokens * width * (3 * streams + 4 * config.feed_forward)
        state = float(min(config.short_convolution, config.max_length) * streams * width)
        for convolution in self._convolutions(self.blocks[0]):
            polynomial = isinstance(convolution.kernel, PolynomialKernel)
            order = config.kernel_order if polynomial else 0
            sizes = {"batch": batch, "length": length, "channels": width, "order": order}
            backend = self._backend(batch, length)
            operations += convolution_cost.operations(backend, **sizes, backward=False)
            if not polynomial:
                operations += convolution.kernel.operations(length)
            moved += convolution_cost.bytes_moved(backend, **sizes, backward=False)
            state += width * stream_numbers(config.max_length, order or None)
        layers = config.num_layers
        return Cost(layers * operations, layers * moved, layers * state)

    @staticmethod
    def _convolutions(block: nn.Module) -> list[LongConvolution]:
        return [module for module in block.modules() if isinstance(module, LongConvolution)]

    def backends(self) -> dict[str, str]:
        """The convolution backends that `forward` took, and whose code they are.

        Where there were several, from the shortest sequences to the longest: `dense up to 96, tree (native)
        beyond`. Before the first pass, what would run at the maximum length.
        """
        kernel, device = self._convolutions(self.blocks[0])[0].kernel(), self.item_embedding.weight.device
        last: dict[str, int] = {}
        shapes: Iterable[tuple[int | None, int]] = self._shapes or [(None, self.config.max_length)]
        for batch, length in shapes:
            name = describe_backend(self.config.convolution, length, device, kernel, batch)
            last[name] = max(last.get(name, 0), length)
        *shorter, name = sorted(last, key=lambda one: last[one])
        parts = [f"{short} up to {last[short]}" for short in shorter]
        return {"convolution": ", ".join([*parts, f"{name} beyond"]) if parts else name}

    def _backend(self, batch: int, length: int) -> str:
        kernel = self._convolutions(self.blocks[0])[0].kernel()
        return select_backend(self.config.convolution, length, self.item_embedding.weight.device, kernel, batch)
