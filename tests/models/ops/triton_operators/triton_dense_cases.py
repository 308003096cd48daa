"""Cases of models/ops/convolution/triton_dense.py, run by test_triton_dense.py in a process of their own."""

import pytest
import torch
from triton_support import DEVICE, repair_interpreter

from models.ops.convolution import triton_dense
from models.ops.legendre.taps import LegendreKernel

if DEVICE.type == "cpu":
    repair_interpreter()


def convolved(x, taps):
    """h ∗ x of `[D, B, L]`, lag by lag."""
    y = torch.zeros_like(x)
    for lag in range(min(taps.shape[1], x.shape[2])):
        y[..., lag:] += taps[:, lag, None, None] * x[..., : x.shape[2] - lag]
    return y


def naive(value, taps, skip, pre, post, short):
    streams = [stream for stream in (pre, post, value) if stream is not None]
    if short is not None:
        streams = [convolved(stream, weights) for stream, weights in zip(streams, short, strict=True)]
    u = streams[-1] if pre is None else streams[0] * streams[-1]
    y = convolved(u, taps)
    if skip is not None:
        y = y + skip[:, None, None] * u
    return y if post is None else y * streams[-2]


def draw(channels, batch, length, taps, *, skip=True, pre=True, post=True, width=3):
    generator = torch.Generator().manual_seed(length)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return (
        normal(channels, batch, length),
        normal(channels, taps),
        normal(channels) if skip else None,
        normal(channels, batch, length) if pre else None,
        normal(channels, batch, length) if post else None,
        normal(1 + pre + post, channels, width) if width else None,
    )


def results(function, inputs, cast):
    """The output and the gradients of all inputs for a random outer gradient, in float64 on the CPU."""
    leaves = [None if tensor is None else cast(tensor).requires_grad_() for tensor in inputs]
    y = function(*leaves)
    outer = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y.backward(cast(outer))
    tensors = [y.detach()] + [leaf.grad for leaf in leaves if leaf is not None]
    return [tensor.double().cpu() for tensor in tensors]


def single(tensor):
    return tensor.detach().to(DEVICE, torch.float32, copy=True)


def double(tensor):
    return tensor.detach().clone()


def kernel(value, taps, skip, pre, post, short):
    return triton_dense.dense_convolution(value, taps, skip, pre_gate=pre, post_gate=post, short=short)


def errors(inputs, function=kernel, reference=naive):
    got, expected = results(function, inputs, single), results(reference, inputs, double)
    return [float((a - b).norm() / b.norm()) for a, b in zip(got, expected, strict=True)]


@pytest.mark.parametrize(
    ("batch", "length", "taps", "options"),
    [
        (3, 20, 20, {}),
        (35, 70, 66, {}),
        (3, 70, 70, {"pre": False, "width": 2}),
        (3, 70, 65, {"post": False, "width": 1}),
        (2, 150, 150, {"pre": False, "post": False, "skip": False, "width": 0}),
        (2, 130, 40, {"width": 8}),
        (2, 2, 1, {"width": 5}),
        (1, 1, 1, {"width": 1}),
    ],
)
def test_agrees_with_the_definition(batch, length, taps, options):
    assert max(errors(draw(2, batch, length, taps, **options))) <= 1e-5


@pytest.mark.parametrize("taps", [1, 17, 18, 33, 50])
def test_many_tiles(taps, monkeypatch):
    monkeypatch.setattr(triton_dense, "MAX_ROWS", 16)
    monkeypatch.setattr(triton_dense, "MAX_TIMES", 16)
    assert max(errors(draw(1, 18, 50, taps))) <= 1e-5


@pytest.mark.parametrize("order", [4, 16])
@pytest.mark.parametrize("decays", [True, False])
def test_a_legendre_kernel(order, decays):
    generator = torch.Generator().manual_seed(order)
    x, coefficients, decay, skip = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((2, 3, 48), (2, order), (2,), (2,))
    )

    def run(convolution):
        def function(x, coefficients, skip, decay=None):
            return convolution(x, LegendreKernel(coefficients, 60, decay).taps(x.shape[2]), skip, None, None, None)

        return function

    inputs = (x, coefficients, skip, decay.abs() * 0.1) if decays else (x, coefficients, skip)
    assert max(errors(inputs, run(kernel), run(naive))) <= 1e-5


