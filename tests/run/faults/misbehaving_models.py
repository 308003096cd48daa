"""Models that do to their process what no model should; an installed package of them."""

import ctypes
import os
import subprocess
import sys
import time

import torch

from models.base import register
from models.gru4rec import GRU4Rec, GRU4RecConfig


@register("loops", family="recurrent", causal=True, citation="none", config=GRU4RecConfig)
class Loops(GRU4Rec):
    def forward(self, items, timestamps=None):
        while True:
            pass


@register("ends-with-0", family="recurrent", causal=True, citation="none", config=GRU4RecConfig)
class EndsWith0(GRU4Rec):
    def forward(self, items, timestamps=None):
        os._exit(0)


@register("raises-system-exit", family="recurrent", causal=True, citation="none", config=GRU4RecConfig)
class RaisesSystemExit(GRU4Rec):
    def forward(self, items, timestamps=None):
        sys.exit(0)


@register("prints", family="recurrent", causal=True, citation="none", config=GRU4RecConfig)
class Prints(GRU4Rec):
    def __init__(self, config):
        super().__init__(config)
        line = "words " * 200
        for _ in range(100_000_000 // len(line)):
            print(line)


@register("forks", family="recurrent", causal=True, citation="none", config=GRU4RecConfig)
class Forks(GRU4Rec):
    def __init__(self, config):
        super().__init__(config)
        if os.fork() == 0:
            os.setsid()
            os.execvpe("sleep", ["sleep", "4321"], {})


@register("segfaults", family="recurrent", causal=True, citation="none", config=GRU4RecConfig)
class Segfaults(GRU4Rec):
    def forward(self, items, timestamps=None):
        return ctypes.string_at(0)


@register("eats", family="recurrent", causal=True, citation="none", config=GRU4RecConfig)
class Eats(GRU4Rec):
    def forward(self, items, timestamps=None):
        self.kept = [torch.ones(10_000_000) for _ in range(10_000)]


@register("nan", family="recurrent", causal=True, citation="none", config=GRU4RecConfig)
class Nan(GRU4Rec):
    def forward(self, items, timestamps=None):
        return super().forward(items) * float("nan")


@register("changes", family="recurrent", causal=True, citation="none", config=GRU4RecConfig)
class Changes(GRU4Rec):
    def __init__(self, config):
        super().__init__(config)
        torch.manual_seed(5)
        torch.set_num_threads(2)
        torch.set_default_dtype(torch.float64)


@register("patches", family="recurrent", causal=True, citation="none", config=GRU4RecConfig)
class Patches(GRU4Rec):
    def __init__(self, config):
        super().__init__(config)
        torch.nn.functional.linear = None
        torch.optim.AdamW.step = lambda self: time.sleep(1)
        subprocess.Popen = None


@register("closes", family="recurrent", causal=True, citation="none", config=GRU4RecConfig)
class Closes(GRU4Rec):
    def forward(self, items, timestamps=None):
        os.closerange(0, 256)
        return super().forward(items)
