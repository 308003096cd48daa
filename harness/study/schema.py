"""Study: what to compare. Typed, validated, and expanded to cells. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from harness.data.catalogue import SOURCES, DataSource
from harness.errors import UserError, unknown
from harness.records.environment import has_gpu
from harness.study.training import TrainingSection
from harness.study.yaml_reading import Count, Positive, Section, Share, read_yaml
from models import registry

Measure = Literal["time", "memory"]
Phase = Literal["step", "forward", "stream", "rest"]
Verdict = Literal["supported", "refuted", "inconclusive", "missing"]


class Sweep(Section, frozen=True):
    """Lengths at constant tokens per batch, or at a constant batch; exactly one of the two.

    Attributes:
        lengths: Sequence lengths, in events.
        tokens: Tokens per batch; the batch is tokens / length.
        batch: Sequences per batch.
        replicates: Processes per point.
        measure: `time` (paired), `memory` (a pass of its own, in replicate 0), or both.
        models: Labels; default: the section's.
    """

    lengths: list[Count]
    tokens: Count | None = None
    batch: Count | None = None
    replicates: Count = 3
    measure: Annotated[list[Measure], msgspec.Meta(min_length=1)] = msgspec.field(default_factory=lambda: ["time"])
    models: list[str] | None = None

    def batch_at(self, length: int) -> int:
        """Sequences per batch at a length."""
        return self.batch if self.batch is not None else max(1, (self.tokens or length) // length)


class SpeedSection(Section, frozen=True):
    """Speed cells. A step is forward, loss, backward and optimiser step.

    Attributes:
        phases: What to time: `step`, `forward`, `stream` (one more event of one user, after short and
            long histories, a second a cell; for models that stream), `rest` (a step without the layers).
        budget_seconds: Most that a cell measures one phase, both sides together.
        minimum_seconds: Least a side measures.
        minimum_steps: Least number of steps a side measures.
        first: Labels whose replicates all come before the other labels' first; empty: replicate by replicate,
            all labels alike.
        catalogue_items: Items of the random catalogue.
        negatives: Shared negatives of the sampled softmax.
    """

    models: Annotated[list[str], msgspec.Meta(min_length=1)]
    sweeps: Annotated[dict[str, Sweep], msgspec.Meta(min_length=1)]
    phases: list[Phase] = msgspec.field(default_factory=lambda: ["step"])
    budget_seconds: Positive = 8.0
    minimum_seconds: Positive = 1.0
    minimum_steps: Count = 5
    timeout_seconds: Positive = 600.0
    first: list[str] = msgspec.field(default_factory=list)
    catalogue_items: Count = 10_000
    negatives: Count = 256
    learning_rate: Positive = 1e-3
    compile: bool = False

    def rank(self, label: str, replicate: int) -> int:
        """How early a cell runs; see `Cell.rank`."""
        return replicate + (0 if label in self.first else self.delay())

    def delay(self) -> int:
        """Ranks by which what is not in `first` comes later."""
        return max((sweep.replicates for sweep in self.sweeps.values()), default=0) if self.first else 0


class ModelDefaults(Section, frozen=True):
    """Options that all models of a study share."""

    hidden_size: Count = 64
    num_layers: Count = 2
    dropout: Share = 0.2


class Study(Section, frozen=True):
    """One study file.

    Attributes:
        name: Folder under results/.
        device: `cpu`, `cuda`, or `auto`: cuda where there is a GPU.
        precision: `float32`, or `bfloat16` for autocast.
        threads: CPU threads; null: the cores this process may use.
        memory_limit_bytes: Resident memory at which a cell counts as out of memory; null: 90 %
            of the machine's.
        timing_partner: Label that every speed cell is paired with.
        variants: Label → `{model: name, option: value, …}`; a registered name needs none.
        data: Further data sets by name.
        data_folder: Where real data lies; the environment variable HYENAREC_DATA wins.
        claims: Ids of the claims to rule on; null: all.
        operator: Whether the workflow also times the convolution operator by itself (`bench --quick`).
    """

    name: str
    description: str = ""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    threads: Count | None = None
    memory_limit_bytes: Count | None = None
    timing_partner: str = "hyenarec"
    model: ModelDefaults = ModelDefaults()
    variants: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    speed: SpeedSection | None = None
    training: TrainingSection | None = None
    data: dict[str, DataSource] = msgspec.field(default_factory=dict)
    data_folder: str | None = None
    claims: list[str] | None = None
    operator: bool = False

    def sources(self) -> dict[str, DataSource]:
        """All data sets this study may name."""
        return {**SOURCES, **self.data}


class Claim(Section, frozen=True):
    """A published sentence and the rule that decides it; fixed before measuring.

    Attributes:
        id: Short name.
        sentence: The claim as published.
        source: Where it was published.
        statistic: What is computed, in words.
        records: Which records it needs, in words.
        threshold: Value the statistic is held against; null where the claim needs none.
        margin: Tolerance or non-inferiority margin.
    """

    id: str
    sentence: str
    source: str
    statistic: str
    records: str
    threshold: float | None = None
    margin: float | None = None


class Cell(Section, frozen=True):
    """One point of the grid = one job = one child process = one record.

    Attributes:
        kind: `speed` or `training`.
        label: Model as the study names it.
        coordinates: Readable point, such as `constant-tokens-L1024-r0`.
        digest: First 8 hex digits of the resolved spec's sha256.
        rank: Lower is more informative; cells of one rank run in shuffled order.
        spec: Everything that decides the result.
    """

    kind: Literal["speed", "training"]
    label: str
    coordinates: str
    digest: str
    rank: int
    spec: dict[str, Any]

    @property
    def key(self) -> str:
        """`label/coordinates-digest`, how a command names a cell."""
        return f"{self.label}/{self.coordinates}-{self.digest}"

    @property
    def path(self) -> str:
        """Record path below the study's folder."""
        return f"{self.kind}/{self.key}.json"

    @property
    def shuffle(self) -> int:
        """Place in a shuffled, reproducible order, so that drift is not confounded with length."""
        return int(hashlib.sha256(self.path.encode()).hexdigest()[:8], 16)


