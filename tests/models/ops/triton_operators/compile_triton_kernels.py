"""Compiles every kernel that a forward and backward pass would launch, for an H100, on a machine without a GPU.

Run as a program by test_triton_compile.py, in a process of its own: Triton's interpreter, which the other tests
use, must be off. Prints one line of JSON: kernel, shared memory in bytes.
"""

import json
import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from models.ops.convolution import triton_dense
from models.ops.legendre import triton as triton_tree
from models.ops.legendre.taps import LegendreKernel

POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}


class Compiling:
    """Stands in for a kernel: takes its launches and compiles what they would run."""

    def __init__(self, kernel, compiled):
        self.kernel, self.compiled = kernel, compiled

    def __getitem__(self, grid):
        return self.compile

    def compile(self, *arguments, **options):
        signature, constants, attributes = {}, {}, {}
        for n, (parameter, argument) in enumerate(zip(self.kernel.params, arguments, strict=True)):
            if isinstance(argument, torch.Tensor):
                signature[parameter.name] = POINTERS[argument.dtype]
                attributes[n,] = [["tt.divisibility", 16]]
            elif parameter.is_constexpr or argument is None or argument == 1:
                signature[parameter.name] = "constexpr"
                constants[n,] = argument
            else:
                signature[parameter.name] = "i32"
                if argument % 16 == 0:
                    attributes[n,] = [["tt.divisibility", 16]]
        source = ASTSource(self.kernel, signature, constants, attributes)
        binary = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        self.compiled.append((self.kernel.__name__, binary.metadata.shared))


def stand_in(module, compiled):
    for name, value in list(vars(module).items()):
        if isinstance(value, triton.JITFunction):
            setattr(module, name, Compiling(value, compiled))


def dense(dtype, batch, length, gates, width):
    def draw(*shape):
        return torch.randn(*shape, requires_grad=True)

    def stream():
        return torch.randn(2, batch, length, dtype=dtype, requires_grad=True)

    short = draw(1 + 2 * gates, 2, width) if width else None
    gate = {"pre_gate": stream(), "post_gate": stream()} if gates else {}
    triton_dense.dense_convolution(stream(), draw(2, length), draw(2), short=short, **gate).sum().backward()


def tree(dtype, batch, length, order, decays):
    x = torch.randn(2, batch, length, dtype=dtype, requires_grad=True)
    decay = torch.full((2,), 0.01, requires_grad=True) if decays else None
    kernel = LegendreKernel(torch.randn(2, order, requires_grad=True), length, decay)
    triton_tree.triton_tree_convolution(x, kernel).sum().backward()


CASES = {
    "default": (
        lambda: dense(torch.bfloat16, 64, 512, True, 3),
        lambda: tree(torch.bfloat16, 4, 4096, 16, True),
    ),
    "all": (
        lambda: dense(torch.float32, 64, 512, True, 3),
        lambda: dense(torch.float16, 1, 1, True, 2),
        lambda: dense(torch.float32, 40, 50, False, 0),
        lambda: tree(torch.float32, 4, 4096, 16, True),
        lambda: tree(torch.float32, 1, 32, 4, True),
        lambda: tree(torch.float16, 1, 600, 33, False),
        lambda: tree(torch.bfloat16, 2, 1016, 64, True),
        lambda: tree(torch.float32, 2, 1016, 64, True),
    ),
}


if __name__ == "__main__":
    launches = []
    stand_in(triton_dense, launches)
    stand_in(triton_tree, launches)
    for case in CASES[sys.argv[1]]:
        case()
    print(json.dumps(launches))
