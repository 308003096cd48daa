import pytest
import torch
from triton_support import needs_gpu, needs_triton, run_cases

from models.ops.build import accelerated


@needs_triton
def test_cases():
    run_cases("triton_dense_cases.py")


@needs_triton
def test_available_follows_device_and_interpreter(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not accelerated.available(cpu)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert accelerated.available(cpu)
    monkeypatch.setattr(accelerated, "is_usable", lambda module: False)
    assert not accelerated.available(cpu)


@pytest.mark.gpu
@needs_gpu
@needs_triton
@pytest.mark.parametrize("length", [128, 200, 512])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_full_size_on_a_gpu(length, dtype, tolerance):
    from triton_dense_cases import draw, errors, in_type, results, single

    # Rounded first, so that both sides convolve the same numbers.
    inputs = [tensor.to(dtype).double() for tensor in draw(8, 100, length, length)]

    assert max(errors(inputs, in_type(dtype))) <= tolerance
    first, second = (results(in_type(dtype), inputs, single) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