# --- finding and reading -------------------------------------------------------------------------


def resource(name: str) -> Path:
    """A file shipped with the project: of the working directory, the checkout, or the wheel.

    Args:
        name: Path such as `workflow/claims.yaml`.
    """
    for folder in _resource_folders():
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"no '{name}' in {Path.cwd()} or beside the installed package; reinstall the package")


def _resource_folders() -> tuple[Path, ...]:
    package = Path(__file__).resolve().parents[1]
    return Path.cwd(), package.parent, package / "_resources"


def study_names() -> list[str]:
    """Studies that can be named without a path."""
    return sorted({p.stem for folder in _resource_folders() for p in (folder / "workflow/studies").glob("*.yaml")})


def default_study() -> str:
    """The study that follows the machine: `gpu` with one, `cpu` without."""
    return "gpu" if has_gpu() else "cpu"


def find_study(name_or_path: str) -> Path:
    """The file of a study named by name or by path."""
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise UserError(
                f"no study file '{name_or_path}'; name an existing YAML file or one of: {', '.join(study_names())}"
            )
        return path
    if name_or_path not in study_names():
        raise unknown("study", name_or_path, study_names(), "Or give the path of a YAML file.")
    return resource(f"workflow/studies/{name_or_path}.yaml")


def load_study(name_or_path: str) -> Study:
    """Read and validate a study.

    Raises:
        UserError: One line that names the value, the legal values and the remedy.
    """
    path = find_study(name_or_path)
    study: Study = read_yaml(path, Study)
    _validate(study, str(path))
    return study


def load_claims(path: Path | None = None) -> list[Claim]:
    """Read workflow/claims.yaml (or another file of the same form)."""
    claims: list[Claim] = read_yaml(path or resource("workflow/claims.yaml"), list[Claim])
    return claims


# --- checking ------------------------------------------------------------------------------------


