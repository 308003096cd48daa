import math

import pytest
import torch
from stand_ins import install

from models.mamba4rec import Mamba4Rec, Mamba4RecConfig
from models.ops.build import native
from models.ops.scans import native as native_scans
from models.ops.scans import selective as module
from models.ops.scans.selective import selective_scan, selective_scan_operations, slab_size


def naive(x, delta, rates, write, read, skip):
    """One step after the other; works in autograd and in float64."""
    h, outputs = x.new_zeros(x.shape[0], *rates.shape), []
    for t in range(x.shape[1]):
        decay = torch.exp(delta[:, t, :, None] * rates)
        h = decay * h + (delta[:, t] * x[:, t])[..., None] * write[:, t, None]
        outputs.append((h * read[:, t, None]).sum(2) + skip * x[:, t])
    return torch.stack(outputs, 1)


def in_torch(*arguments, **options):
    with native.suspended():
        return selective_scan(*arguments, **options)


def draw(batch, length, channels, states, seed=0):
    generator = torch.Generator().manual_seed(seed)
    normal = [torch.randn(batch, length, n, generator=generator) for n in (channels, states, states)]
    delta = torch.rand(batch, length, channels, generator=generator)
    rates = -3 * torch.rand(channels, states, generator=generator)
    skip = torch.randn(channels, generator=generator)
    return [v.double() for v in (normal[0], delta, rates, normal[1], normal[2], skip)]


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 33, 300])
@pytest.mark.parametrize("steps", [None, 1, 7, 64])
def test_agrees_with_the_loop(length, steps):
    inputs = draw(2, length, 3, 4)
    expected = naive(*inputs)
    torch.testing.assert_close(selective_scan(*inputs, steps=steps), expected, atol=1e-11, rtol=0)
    for run in (selective_scan, in_torch):
        single = run(*(v.float() for v in inputs), steps=steps)
        torch.testing.assert_close(single.double(), expected, atol=3e-6 * float(expected.abs().max()), rtol=0)


def test_a_large_batch_goes_in_groups(monkeypatch):
    monkeypatch.setitem(module.SLAB_STATES, "cpu", 2 * module.MIN_STEPS * 12)
    assert slab_size(5, 40, 12, torch.device("cpu")) == (2, module.MIN_STEPS)
    inputs = [v.requires_grad_() for v in draw(5, 40, 3, 4)]
    wanted = torch.autograd.grad(naive(*inputs).cos().sum(), inputs)
    found = torch.autograd.grad(selective_scan(*inputs).cos().sum(), inputs)
    for left, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(left, right, atol=1e-10, rtol=0)


