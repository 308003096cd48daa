import pytest
import torch
from triton_support import DEVICE, needs_gpu, needs_triton, run_cases


@needs_triton
def test_cases():
    run_cases("triton_tree_cases.py")


@pytest.mark.gpu
@needs_gpu
@needs_triton
@pytest.mark.parametrize("length", [512, 600, 8192, 65536])
@pytest.mark.parametrize("order", [16, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_full_size_on_a_gpu(length, order, dtype):
    from triton_tree_cases import draw, errors, results, tree

    inputs = draw(8, 4, length, order)
    # Rounded first, so that both sides convolve the same numbers.
    inputs = (inputs[0].to(dtype).double(), *inputs[1:])
    y, x, *parameters = errors(inputs, length, dtype)
    # In bfloat16 y and ∂x are rounded once, on the way out; the parameters' gradients are not.
    assert max(y, x) <= (1e-5 if dtype == torch.float32 else 3e-3)
    assert max(parameters) <= 2e-5
    first, second = (results(tree, inputs, length, DEVICE, torch.float32, dtype) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
