"""Faults that are put in for real, counted by kind; the table stands at the end of `make test-faults`."""

import contextlib
import os
from collections import Counter

import pytest
from scene import Scene

INJECTED, SURVIVED = pytest.StashKey[Counter](), pytest.StashKey[Counter]()
# How many signals and damages there are in all, and the seed that they are drawn from.
COUNT = int(os.environ.get("FAULTS", "20"))
SEED = int(os.environ.get("FAULTS_SEED", "0"))


class Ledger:
    """Counts what was put in, and what nothing was lost or falsified by."""

    def __init__(self, stash):
        self.injected, self.survived = stash[INJECTED], stash[SURVIVED]

    @contextlib.contextmanager
    def fault(self, kind, count=1):
        """Counts faults; survived if the checks that stand inside hold."""
        self.injected[kind] += count
        yield
        self.survived[kind] += count


def pytest_configure(config):
    config.stash[INJECTED], config.stash[SURVIVED] = Counter(), Counter()


@pytest.fixture
def ledger(request):
    return Ledger(request.config.stash)


@pytest.fixture
def share():
    """How many of the faults of this run one test puts in: its share of `FAULTS`, at least one."""
    return lambda part: max(1, round(COUNT * part))


@pytest.fixture
def seed(request):
    return f"{SEED} {request.node.name}"


@pytest.fixture
def scene(tmp_path, request):
    """Makes scenes, of what the test's module says in `SCENE` where a test says nothing else, and removes them."""
    made, usual = [], getattr(request.module, "SCENE", {})

    def make(**how):
        made.append(Scene(tmp_path / f"scene-{len(made)}", **{**usual, **how}))
        return made[-1]

    yield make
    for one in made:
        one.remove()


def pytest_terminal_summary(terminalreporter, config):
    injected, survived = config.stash[INJECTED], config.stash[SURVIVED]
    if injected:
        terminalreporter.section("faults")
        width = max(map(len, injected))
        terminalreporter.write_line(f"{'kind':<{width}}  injected  survived")
        for kind in sorted(injected):
            terminalreporter.write_line(f"{kind:<{width}}  {injected[kind]:>8,}  {survived[kind]:>8,}")
        terminalreporter.write_line(f"{'all':<{width}}  {injected.total():>8,}  {survived.total():>8,}   seed {SEED}")