@pytest.mark.parametrize(("length", "steps"), [(1, 4), (9, 4), (50, 40), (100, 41), (100, None)])
def test_gradients_agree_with_the_loop(length, steps):
    inputs = [v.requires_grad_() for v in draw(2, length, 3, 4)]
    weights = torch.randn(2, length, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    wanted = torch.autograd.grad((weights * naive(*inputs)).sum(), inputs)
    found = torch.autograd.grad((weights * selective_scan(*inputs, steps=steps)).sum(), inputs)
    for left, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(left, right, atol=1e-10, rtol=0)


@pytest.mark.parametrize(("channels", "states"), [(1, 1), (16, 4), (17, 5), (70, 3), (128, 8)])
@pytest.mark.parametrize(("length", "steps"), [(1, None), (16, None), (33, 7), (300, None)])
def test_single_precision_gradients_agree_with_the_loop(channels, states, length, steps):
    inputs = [v.requires_grad_() for v in draw(2, length, channels, states)]
    weights = torch.randn(2, length, channels, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    expected = naive(*inputs)
    wanted = expected, *torch.autograd.grad((weights * expected).sum(), inputs)
    for run in (selective_scan, in_torch):
        y = run(*(v.float() for v in inputs), steps=steps)
        found = y.double(), *torch.autograd.grad((weights * y).sum(), inputs)
        for left, right in zip(found, wanted, strict=True):
            torch.testing.assert_close(left, right, atol=5e-6 * float(right.detach().abs().max()), rtol=0)


@pytest.mark.skipif(native.build().library is None, reason=native.status())
def test_native_with_any_number_of_threads_and_layout():
    before = torch.get_num_threads()
    results = []
    try:
        for threads, run in ((1, in_torch), (1, selective_scan), (2, selective_scan)):
            torch.set_num_threads(threads)
            inputs = [torch.cat((v, v), -1).float()[..., : v.shape[-1]].requires_grad_() for v in draw(3, 40, 70, 5)]
            y = run(*inputs)
            results.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
            assert ("Native" in type(y.grad_fn).__name__) == (run is selective_scan)
    finally:
        torch.set_num_threads(before)
    for one, *others in zip(*results, strict=True):
        for other in others:
            torch.testing.assert_close(one, other, atol=5e-6 * float(one.detach().abs().max()), rtol=0)


@pytest.mark.skipif(native.build().library is None, reason=native.status())
def test_without_gradients_no_states_are_kept(monkeypatch):
    kept = []
    forward = native_scans.selective_forward
    monkeypatch.setattr(native_scans, "selective_forward", lambda *a, **k: kept.append(k["keep"]) or forward(*a, **k))
    inputs = [v.float() for v in draw(2, 9, 3, 4)]
    selective_scan(*inputs)
    inputs[2].requires_grad_()
    selective_scan(*inputs)
    with torch.no_grad():
        selective_scan(*inputs)
    assert kept == [False, True, False]


def test_a_value_that_is_no_number_is_seen():
    inputs = [v.float() for v in draw(1, 9, 3, 4)]
    inputs[1][0, 4, 1] = math.nan
    assert selective_scan(*inputs)[0].isnan().any(1).tolist() == [False] * 4 + [True] * 5


def test_gradients_by_differences():
    inputs = [v.requires_grad_() for v in draw(1, 7, 2, 3)]
    assert torch.autograd.gradcheck(lambda *v: selective_scan(*v, steps=3), inputs)


@pytest.mark.parametrize("size", [0.0, 1e-4, 30.0])
def test_stable_at_any_step_size(size):
    inputs = draw(1, 4000, 2, 3)
    inputs[1] = torch.full_like(inputs[1], size).float().double()
    expected = naive(*inputs)
    for run in (selective_scan, in_torch):
        y = run(*(v.float() for v in inputs))
        torch.testing.assert_close(y.double(), expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


def test_memory_is_bounded_by_slabs():
    cpu = torch.device("cpu")
    assert slab_size(1, 100_000, 128 * 32, cpu) == (1, module.SLAB_STATES["cpu"] // (128 * 32))
    assert slab_size(10_000, 5, 128 * 32, cpu) == (4, 5)
    assert slab_size(3, 5, 2**30, cpu) == (1, 5)
    for batch, states in ((1, 1), (3, 4096), (500, 4096), (7, 2**13)):
        rows, steps = slab_size(batch, 100_000, states, cpu)
        assert rows <= batch
        assert steps >= module.MIN_STEPS
        assert rows * steps * states <= module.SLAB_STATES["cpu"]
    inputs = [v.float().requires_grad_() for v in draw(1, 2048, 128, 32)]

    kept = 0

    def pack(tensor):
        nonlocal kept
        kept += tensor.numel()
        return tensor

    for run in (selective_scan, in_torch):
        kept = 0
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            run(*inputs)
        assert 0 < kept < 0.2 * 2048 * 128 * 32


def test_cost_is_linear():
    per_step = [selective_scan_operations(length, 64) / length for length in (1 << 10, 1 << 14)]
    assert per_step[0] == pytest.approx(per_step[1])


def test_errors_name_the_value():
    x, delta, rates, write, read, skip = draw(2, 5, 3, 4)
    with pytest.raises(ValueError, match=r"read must be \[2, 5, 4\], got \[2, 4, 4\]"):
        selective_scan(x, delta, rates, write, read[:, :4], skip)
    with pytest.raises(ValueError, match="L ≥ 1"):
        selective_scan(x[:, :0], delta, rates, write, read, skip)
    with pytest.raises(ValueError, match="steps 0"):
        selective_scan(x, delta, rates, write, read, skip, steps=0)


@pytest.fixture
def mamba_ssm(monkeypatch):
    """A stand-in with the package's signature and layout: u, δ, B and C channel-major."""
    calls = []

    def selective_scan_fn(u, delta, rates, write, read, skip):
        calls.append(u.shape)
        parts = [v.transpose(1, 2) for v in (u, delta)], [v.transpose(1, 2) for v in (write, read)]
        return naive(*parts[0], rates, *parts[1], skip).transpose(1, 2)

    install(monkeypatch, "mamba_ssm.ops.selective_scan_interface", selective_scan_fn)
    return calls


def test_the_fused_kernel_gets_its_own_layout(mamba_ssm):
    inputs = [v.float() for v in draw(2, 9, 3, 4)]
    torch.testing.assert_close(module.fused_selective_scan(*inputs), selective_scan(*inputs))
    assert mamba_ssm == [(2, 3, 9)]


def test_the_fused_kernel_is_for_gpus_and_named(mamba_ssm, monkeypatch):
    config = {"num_items": 9, "max_length": 8, "hidden_size": 8}
    model = Mamba4Rec(Mamba4RecConfig(**config))
    assert model.backends() == {"selective-scan": "chunked-scan" if native.library() is None else "native-scan"}
    with native.suspended():
        assert model.backends() == {"selective-scan": "chunked-scan"}
    items = torch.tensor([[1, 2, 3]])
    expected = model.eval()(items)
    assert not module.fused_is_available(torch.device("cpu"))
    assert module.fused_is_available(torch.device("cuda"))
    monkeypatch.setattr("models.mamba4rec.fused_is_available", lambda device: True)
    assert model.backends() == {"selective-scan": "mamba-ssm"}
    torch.testing.assert_close(model(items), expected)
    assert len(mamba_ssm) == 2
    own = Mamba4Rec(Mamba4RecConfig(**config, scan="chunked"))
    with native.suspended():
        assert own.backends() == {"selective-scan": "chunked-scan"}


@pytest.mark.gpu
@pytest.mark.parametrize("fused", [False, True])
def test_agrees_on_a_gpu(fused):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if fused:
        pytest.importorskip("mamba_ssm", reason="mamba-ssm is not installed")
    inputs = [v.requires_grad_() for v in draw(2, 300, 8, 16)]
    expected = naive(*inputs)
    wanted = torch.autograd.grad(expected.square().sum(), inputs)
    moved = [v.detach().float().cuda().requires_grad_() for v in inputs]
    y = (module.fused_selective_scan if fused else selective_scan)(*moved)
    found = torch.autograd.grad(y.square().sum(), moved)
    for left, right in zip((y, *found), (expected, *wanted), strict=True):
        torch.testing.assert_close(left.cpu().double(), right, atol=1e-3 * float(right.abs().max()), rtol=0)
