"""HyenaRec against its own equations, event by event in float64."""

import numpy as np
import pytest
import torch

from models.hyenarec import HyenaOperator, HyenaRecConfig

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
    parts = np.split(streams, order + 1 if gates else 1, axis=1)
    z = parts[-1]
    for n, convolution in enumerate(operator.kernels):
        u = parts[n] * z if gates else z
        kernel = convolution.kernel()
        taps, skip = kernel.taps(len(x)).detach().double().numpy(), kernel.skip.detach().double().numpy()
        z = skip * u
        for t in range(len(x)):
            for lag in range(t + 1):
                z[t] += taps[:, lag] * u[t - lag]
    if gates:
        z = parts[order - 1] * z
    return z @ weights["output.weight"].T + weights["output.bias"]


@pytest.mark.parametrize("convolution", ["auto", "fft", "dense"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"order": 3},
        {"gates": False},
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