def _validate(study: Study, where: str) -> None:
    def fail(message: str) -> UserError:
        return UserError(f"{where}: {message}")

    if study.speed is None and study.training is None:
        raise fail("there is nothing to measure; give it a 'speed' or a 'training' section")
    for what, names in (
        ("name", [study.name]),
        ("label in variants", study.variants),
        ("name in data", study.data),
        ("name in speed.sweeps", study.speed.sweeps if study.speed else ()),
    ):
        for name in names:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
                raise fail(f"{what} '{name}' must be letters, digits, '.', '_' or '-', since it names files")
    labels = [*(study.speed.models if study.speed else []), *(study.training.models if study.training else [])]
    for sweep in study.speed.sweeps.values() if study.speed else ():
        labels += sweep.models or []
    if study.speed:
        timed = set(labels[: len(study.speed.models)]).union(*(s.models or [] for s in study.speed.sweeps.values()))
        for label in study.speed.first:
            if label not in timed:
                raise fail(str(unknown("label in speed.first", label, timed)))
        labels.append(study.timing_partner)
    try:
        for label in [*labels, *study.variants]:
            resolve_model(study, label)
        if study.training:
            for reference in study.training.references:
                if reference not in registry.names(reference=True):
                    raise unknown("reference", reference, registry.names(reference=True))
            for dataset in study.training.datasets:
                if dataset not in study.sources():
                    raise unknown("data set", dataset, study.sources())
            study.training.check()
        for claim in study.claims or ():
            if claim not in (legal := [c.id for c in load_claims()]):
                raise unknown("claim", claim, legal)
    except UserError as error:
        raise fail(str(error)) from None
    for name, sweep in (study.speed.sweeps if study.speed else {}).items():
        if (sweep.tokens is None) == (sweep.batch is None):
            raise fail(f"speed.sweeps.{name} needs exactly one of 'tokens' and 'batch'")
        _distinct(fail, f"speed.sweeps.{name}.lengths", sweep.lengths)
        if sweep.tokens is not None:
            for length in sweep.lengths:
                if sweep.tokens % length:
                    raise fail(f"speed.sweeps.{name}: {sweep.tokens} tokens are no multiple of length {length}")
    for what, names in _lists(study):
        if len(set(names)) < len(names):
            # A repeated seed or model would pass for a replicate.
            raise fail(f"{what} = {names} names something twice; name each once")
    if study.speed and "step" not in study.speed.phases:
        raise fail(f"speed.phases = {study.speed.phases} must name 'step': every claim about training rests on it")
    if study.training:
        _distinct(fail, "training.lengths", study.training.lengths)


def _lists(study: Study) -> Iterator[tuple[str, list[Any]]]:
    yield "claims", study.claims or []
    if study.speed:
        yield "speed.models", study.speed.models
        yield "speed.phases", study.speed.phases
        yield "speed.first", study.speed.first
        for name, sweep in study.speed.sweeps.items():
            yield f"speed.sweeps.{name}.models", sweep.models or []
    if study.training:
        for field in ("models", "datasets", "references", "seeds"):
            yield f"training.{field}", getattr(study.training, field)


def _distinct(fail: Any, what: str, values: list[int]) -> None:
    if not values or len(set(values)) < len(values):
        raise fail(f"{what} = {values} must be distinct, and one at least")


def resolve_model(study: Study, label: str) -> dict[str, Any]:
    """`{"label", "name", "options"}` of a label, every option filled in.

    Raises:
        UserError: Unknown model, option or option value.
    """
    given = dict(study.variants.get(label, {"model": label}))
    trained = registry.names(reference=False)
    if "model" not in given:
        raise UserError(f"variant '{label}' needs a 'model': one of {', '.join(trained)}")
    name = given.pop("model")
    if name not in trained:
        legal = trained if label in study.variants else [*trained, *study.variants]
        raise unknown("model", str(name), legal)
    legal_options = registry.options(name)
    values: dict[str, Any] = {k: o.default for k, o in legal_options.items()}
    values.update(msgspec.structs.asdict(study.model))
    for key, value in given.items():
        if key not in legal_options:
            raise unknown(f"option of {name} in variant '{label}'", key, legal_options)
        option = legal_options[key]
        if option.legal is not None and value not in option.legal:
            raise unknown(f"{key} of {name} in variant '{label}'", str(value), [str(v) for v in option.legal])
        if option.type_name in _SCALARS and not _fits(value, option.type_name):
            raise UserError(f"{key} of {name} in variant '{label}' is {value!r}; it must be of type {option.type_name}")
        values[key] = value
    for key in ("hidden_size", "num_layers"):
        if values[key] < 1:
            raise UserError(f"{key} of '{label}' is {values[key]}; it must be at least 1")
    if not 0 <= values["dropout"] < 1:
        raise UserError(f"dropout of '{label}' is {values['dropout']}; it must be 0 or more and below 1")
    return {"label": label, "name": name, "options": dict(sorted(values.items()))}


