"""What the rules of the claims read, and the helpers they share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from harness.analysis.estimates.accuracy import Runs
from harness.analysis.estimates.scaling import Series
from harness.analysis.estimates.timing import Group
from harness.analysis.load import Counted, Folder
from harness.analysis.results import ClaimVerdict, OpenInterval
from harness.analysis.rows import Censored, Crossover, MemoryPoint, NoiseFloor, ScalingLaw, SpeedupPoint, StreamPoint
from harness.errors import UserError
from harness.study.claim import Claim, Verdict

# The verdict that decides a conjunction, strongest first.
_SEVERITY: tuple[Verdict, ...] = ("refuted", "inconclusive", "missing", "supported")


# What a backend costs where that stands in the way of a claim of linear time.
_ORDER = {"fft": ", which is O(n log n)", "dense": ", which is O(n²)"}


# Over 64 times the length softmax attention's declared operations per token grow several times.
_DECLARED_GROWTH = 0.02


@dataclass(frozen=True)
class Findings:
    """All rows of an analysis, before it is ruled on."""

    folder: Folder
    groups: list[Group]
    series: dict[tuple[str, str, str], Series]
    speedups: list[SpeedupPoint]
    floors: list[NoiseFloor]
    crossovers: list[Crossover]
    laws: list[ScalingLaw]
    memory: list[MemoryPoint]
    censored: list[Censored]
    runs: list[Runs]
    streams: Sequence[StreamPoint] = ()

    @property
    def partner(self) -> str:
        """Label of the timing partner."""
        return self.folder.manifest.study.timing_partner

    def family(self, label: str) -> str | None:
        """Family of a label, from its records or those of another variant of its model."""
        families: dict[str, str] = {}
        for counted in self.folder.counted:
            if counted.record is not None and counted.record.model is not None:
                families[counted.cell.spec["model"]["name"]] = counted.record.model.family
        return next(
            (families.get(c.spec["model"]["name"]) for c in self.folder.manifest.cells if c.label == label), None
        )

    def model_name(self, label: str) -> str | None:
        """Registered name of a label's model, from the study's cells."""
        return next((c.spec["model"]["name"] for c in self.folder.manifest.cells if c.label == label), None)

    def attention(self) -> list[str]:
        """Labels that claims about attention mean, one per kernel: all of the family but linear ones.

        Linear attention is of the family, but what is published about attention's cost is not
        about it. A label counts as linear by the cost its model declares.
        """
        family = [label for label in self.folder.labels() if self.family(label) == "attention"]
        return [label for label in family if not self._declared_linear(label)]

    def _declared_linear(self, label: str) -> bool:
        """Whether a model's declared operations per token are the same at all its measured lengths."""
        per_token: dict[int, float] = {}
        for counted in self.folder.counted:
            cell, record = counted.cell, counted.record
            if cell.kind != "speed" or cell.label != label or record is None or record.model is None:
                continue
            if record.model.operations is not None:
                tokens = cell.spec["batch"] * cell.spec["length"]
                per_token[cell.spec["length"]] = record.model.operations / tokens
        if len(per_token) < 2:
            return False
        shortest, longest = min(per_token), max(per_token)
        return per_token[longest] <= (1 + _DECLARED_GROWTH) * per_token[shortest]

    def sweeps(self, label: str, constant: str, measure: str) -> list[str]:
        """Sweeps in which the study asks for a label."""
        return list(
            dict.fromkeys(
                c.spec["sweep"]
                for c in self.folder.manifest.cells
                if c.kind == "speed"
                and c.label == label
                and c.spec["constant"] == constant
                and measure in c.spec["measure"]
            )
        )

    def arms(
        self, labels: Iterable[str], constant: str = "tokens", measure: str = "time"
    ) -> list[tuple[str, str, str]]:
        """(variant's name, label, sweep): the label alone where the study has it in one sweep only.

        Where a study times a label at a constant batch only (published tables do), that counts: the law
        holds per sequence too, and a speed-up is one at either.
        """
        found = []
        for label in labels:
            sweeps = self.sweeps(label, constant, measure)
            if not sweeps and (constant, measure) == ("tokens", "time"):
                sweeps = self.sweeps(label, "batch", measure)
            found += [(label if len(sweeps) == 1 else f"{label} ({sweep})", label, sweep) for sweep in sweeps]
        return found

    def points(self, label: str, sweep: str) -> list[SpeedupPoint]:
        """Speed-ups over one label in one sweep, lengths increasing."""
        return [p for p in self.speedups if (p.label, p.sweep) == (label, sweep)]

    def floor(self, sweep: str) -> float | None:
        """Noise floor of a sweep as a factor; None where there is no A/A control with an interval."""
        return next((f.factor for f in self.floors if f.sweep == sweep), None)

    def law(self, label: str, sweep: str) -> ScalingLaw | None:
        """Scaling law of one label in one sweep."""
        return next((w for w in self.laws if (w.label, w.sweep) == (label, sweep)), None)

    def evidence(self, labels: Iterable[str], sweep: str, phase: str = "step") -> list[str]:
        """Paths of the records that timed these labels."""
        wanted = set(labels)
        found = [g for g in self.groups if g.label in wanted and g.sweep == sweep and g.phase == phase]
        return [path for g in found for path in g.paths]

    def ran(self, label: str, sweep: str) -> str:
        """A clause on what ran at the largest length, and what that costs where it is no O(n)."""
        own = [r for _, r in self.folder.speed() if (r.label, r.sweep) == (label, sweep) and r.model is not None]
        if not own:
            return ""
        last = max(own, key=lambda r: r.length)
        backends = last.model.backends if last.model is not None else {}
        found = [f"{operator} by {name}{_ORDER.get(name, '')}" for operator, name in backends.items()]
        return f" At {last.length:,} ran: {', '.join(found)}." if found else ""

    def gaps(self, label: str, sweep: str) -> list[str]:
        """Speed cells without a final record, one sentence."""
        open_cells = [
            c
            for c in self.folder.counted
            if c.record is None and c.cell.kind == "speed" and (c.cell.label, c.cell.spec["sweep"]) == (label, sweep)
        ]
        return describe(open_cells, f"speed cells of {label} in {sweep}")

    def training_gaps(self, label: str, dataset: str) -> list[str]:
        """Training cells without a ranking, also those out of memory or time, or diverged; one sentence."""
        open_cells = [
            c
            for c in self.folder.counted
            if (c.record is None or c.record.status != "ok")
            and c.cell.kind == "training"
            and (c.cell.label, c.cell.spec["dataset"]) == (label, dataset)
        ]
        return describe(open_cells, f"training cells of {label} on {dataset}")

    def bounded(self, label: str, sweep: str) -> str:
        """A clause on lengths that ended in OOM or time-out, or nothing."""
        own = [c for c in self.censored if (c.kind, c.label, c.where) == ("speed", label, sweep)]
        if not own:
            return ""
        found = dict.fromkeys((c.length, c.status) for c in own)
        return f" Not measurable: {', '.join(f'length {length:,} ({status})' for length, status in found)}."


