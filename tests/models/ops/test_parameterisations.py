from typing import get_args

import numpy as np
import pytest
import torch
from numpy.polynomial import chebyshev, legendre
from torch.utils.flop_counter import FlopCounterMode

from models.ops.convolution.parameterisations import Name, build_parameterisation, chebyshev_in_legendre, lag_features
from models.ops.legendre.taps import ExplicitKernel, LegendreKernel

CHANNELS, WINDOW, ORDER = 5, 37, 6
NAMES = get_args(Name)
DECAYED = ("legendre", "chebyshev", "legendre-mlp", "fourier-mlp")


def build(name, *, window=WINDOW, order=ORDER, seed=0, **options):
    torch.manual_seed(seed)
    return build_parameterisation(name, CHANNELS, window, order, **options)


def taps(module):
    return module().taps(module.window).detach().double().numpy()


def decay(module):
    return np.exp(-np.exp(module.log_decay.detach().double().numpy())[:, None] * np.arange(module.window))


@pytest.mark.parametrize("initialisation", ["open", "plain"])
@pytest.mark.parametrize("window", [1, 2, 50, 2048])
@pytest.mark.parametrize("name", NAMES)
def test_starts_at_unit_norm(name, window, initialisation):
    module = build(name, window=window, initialisation=initialisation)
    kernel = module()
    assert (kernel.channels, kernel.window) == (CHANNELS, window)
    np.testing.assert_allclose(np.linalg.norm(taps(module), axis=1), 1.0, rtol=1e-4)
    assert bool(kernel.skip.any()) == (initialisation == "plain")


@pytest.mark.parametrize("decay", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_open_starts_positive(name, decay):
    assert taps(build(name, decay=decay)).min() > 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("initialisation", ["open", "plain"])
def test_every_parameter_is_used(name, initialisation):
    module = build(name, initialisation=initialisation)
    kernel = module()
    (kernel.taps(WINDOW).pow(3).sum() + kernel.skip.sum()).backward()
    assert [n for n, p in module.named_parameters() if p.grad is None or not bool(p.grad.any())] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_decay_is_an_option_of_four(name):
    assert (build(name).log_decay is not None) == (name in DECAYED)
    assert build(name, decay=False).log_decay is None


@pytest.mark.parametrize("name", DECAYED)
def test_without_decay_only_the_factor_is_missing(name):
    module = build(name, initialisation="plain")
    with_decay = taps(module)
    factor = decay(module)
    module.log_decay = None
    np.testing.assert_allclose(taps(module) * factor, with_decay, atol=1e-6)


@pytest.mark.parametrize(("name", "evaluate"), [("legendre", legendre.legval), ("chebyshev", chebyshev.chebval)])
def test_polynomials(name, evaluate):
    module = build(name, initialisation="plain")
    assert isinstance(module(), LegendreKernel)
    coefficients = module.coefficients.detach().double().numpy()
    expected = decay(module) * evaluate(2 * np.arange(WINDOW) / (WINDOW - 1) - 1, coefficients.T)
    np.testing.assert_allclose(taps(module), expected, atol=1e-6)


def test_chebyshev_and_legendre_span_the_same_kernels():
    change = chebyshev_in_legendre(64)
    points = np.linspace(-1, 1, 301)
    np.testing.assert_allclose(legendre.legvander(points, 63) @ change.T, chebyshev.chebvander(points, 63), atol=1e-12)
    assert np.linalg.cond(change) < 1e3


@pytest.mark.parametrize(("name", "legendre_features"), [("legendre-mlp", True), ("fourier-mlp", False)])
def test_implicit_kernels(name, legendre_features):
    module = build(name, initialisation="plain")
    assert isinstance(module(), ExplicitKernel)
    weights = {n: p.detach().double().numpy() for n, p in module.named_parameters()}
    expected = np.empty((CHANNELS, WINDOW))
    for lag in range(WINDOW):
        time = lag / (WINDOW - 1)
        waves = 2 * np.pi * time * np.arange(1, ORDER // 2 + 1)
        first = legendre.legvander(np.array([2 * time - 1]), ORDER - 1)[0] if legendre_features else [time]
        hidden = np.concatenate((first, np.cos(waves), np.sin(waves)))
        for i in range(2):
            total = weights[f"inner.{i}.weight"] @ hidden + weights[f"inner.{i}.bias"]
            hidden = np.sin(weights["frequencies"][i] * total)
        expected[:, lag] = weights["outer.weight"] @ hidden + weights["outer.bias"]
    np.testing.assert_allclose(taps(module), decay(module) * expected, atol=2e-5)


def test_features_of_one_event_and_of_one_polynomial():
    assert lag_features(1, 4, legendre_features=True).tolist() == [[1.0]] * 4
    assert lag_features(3, 1, legendre_features=False).tolist() == [[0.0, 1.0, 0.0]]


@pytest.mark.parametrize("window", [1, 2, 16, 17, 250])
def test_exponentials(window):
    module = build("exponential", window=window, initialisation="plain")
    rates = np.exp(module.log_rates.detach().double().numpy())
    table = np.exp(-rates[..., None] * np.arange(window))
    expected = np.einsum("dk,dkt->dt", module.coefficients.detach().double().numpy(), table)
    np.testing.assert_allclose(taps(module), expected, atol=1e-5 * np.abs(table).max())


def test_free_taps_are_the_parameters():
    module = build("explicit")
    assert torch.equal(module().taps(WINDOW), module.values)


@pytest.mark.parametrize("name", NAMES)
def test_autocast_does_not_round_the_kernel(name):
    module = build(name, initialisation="plain")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = module().taps(WINDOW)
    assert torch.equal(rounded, module().taps(WINDOW))


@pytest.mark.parametrize("name", NAMES)
def test_the_same_weights_are_the_same_kernel(name):
    module, other = build(name), build(name, seed=1)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other().taps(WINDOW), module().taps(WINDOW))
    # A product of another size may round otherwise.
    np.testing.assert_allclose(module().taps(9).detach().numpy(), taps(module)[:, :9], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_declared_operations_are_those_counted(name):
    module = build(name, window=256)
    with FlopCounterMode(display=False) as counter:
        module().taps(256)
    assert module.operations(256) == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_errors_name_the_value():
    with pytest.raises(ValueError, match=r"'legandre'; legal: legendre, chebyshev"):
        build("legandre")
    with pytest.raises(ValueError, match="order 0"):
        build("legendre", order=0)