_SCALARS = {"int": int, "float": (int, float), "bool": bool, "str": str}


def _fits(value: Any, type_name: str) -> bool:
    if isinstance(value, bool) and type_name != "bool":
        return False
    return isinstance(value, _SCALARS[type_name])  # type: ignore[arg-type]


# --- expanding -----------------------------------------------------------------------------------


def cells(study: Study) -> Iterator[Cell]:
    """All cells of a study."""
    device = study.device if study.device != "auto" else ("cuda" if has_gpu() else "cpu")
    shared = {"device": device, "precision": study.precision, "threads": study.threads}
    if study.memory_limit_bytes is not None:
        shared["memory_limit_bytes"] = study.memory_limit_bytes
    if study.speed:
        yield from _speed_cells(study, study.speed, shared)
    if study.training:
        yield from _training_cells(study, study.training, shared)


def _speed_cells(study: Study, section: SpeedSection, shared: dict[str, Any]) -> Iterator[Cell]:
    for sweep_name, sweep in section.sweeps.items():
        for label in sweep.models or section.models:
            for length in sweep.lengths:
                for replicate in range(sweep.replicates):
                    measure = [m for m in sweep.measure if m == "time" or replicate == 0]
                    if not measure:
                        continue
                    spec = {
                        **shared,
                        "kind": "speed",
                        "model": resolve_model(study, label),
                        "partner": resolve_model(study, study.timing_partner),
                        "sweep": sweep_name,
                        "constant": "batch" if sweep.batch is not None else "tokens",
                        "length": length,
                        "batch": sweep.batch_at(length),
                        "replicate": replicate,
                        "measure": measure,
                        **{f: getattr(section, f) for f in _SPEED_FIELDS},
                    }
                    yield _cell(
                        "speed", label, f"{sweep_name}-L{length}-r{replicate}", section.rank(label, replicate), spec
                    )


_SPEED_FIELDS = (
    "phases",
    "budget_seconds",
    "minimum_seconds",
    "minimum_steps",
    "timeout_seconds",
    "catalogue_items",
    "negatives",
    "learning_rate",
    "compile",
)


def _training_cells(study: Study, section: TrainingSection, shared: dict[str, Any]) -> Iterator[Cell]:
    later = study.speed.delay() if study.speed else 0
    for dataset in section.datasets:
        source = msgspec.to_builtins(study.sources()[dataset])
        common = {
            **shared,
            "kind": "training",
            "dataset": dataset,
            "source": {k: source[k] for k in ("format", "file", "sha256")},
            "split": "leave-one-out",
            "seen_items": "filtered",
            "timed": section.timed,
            # Cells that run side by side would fight for the cores that null stands for.
            "threads": study.threads or (None if section.timed else 1),
            "timeout_seconds": section.timeout_seconds,
        }
        for label in section.references:
            model = {"label": label, "name": label, "options": {}}
            yield _cell(
                "training", label, f"{dataset}-all-s0", 0, {**common, "model": model, "length": None, "seed": 0}
            )
        for place, seed in enumerate(section.seeds):
            for label in section.models:
                for length in section.lengths:
                    spec = {
                        **common,
                        "model": resolve_model(study, label),
                        "length": length,
                        "seed": seed,
                        "objective": "declared",
                        "optimiser": "adam",
                        "loss": section.loss_spec(),
                        **section.budget_spec(label),
                    }
                    yield _cell("training", label, f"{dataset}-L{length}-s{seed}", later + place + 1, spec)


def _cell(kind: Literal["speed", "training"], label: str, coordinates: str, rank: int, spec: dict[str, Any]) -> Cell:
    canonical = json.dumps(spec, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:8]
    return Cell(kind=kind, label=label, coordinates=coordinates, digest=digest, rank=rank, spec=spec)
