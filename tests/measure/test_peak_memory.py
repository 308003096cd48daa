"""Known amounts, allocated and found again. Each in a process of its own: an allocator keeps its past."""

import json
import os
import platform
import subprocess
import sys

import pytest
import torch

from harness.measure.peak_memory import Peak
from harness.run.allocator import KEEP_BLOCKS, RETURN_BLOCKS, clean_environment

MIB = 1 << 20
# Bookkeeping of interpreter and allocator, and pages the kernel counts in batches.
SLACK = 4 * MIB


def child(body, allocator):
    """What `body` leaves in `found`, run under an allocator's settings."""
    code = f"import json\nimport torch\nfrom harness.measure.peak_memory import Peak\n{body}\nprint(json.dumps(found))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**clean_environment(), "OMP_NUM_THREADS": "1", **allocator},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


needs_clear_refs = pytest.mark.skipif(
    Peak(torch.device("cpu")).method is None, reason="/proc/self/clear_refs cannot be written here"
)


@needs_clear_refs
def test_a_peak_is_found_to_within_four_mebibytes_and_forgotten_by_a_reset():
    found = child(
        """
peak = Peak(torch.device("cpu"))
found = []
for mebibytes in (8, 64, 256):
    peak.reset()
    blocks = [torch.ones(mebibytes << 17, dtype=torch.float64) for _ in range(2)]
    del blocks[0]
    blocks.append(torch.ones(1 << 17, dtype=torch.float64))
    found.append(peak.read())
    del blocks
peak.reset()
found.append(peak.read())
""",
        RETURN_BLOCKS,
    )
    for value, mebibytes in zip(found, (16, 128, 512, 0), strict=True):
        assert value == pytest.approx(mebibytes * MIB, abs=SLACK)


@needs_clear_refs
def test_neither_a_parents_peak_counts_nor_memory_that_is_only_reserved():
    large = bytearray(os.urandom(1 << 20)) * 300
    found = child(
        """
peak = Peak(torch.device("cpu"))
peak.reset()
found = [peak.read()]
x = torch.empty(64 << 20)
found.append(peak.read())
""",
        RETURN_BLOCKS,
    )
    assert len(large) == 300 * MIB
    assert max(found) < SLACK


FAULTS = """
import resource
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def fill():
    block = torch.ones(16 << 17, dtype=torch.float64)
# An aligned block leaves a crumb that its twin does not fit into; only once those are cached is it met again.
for _ in range(30):
    fill()
before = faults()
for _ in range(5):
    fill()
found = (faults() - before) / 5
"""


@pytest.fixture(scope="module")
def returned():
    return child(FAULTS, RETURN_BLOCKS)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc's allocator")
@pytest.mark.parametrize("names", [list(KEEP_BLOCKS), ["MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_"]])
def test_timing_children_keep_their_blocks_and_memory_children_do_not(returned, names):
    pages = 16 * MIB / os.sysconf("SC_PAGE_SIZE")
    kept = child(FAULTS, {name: KEEP_BLOCKS[name] for name in names})
    assert kept < 0.01 * pages
    # Huge pages fault in fewer, larger pieces.
    assert returned > 10 * max(kept, 1.0)


@pytest.mark.gpu
def test_a_peak_on_a_gpu_is_exact():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    device = torch.device("cuda")
    kept = torch.ones(MIB, device=device)
    peak = Peak(device)
    for mebibytes in (8, 64, 256):
        peak.reset()
        blocks = [torch.ones(mebibytes << 18, device=device) for _ in range(2)]
        del blocks
        assert peak.read() == 2 * mebibytes * MIB
    peak.reset()
    assert peak.read() == 0
    assert kept.numel() == MIB
