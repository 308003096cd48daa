"""Depthwise causal convolution: one public function, three backends.

Channel-major activations `[D, B, L]` are the native layout: a projection `W @ x.view(B·L, D).T`
writes it as one matrix product, every sequence is one contiguous line, every channel one matrix,
and the output projection reads it back with a transposed operand, so nothing is ever copied to
change layout.

All backends have their backward pass written out: autograd differentiates a real FFT through a
complex one of full length, which alone costs more than the whole forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from models.ops.build import accelerated, native
from models.ops.build.toeplitz import diagonal_sums, toeplitz
from models.ops.build.untraced import untraced
from models.ops.legendre import native as native_tree
from models.ops.legendre.taps import Kernel, LegendreKernel, check_floating
from models.ops.legendre.tree import legendre_tree_convolution, row_geometry

Name = Literal["fft", "tree", "dense"]
Backend = Literal["auto", "fft", "tree", "dense"]
Layout = Literal["channel_major", "batch_length_channel"]

# What `auto` takes, as tests/benchmarks/backends.py measures it (two threads, 64 channels, forward and backward).
#
# Longest sequence for the Toeplitz product; the value for CUDA is a prediction, not measured. On a CPU its
# matrix, D L² numbers a kernel, wants a batch to pay: L³/2^14 sequences, 16 at 64 events, 54 at 96.
DENSE_MAX_LENGTH = {"cpu": 96, "cuda": 512}
DENSE_VOLUME = 2.0**14
# Beyond, from a length on, the largest K for which the tree takes no longer than the FFT in large batches;
# with a larger K its K² terms outweigh what it saves.
TREE_MAX_ORDER = {
    "native": {0: 32, 32_768: 48, 65_536: 64},
    "torch": {0: 16, 8192: 24, 32_768: 32},
    "cuda": {0: 64},
}
# On a CPU the tree's matrices, some K² numbers a channel and level, want a batch to pay too: 16 K² events or
# more than K sequences, K in whole vectors; 2K sequences where blocks are cut short and need their own.
TREE_EVENTS = 16


def causal_convolution(
    x: Tensor,
    kernel: Kernel,
    *,
    backend: Backend = "auto",
    layout: Layout = "channel_major",
    tolerance: float = 0.0,
    check: bool = True,
) -> Tensor:
    """`y_d[t] = Σ_{0≤τ≤t, τ<W} h_d(τ) x_d[t−τ] + D_d x_d[t]`.

    Computed in float32 (float64 for float64 inputs), also under autocast. All backends mean the
    same kernel, whatever the length: its window W is the kernel's own, and zero beyond.

    Args:
        x: `[D, B, L]`, or `[B, L, D]` in the other layout; any L ≥ 1, of a real floating type.
        kernel: A `LegendreKernel`, or an `ExplicitKernel` of any other parameterisation, on the
            device of `x`.
        backend: `fft` is O(L log L); `tree`, for Legendre kernels, exact and O(L); `dense` a
            Toeplitz product, O(L²) and fastest in large batches of short sequences; `auto` as in `select_backend`.
        layout: `channel_major` runs without a copy; `batch_length_channel` transposes twice.
        tolerance: Lets the tree on a CPU keep fewer moments of small blocks: no more is left out than
            changes the taps by `tolerance` · Σ_k |c_k|, root mean square over the lags between any two
            neighbouring blocks. 1e-7 is about what float32 rounds away, and pays from K = 32 on. 0, the
            default, is exact, as are the other backends and the tree on a GPU in any case.
        check: Whether to look for negative and infinite decays, which costs a GPU a synchronisation; a
            caller whose decays are positive by construction passes False.

    Returns:
        In the shape and type of `x`.

    Raises:
        ValueError: Shapes or types that do not fit, a negative or infinite decay, a negative tolerance, an
            unknown backend or layout, `tree` with a kernel that is no Legendre kernel.
    """
    return _opaque(x, kernel, backend, layout, tolerance, check)


def _convolve(x: Tensor, kernel: Kernel, backend: Backend, layout: Layout, tolerance: float, check: bool) -> Tensor:
    if layout == "batch_length_channel":
        x = x.permute(2, 0, 1) if x.dim() == 3 else x
    elif layout != "channel_major":
        raise ValueError(f"unknown layout '{layout}'; legal: {', '.join(get_args(Layout))}")
    if x.dim() != 3 or x.shape[0] != kernel.channels or x.shape[2] < 1:
        raise ValueError(
            f"x must have 3 dimensions, {kernel.channels} channels as the kernel and L ≥ 1; as [D, B, L] it is "
            f"{list(x.shape)}"
        )
    check_floating(x=x)
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be ≥ 0, got {tolerance}; 0 leaves nothing out")
    if check and isinstance(kernel, LegendreKernel):
        kernel.check_decay()
    name = select_backend(backend, x.shape[2], x.device, kernel, x.shape[1])
    with torch.autocast(x.device.type, enabled=False):
        if not x.shape[1]:
            y = _nothing(x, kernel)
        else:
            y = _tree(x, kernel, tolerance) if name == "tree" else _BACKENDS[name](x, kernel)
    return y.permute(1, 2, 0) if layout == "batch_length_channel" else y


def select_backend(
    backend: str, length: int, device: torch.device, kernel: Kernel | None = None, batch: int | None = None
) -> Name:
    """The backend that runs: `auto` resolved, anything else checked.

    Args:
        backend: As in `causal_convolution`.
        length: Sequence length L in events.
        device: Where the tensors are.
        kernel: The kernel; without one a Legendre kernel is taken for granted.
        batch: Sequences B; without it a large batch is.

    Raises:
        ValueError: Unknown backend, or `tree` for a kernel that is no Legendre kernel.
    """
    legendre = kernel is None or isinstance(kernel, LegendreKernel)
    if backend == "auto":
        # What a batch must have is measured on CPUs alone.
        sequences = math.inf if batch is None or device.type != "cpu" else batch
        if length <= DENSE_MAX_LENGTH.get(device.type, 0):
            return "dense" if sequences >= length**3 / DENSE_VOLUME else "fft"
        order = kernel.order if isinstance(kernel, LegendreKernel) else 1
        if not legendre or order > _tree_max_order(length, device):
            return "fft"
        return "tree" if _tree_pays(sequences, length, kernel) else "fft"
    if backend == "tree" and not legendre:
        raise ValueError(
            f"backend 'tree' needs a LegendreKernel, got {type(kernel).__name__}; legal for it: auto, fft, dense"
        )
    for name in get_args(Name):
        if backend == name:
            return backend  # type: ignore[return-value]
    raise ValueError(f"unknown convolution backend '{backend}'; legal: {', '.join(get_args(Backend))}")


def _tree_max_order(length: int, device: torch.device) -> int:
    """Largest K for which `auto` takes the tree at a length."""
    kind = device.type
    if kind == "cpu":
        kind = "torch" if native.library() is None else "native"
    return max((order for least, order in TREE_MAX_ORDER.get(kind, {}).items() if length >= least), default=0)


def _tree_pays(sequences: float, length: int, kernel: Kernel | None) -> bool:
    """Whether a batch is large enough for the tree on a CPU."""
    order = kernel.order if isinstance(kernel, LegendreKernel) else 1
    padded = -(-order // native_tree.LANES) * native_tree.LANES
    if sequences * length >= TREE_EVENTS * padded**2:
        return True
    ragged = row_geometry(length, padded, kernel.window if kernel is not None else length).ragged
    return sequences > (2 * padded if ragged else padded)


def fourier_length(length: int, taps: int) -> int:
    """Smallest even 5-smooth FFT length that holds the linear convolution, ≥ length + taps − 1."""
    least = max(length + taps - 1, 2)
    best = 1 << (least - 1).bit_length()
    fives = 1
    while fives < best:
        odd = fives
        while odd < best:
            # The even multiple of this odd factor by the smallest sufficient power of two.
            best = min(best, odd << max((-(-least // odd) - 1).bit_length(), 1))
            odd *= 3
        fives *= 5
    return best


def describe_backend(backend: str, length: int, device: torch.device, kernel: Kernel, batch: int | None = None) -> str:
    """What runs, for a record: the backend, and in brackets whose code it is if not torch's.

    Arguments and errors as in `select_backend`.
    """
    name = select_backend(backend, length, device, kernel, batch)
    if name != "fft" and _triton(name, length, device, torch.float32, kernel) is not None:
        return f"{name} (triton)"
    if name == "tree" and isinstance(kernel, LegendreKernel):
        x = torch.empty(0, device=device)
        return f"tree ({'native' if native_tree.supports(x, min(length, kernel.window), kernel.order) else 'torch'})"
    return name


def _fourier(x: Tensor, kernel: Kernel) -> Tensor:
    return _fourier_convolution(_working(x), *_taps(x, kernel)).to(x.dtype)


def _dense(x: Tensor, kernel: Kernel) -> Tensor:
    run = _triton("dense", x.shape[2], x.device, x.dtype, kernel)
    return run(x, kernel) if run else _toeplitz_convolution(_working(x), *_taps(x, kernel)).to(x.dtype)


def _tree(x: Tensor, kernel: Kernel, tolerance: float) -> Tensor:
    assert isinstance(kernel, LegendreKernel)  # select_backend saw to it
    run = _triton("tree", x.shape[2], x.device, x.dtype, kernel)
    return run(x, kernel) if run else legendre_tree_convolution(_working(x), _cast(kernel, x), tolerance).to(x.dtype)


def _triton(
    name: Name, length: int, device: torch.device, dtype: torch.dtype, kernel: Kernel
) -> Callable[[Tensor, Kernel], Tensor] | None:
    """The fused kernel for these sizes, where triton is installed and has one."""
    if not accelerated.available(device):
        return None
    if name == "dense":
        from models.ops.convolution import triton_dense

        if not triton_dense.supports(length, dtype):
            return None
        return lambda x, kernel: triton_dense.dense_convolution(
            x.contiguous(), kernel.taps(min(kernel.window, length)), kernel.skip
        )
    from models.ops.legendre import triton as triton_tree

    if not isinstance(kernel, LegendreKernel) or not triton_tree.supports(length, kernel, dtype):
        return None
    return lambda x, kernel: triton_tree.triton_tree_convolution(x.contiguous(), cast(LegendreKernel, kernel))


_BACKENDS: dict[Name, Callable[[Tensor, Kernel], Tensor]] = {"fft": _fourier, "dense": _dense}


def _nothing(x: Tensor, kernel: Kernel) -> Tensor:
    """A batch of no sequences; the product gives every parameter its gradient of zeros."""
    taps, skip = _taps(x, kernel)
    return (x * (taps.sum(1) + skip)[:, None, None]).to(x.dtype)


def _working(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _cast(kernel: LegendreKernel, x: Tensor) -> LegendreKernel:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    fields: dict[str, Any] = {name: t.to(dtype) for name, t in vars(kernel).items() if isinstance(t, Tensor)}
    return replace(kernel, **fields)


def _taps(x: Tensor, kernel: Kernel) -> tuple[Tensor, Tensor]:
    taps = kernel.taps(min(kernel.window, x.shape[2]))
    skip = kernel.skip if kernel.skip is not None else taps.new_zeros(kernel.channels)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return taps.to(dtype), skip.to(dtype)


class _FourierConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, skip: Tensor) -> Tensor:
        length = x.shape[2]
        n = fourier_length(length, taps.shape[1])
        spectrum = torch.fft.rfft(x, n)
        # The spectrum of a unit impulse is 1, so the skip term costs nothing.
        kernel = torch.fft.rfft(taps, n) + skip[:, None]
        ctx.save_for_backward(spectrum, kernel)
        ctx.taps, ctx.n = taps.shape[1], n
        y: Tensor = torch.fft.irfft(spectrum * kernel[:, None], n)
        return y[..., :length]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        spectrum, kernel = ctx.saved_tensors
        outer = torch.fft.rfft(gradient, ctx.n)
        x_gradient = torch.fft.irfft(outer * kernel.conj_physical()[:, None], ctx.n)[..., : gradient.shape[2]]
        # conj(a)·b summed and conjugated once is a·conj(b), without a conjugate copy of the batch.
        cross = outer.conj_physical_().mul_(spectrum).sum(1).conj_physical_()
        taps_gradient = torch.fft.irfft(cross, ctx.n)[:, : ctx.taps]
        return x_gradient, taps_gradient, taps_gradient[:, 0]


class _ToeplitzConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, skip: Tensor) -> Tensor:
        matrix = _toeplitz(taps, skip, x.shape[2])
        ctx.save_for_backward(x, matrix)
        ctx.taps = taps.shape[1]
        return torch.bmm(x, matrix)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, matrix = ctx.saved_tensors
        gradient = gradient.contiguous()
        x_gradient = torch.bmm(gradient, matrix.transpose(1, 2))
        taps_gradient = diagonal_sums(torch.bmm(x.transpose(1, 2), gradient), first=0)[:, : ctx.taps]
        return x_gradient, taps_gradient, taps_gradient[:, 0]


def _toeplitz(taps: Tensor, skip: Tensor, length: int) -> Tensor:
    """`[D, L, L]` with `M[s, t] = h(t − s)`, the skip term on the diagonal."""
    line = functional.pad(taps, (length - 1, length - taps.shape[1]))
    line[:, length - 1] += skip
    return toeplitz(line)


# Constants are built in NumPy, products may be native.
_opaque = untraced(_convolve)

# torch leaves `apply` untyped.
_fourier_convolution: Callable[..., Tensor] = _FourierConvolution.apply
_toeplitz_convolution: Callable[..., Tensor] = _ToeplitzConvolution.apply