def in_type(dtype):
    """The kernel on streams of a type, with taps and weights in float32."""

    def function(value, taps, skip, pre, post, short):
        return kernel(value.to(dtype), taps, skip, pre.to(dtype), post.to(dtype), short)

    return function


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype):
    # Products of bfloat16 are a GPU's matter: the interpreter cannot form them.
    tolerance = torch.finfo(dtype).eps if DEVICE.type == "cpu" else 2e-2
    inputs = [tensor.to(dtype).double() for tensor in draw(2, 3, 40, 40)]
    assert max(errors(inputs, in_type(dtype))) <= tolerance


def test_empty_batch():
    gradients = results(kernel, draw(2, 0, 10, 10), single)
    assert [tuple(g.shape) for g in gradients[:3]] == [(2, 0, 10), (2, 0, 10), (2, 10)]
    assert not any(g.any() for g in gradients)


def test_strided_inputs():
    inputs = [single(tensor) for tensor in draw(2, 3, 20, 20)]
    strided = [tensor.mT.contiguous().mT if tensor.dim() > 1 else tensor for tensor in inputs]
    assert not strided[0].is_contiguous()
    torch.testing.assert_close(kernel(*strided), kernel(*inputs), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": torch.zeros(2, 3, 513)}, "513"),
        ({"value": torch.zeros(2, 3, 20, dtype=torch.float64)}, "float64"),
        ({"taps": torch.zeros(2, 21)}, "taps must be"),
        ({"skip": torch.zeros(3)}, "skip must be"),
        ({"pre_gate": torch.zeros(2, 3, 19)}, "pre_gate must be"),
        ({"post_gate": torch.zeros(2, 3, 20, dtype=torch.bfloat16)}, "post_gate must be"),
        ({"short": torch.zeros(2, 2, 3)}, "short must be"),
        ({"short": torch.zeros(1, 2, 9)}, "short must be"),
    ],
)
def test_rejects(change, message):
    arguments = {"value": torch.zeros(2, 3, 20), "taps": torch.zeros(2, 20)} | change
    with pytest.raises(ValueError, match=message):
        triton_dense.dense_convolution(**arguments)


def test_hyenarec_is_the_same_fused(monkeypatch):
    from models.hyenarec import HyenaOperator, HyenaRecConfig

    torch.manual_seed(0)
    config = HyenaRecConfig(num_items=9, max_length=40, hidden_size=3, convolution="dense", initialisation="plain")
    operator = HyenaOperator(config).to(DEVICE)
    x = torch.randn(2, 33, 3).to(DEVICE)
    found = []
    for fused in (True, False):
        monkeypatch.setenv("HYENAREC_TRITON", "1" if fused else "0")
        operator.zero_grad()
        leaf = x.clone().requires_grad_()
        assert operator._fuses(operator._project(leaf)) == fused
        y = operator(leaf)
        y.square().sum().backward()
        found.append([y.detach(), leaf.grad, *(p.grad.clone() for p in operator.parameters())])
    for a, b in zip(*found, strict=True):
        assert float((a - b).norm()) <= 1e-4 * float(b.norm()) + 1e-7


def test_hyenarec_evaluates_its_kernel_once_and_compiles_fused(monkeypatch):
    from models.hyenarec import HyenaOperator, HyenaRecConfig

    torch.manual_seed(0)
    operator = HyenaOperator(HyenaRecConfig(num_items=9, max_length=40, hidden_size=3)).to(DEVICE)
    x = torch.randn(2, 33, 3).to(DEVICE)
    evaluated, launched, launch = [], [], triton_dense.dense_convolution
    operator.kernels[0].kernel.register_forward_hook(lambda *_: evaluated.append(1))
    monkeypatch.setattr(
        triton_dense,
        "dense_convolution",
        lambda *streams, **options: launched.append(torch.compiler.is_compiling()) or launch(*streams, **options),
    )
    plain = operator(x)
    assert (evaluated, launched) == ([1], [False])
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    compiled = torch.compile(operator, backend=backend)(x)
    torch.testing.assert_close(compiled, plain)
    assert launched == [False, False], "the launch is not traced"
    assert len(graphs) == 2, "before the launch and after it"
