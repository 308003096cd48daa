"""HyenaRec against its own equations, event by event in float64."""

import numpy as np
import pytest
import torch

from models.hyenarec import HyenaOperator, HyenaRec, HyenaRecConfig
from models.ops.build import native

WIDTH, LENGTH = 3, 150


def equations(operator, x, order, gates):
    """models/hyenarec.py's docstring, with sums over lags."""
    weights = {name: p.detach().double().numpy() for name, p in operator.named_parameters()}
    streams = x @ weights["projection.weight"].T + weights["projection.bias"]
    if "short" in weights:
        short, plain = weights["short"], streams
        streams = np.zeros_like(plain)
        for t in range(len(x)):
            for lag in range(min(short.shape[1], t + 1)):
                streams[t] += short[:, lag] * plain[t - lag]
    parallel = gates == "parallel"
    parts = np.split(streams, 2 if parallel else order + 1 if gates else 1, axis=1)
    z = parts[-1]
    for n, convolution in enumerate(operator.kernels):
        u = parts[n] * z if gates and not parallel else z
        kernel = convolution.kernel()
        taps, skip = kernel.taps(len(x)).detach().double().numpy(), kernel.skip.detach().double().numpy()
        z = skip * u
        for t in range(len(x)):
            for lag in range(t + 1):
                z[t] += taps[:, lag] * u[t - lag]
    if gates:
        z = z / (1 + np.exp(-parts[0])) if parallel else parts[order - 1] * z
    return z @ weights["output.weight"].T + weights["output.bias"]


@pytest.mark.parametrize("convolution", ["auto", "fft", "dense"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"order": 3},
        {"gates": False},
        {"gates": "parallel"},
        {"gates": "parallel", "short_convolution": 0, "order": 3},
        {"short_convolution": 0},
        {"kernel_decay": False, "short_convolution": 5},
        {"kernel": "chebyshev"},
    ],
    ids=str,
)
def test_is_its_equations(options, convolution):
    torch.manual_seed(0)
    config = HyenaRecConfig(
        num_items=9,
        max_length=LENGTH + 14,
        hidden_size=WIDTH,
        kernel_order=5,
        convolution=convolution,
        initialisation="plain",
        **options,
    )
    operator, x = HyenaOperator(config), torch.randn(1, LENGTH, WIDTH)
    expected = equations(operator, x[0].double().numpy(), config.order, config.gates)
    found = operator(x)[0].detach().double().numpy()
    assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("options", "lengths", "expected"),
    [
        ({}, [], "tree (torch)"),
        ({}, [200], "tree (torch)"),
        ({}, [200, 97, 150], "tree (torch)"),
        ({}, [50, 96], "dense"),
        ({}, [200, 20], "dense up to 20, tree (torch) beyond"),
        ({"kernel": "explicit"}, [97, 96], "dense up to 96, fft beyond"),
        ({"convolution": "fft"}, [200, 20], "fft"),
    ],
)
def test_names_every_backend_that_ran(options, lengths, expected):
    model = HyenaRec(HyenaRecConfig(num_items=9, max_length=200, hidden_size=4, **options)).eval()
    with native.suspended(), torch.no_grad():
        for length in lengths:
            model(torch.ones(64, length, dtype=torch.int64))
        assert model.backends() == {"convolution": expected}


def test_a_stream_is_no_batch():
    model = HyenaRec(HyenaRecConfig(num_items=9, max_length=200, hidden_size=4)).eval()
    model(torch.ones(1, 200, dtype=torch.int64))
    model.prefill(torch.ones(1, 20, dtype=torch.int64))
    assert "dense" not in model.backends()["convolution"]