def describe(cells: Sequence[Counted], what: str) -> list[str]:
    """One sentence that names cells without a result; empty for none."""
    if not cells:
        return []
    lengths = dict.fromkeys(c.cell.spec["length"] for c in cells if c.cell.spec["length"] is not None)
    at = f" at length {', '.join(f'{length:,}' for length in lengths)}" if lengths else ""
    states = ", ".join(dict.fromkeys(c.status for c in cells))
    return [f"{len(cells)} {what}{at} ({states}), for instance {cells[0].path}"]


def threshold(claim: Claim) -> float:
    """The claim's threshold.

    Raises:
        UserError: The claim has none.
    """
    if claim.threshold is None:
        raise UserError(f"claim '{claim.id}' has no threshold; its rule needs one: give it a number in claims.yaml")
    return claim.threshold


def margin(claim: Claim) -> float:
    """The claim's margin.

    Raises:
        UserError: The claim has none.
    """
    if claim.margin is None:
        raise UserError(f"claim '{claim.id}' has no margin; its rule needs one: give it a number in claims.yaml")
    return claim.margin


def missing(claim: Claim, variant: str, what: Sequence[str]) -> ClaimVerdict:
    """The verdict where nothing that could decide was measured."""
    return ClaimVerdict(
        id=claim.id,
        variant=variant,
        verdict="missing",
        threshold=claim.threshold,
        margin=claim.margin,
        detail=f"Nothing to rule on: {'; '.join(what)}.",
        missing=list(what),
    )


def conjunction(
    claim: Claim, variants: Sequence[ClaimVerdict], nothing: str, *, larger_is_stronger: bool = True
) -> ClaimVerdict:
    """The overall verdict of a claim that must hold for every one of its variants.

    Refuted if any variant is refuted; supported if all are supported; missing if all are missing; else
    inconclusive. The numbers are those of the variant that decides: of those with the verdict that
    counts, the one that speaks least for the claim.

    Args:
        claim: The claim.
        variants: Verdicts on its variants.
        nothing: What is missing where there are none.
        larger_is_stronger: Whether a larger statistic speaks more for the claim.
    """
    if not variants:
        return missing(claim, "", [nothing])
    verdicts = [v.verdict for v in variants]
    verdict: Verdict = "inconclusive"
    if "refuted" in verdicts:
        verdict = "refuted"
    elif len(set(verdicts)) == 1:
        verdict = verdicts[0]

    def strength(v: ClaimVerdict) -> tuple[int, float]:
        value = math.inf if v.statistic is None else v.statistic if larger_is_stronger else -v.statistic
        return _SEVERITY.index(v.verdict), value

    deciding = min(variants, key=strength)
    if len(variants) == 1:
        return msgspec.structs.replace(deciding, variant="")
    sizes = [v.sample_size for v in variants if v.sample_size is not None]
    parts = ", ".join(f"{v.variant}: {v.verdict}{number(v.statistic)}" for v in variants)
    return msgspec.structs.replace(
        deciding,
        variant="",
        verdict=verdict,
        detail=f"{parts}. {deciding.variant}: {deciding.detail}",
        evidence=list(dict.fromkeys(path for v in variants for path in v.evidence)),
        missing=list(dict.fromkeys(what for v in variants for what in v.missing)),
        sample_size=max(sizes) if verdict == "inconclusive" and sizes else None,
    )


def number(value: float | None) -> str:
    """A statistic in brackets, or nothing."""
    return "" if value is None else f" ({value:.3g})"


def span(interval: OpenInterval | None, unit: str = "") -> str:
    """An interval in words."""
    if interval is None:
        return "no interval"
    low, high = ("open" if end is None else f"{end:.3g}{unit}" for end in interval)
    return f"95 % interval {low} to {high}"
