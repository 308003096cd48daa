"""Studies with a known truth, in memory and many a second: a generator that shares no code with the analysis.

Every (label, length, process) has an error of either side, blocks have theirs, and a process as a whole is as
slow as the machine is just then. What a process's blocks come to is worked out here, with plain NumPy; the records
hold just that, as one pair of blocks.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping

import factories
import msgspec
import numpy as np

from harness.analysis.evidence import Evidence, against
from harness.analysis.load import Counted, Folder
from harness.analysis.ruling import rule, tolerances
from harness.records.schema import Block, Timing, encode, write, write_atomic
from harness.study.claim import load_cards
from harness.study.manifest import Manifest
from harness.study.schema import SpeedSection, Study, Sweep

CLAIMS = {card.id: card for card in load_cards()}
# The default study's shape.
LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)
TOKENS, PAIRS = 8192, 6


@dataclasses.dataclass(frozen=True)
class Noise:
    """Errors in log seconds.

    Attributes:
        side: Standard deviation per process and side; of t(2) its scale.
        block: Standard deviation per block.
        tails: Degrees of freedom of the process's errors; None: normal.
        uneven: Variance at the longest length over that at the shortest, in equal steps between.
        outliers: Share of processes one side of which is three times too slow.
        drift: How much slower the machine becomes from the first process to the last, which run in shuffled order.
        bias: Factor by which the model's side is slower whatever it is.
        shared: Standard deviation per process of what slows both its sides alike.
    """

    side: float = 0.03
    block: float = 0.03
    tails: float | None = None
    uneven: float = 1.0
    outliers: float = 0.0
    drift: float = 0.0
    bias: float = 1.0
    shared: float = 0.0


NOISES = {
    "3 %": Noise(),
    "15 %": Noise(side=0.15, block=0.15),
    "t(2)": Noise(tails=2),
    "uneven": Noise(uneven=3),
    "outliers": Noise(outliers=0.05),
    "drift": Noise(drift=0.2),
    # What the three runs of the default on two cores of an EPYC show, about the median of their labels and lengths:
    # processes differ by nine per cent, their sides by half of that.
    "shared": Noise(side=0.023, block=0.04, shared=0.08),
}

Costs = Mapping[str, Callable[[int], float]]


def _sides(rng, shape, noise):
    """Errors `[2, *shape]` of the two sides of every process, shape `(labels, lengths, processes)`."""
    both = (2, *shape)
    drawn = rng.normal(size=both) if noise.tails is None else rng.standard_t(noise.tails, both)
    spread = np.sqrt(np.linspace(1, noise.uneven, shape[1]))[:, None]
    found = noise.side * spread * drawn
    slow = rng.random(shape) < noise.outliers
    which = rng.integers(0, 2, shape)
    found += np.log(3) * slow * np.stack([which == 0, which == 1])
    found[0] += np.log(noise.bias)
    if noise.shared:
        found += rng.normal(0, noise.shared, shape)
    place = rng.permutation(np.prod(shape)).reshape(shape) / np.prod(shape)
    return found + np.log1p(noise.drift * place)


def logs(rng, costs: Costs, processes, noise):
    """`[labels, lengths, processes]` log seconds of the model's side, and log of model over partner."""
    truth = np.log([[TOKENS * cost(length) for length in LENGTHS] for cost in costs.values()])
    shape = (*truth.shape, processes)
    sides = _sides(rng, shape, noise)[..., None] + rng.normal(0, noise.block, (2, *shape, PAIRS))
    ratio = np.median(sides[0] - sides[1], axis=-1)
    return truth[..., None] + np.median(sides[0], axis=-1), (truth - truth[0])[..., None] + ratio


@functools.cache
def _places(labels, processes):
    truths = {label: factories.HYENAREC if label == "hyenarec" else factories.TRUTHS["sasrec-math"] for label in labels}
    cells = [
        factories.speed_cell(label, truths, "constant-tokens", "tokens", length, TOKENS // length, process, ["time"])
        for label, length, process in itertools.product(labels, LENGTHS, range(processes))
    ]
    rng = np.random.default_rng(0)
    return cells, [factories.speed_record(cell, truths, rng) for cell in cells]


def folder(rng, costs: Costs, processes: int | Mapping[str, int], noise=NOISES["3 %"]):
    """A study of these labels, the first of them `hyenarec`, as if read from its folder.

    `processes` are those of a length, one number or one a label.
    """
    of = processes if isinstance(processes, Mapping) else dict.fromkeys(costs, processes)
    most = max(of.values())
    cells, plain = _places(tuple(costs), most)
    seconds, ratios = logs(rng, costs, most, noise)
    counted = []
    for cell, record, own, ratio in zip(cells, plain, seconds.flat, ratios.flat, strict=True):
        if cell.spec.replicate >= of[cell.label]:
            continue
        blocks = [
            Block(side="model", phase="step", steps=1, seconds=float(np.exp(own))),
            Block(side="partner", phase="step", steps=1, seconds=float(np.exp(own - ratio))),
        ]
        timed = msgspec.structs.replace(record, timing=Timing(paired=True, warmups=[], blocks=blocks))
        counted.append(Counted(cell, timed, "ok", None, False))
    return Folder(Manifest(study=Study(name="x"), claims=[], cells=[c.cell for c in counted]), counted, [], [], [])


def rulings(found: Folder, claims):
    """What the shipped cards come to."""
    chosen = [CLAIMS[name] for name in claims]
    # Cards about the same lengths share a view of the records, as in an analysis.
    views = {}
    for card in chosen:
        views.setdefault(str(card.lengths), Evidence(against(found, card), tolerances(chosen)))
    return [rule(card, views[str(card.lengths)]) for card in chosen]


def verdicts(found: Folder, claims):
    """Claim → overall verdict."""
    return {claim.id: claim.overall.verdict for claim in rulings(found, claims)}


def written(path, found: Folder, claims):
    """The same study as files, with its cards."""
    labels = list(dict.fromkeys(cell.label for cell in found.manifest.cells))
    sweeps = {"constant-tokens": Sweep(lengths=list(LENGTHS), tokens=TOKENS, replicates=3)}
    study = Study(name="factory", speed=SpeedSection(models=labels, sweeps=sweeps), variants={})
    manifest = Manifest(study=study, claims=[CLAIMS[name] for name in claims], cells=found.manifest.cells)
    write_atomic(path / "study.json", encode(manifest))
    for counted in found.counted:
        write(counted.record, path / counted.path)
    return path


def rates(costs, claims, processes, noise, trials, seed):
    """(claim, verdict) → share of the trials."""
    rng = np.random.default_rng(seed)
    found = dict.fromkeys(itertools.product(claims, ("supported", "refuted", "inconclusive", "missing")), 0)
    for _ in range(trials):
        for claim, verdict in verdicts(folder(rng, costs, processes, noise), claims).items():
            found[claim, verdict] += 1
    return {key: count / trials for key, count in found.items()}


# --- truths --------------------------------------------------------------------------------------


def flat(length):
    return 1e-5


def rising(factor):
    """As log₂ L, `factor` times as much at 8,192 as at 1,024."""
    share = (factor - 1) / 3
    return lambda length: 1e-5 * (1 + share * (np.log2(length) - 10))


def attention(ratio, exponent=1.0, over=flat):
    """A cost per token u + a·L^b that is `ratio` times that of `over` at 8,192, an eighth of it not growing."""
    top = ratio * over(LENGTHS[-1])
    return lambda length: top * (0.05 + 0.95 * (length / LENGTHS[-1]) ** exponent)


def curve(speedups, over=flat):
    """A cost that makes these speed-ups, one a length."""
    known = dict(zip(LENGTHS, speedups, strict=True))
    return lambda length: known[length] * over(length)
