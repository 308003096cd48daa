"""Analyses with chosen contents, for the tests of the report: plausible numbers, no statistics."""

import itertools
import math

import msgspec
from operator_examples import operator_record

from harness.analysis.estimates.operator import operator_bench
from harness.analysis.results import (
    ANALYSIS_VERSION,
    AccuracyDifference,
    AccuracyRow,
    Analysis,
    Censored,
    Challenge,
    ClaimResult,
    ClaimVerdict,
    Completeness,
    ControlPoint,
    Crossover,
    EnergyPoint,
    Exponent,
    FailedCell,
    Fit,
    LearningPoint,
    LocalSlope,
    Machine,
    MemoryPoint,
    Metric,
    ModelRow,
    NoiseFloor,
    Problems,
    RecordRow,
    RefusedFile,
    ScalingLaw,
    SpeedupPoint,
    StreamPoint,
    TimePoint,
    TimeToQuality,
    Trend,
    Versions,
)
from harness.study.claim import load_cards
from harness.study.schema import SpeedSection, Study, Sweep
from harness.study.training import TrainingSection

LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)
TOKENS = 8192
PARTNER = "hyenarec"
# label: (family, seconds per step without growth, growth per unit of length, NDCG@10)
MODELS = {
    "hyenarec": ("convolution", 0.095, 1e-7, 0.176),
    "sasrec-math": ("attention", 0.06, 1.8e-4, 0.171),
    "sasrec-sdpa": ("attention", 0.065, 5.2e-5, 0.171),
    "gru4rec": ("recurrent", 0.04, 1.15e-4, 0.158),
    "lrurec": ("state_space", 0.11, 2e-7, 0.169),
    "mamba4rec": ("state_space", 0.31, 2e-7, 0.172),
    "hstu": ("attention", 0.07, 2.4e-4, 0.181),
}
REFERENCES = {"popularity": 0.018, "markov": 0.126, "decayed-markov": 0.1446}
# Seconds per event without growth, growth per event of history.
STREAMED = {"hyenarec": (4.2e-4, 0.0), "sasrec-sdpa": (3.1e-4, 6e-8), "gru4rec": (1.3e-4, 0.0)}
WIGGLE = (0.985, 1.0, 1.02)


def seconds(label, length):
    _, base, growth, _ = MODELS.get(label, ("attention", 0.07, 6e-5, 0.17))
    return base + growth * length


def spread(value, factor=1.05):
    return (value / factor, value * factor)


def example(
    labels=("hyenarec", "sasrec-math", "sasrec-sdpa", "gru4rec", "lrurec"),
    *,
    speed=True,
    memory=True,
    energy=False,
    training=True,
    seeds=(0,),
    datasets=("synthetic",),
    training_lengths=(128,),
    oom=("sasrec-math",),
    problems=True,
    operator=False,
):
    """An analysis of the given labels; `oom` labels run out of memory at the two longest lengths."""
    others = [label for label in labels if label != PARTNER]
    claims = load_cards()
    study = Study(
        name="example",
        description="Two-core study on built-in data.",
        device="cpu",
        threads=2,
        speed=SpeedSection(
            models=list(labels),
            sweeps={
                "constant-tokens": Sweep(lengths=list(LENGTHS), tokens=TOKENS),
                "constant-batch": Sweep(lengths=[256, 512, 1024, 2048], batch=4, replicates=1, measure=["memory"]),
            },
        )
        if speed
        else None,
        training=TrainingSection(
            models=list(labels), datasets=list(datasets), lengths=list(training_lengths), seeds=list(seeds)
        )
        if training
        else None,
    )
    return Analysis(
        version=ANALYSIS_VERSION,
        study=study,
        machines=[
            Machine(
                name="AMD EPYC 7B13",
                cpu="AMD EPYC 7B13",
                cores=2,
                cores_usable=2,
                memory_bytes=8 * 2**30,
                system="Linux 6.1 x86_64",
                accelerator=None,
                accelerator_memory_bytes=None,
                driver=None,
                power_limit_watts=None,
                threads=[2],
                allocator={"MALLOC_MMAP_THRESHOLD_": "4294967296"},
                tf32=None,
                records=100,
            )
        ],
        versions=Versions(
            harness="0.1.0",
            record_schema=1,
            python=["3.11.7"],
            packages={"torch": ["2.13.0"], "numpy": ["2.3.1"]},
            cuda=[],
            git_commits=["0123456789abcdef0123456789abcdef01234567"],
            git_dirty_records=1,
            started_first="2026-11-01T10:00:00Z",
            started_last="2026-11-01T10:20:00Z",
            elapsed_seconds=1130.0,
        ),
        completeness=Completeness(cells=112, ok=105, censored=2 * 3 * len(oom), failed=1, missing=2),
        claims=[_claim(claim, others, speed, training) for claim in claims],
        models=[_model(label) for label in labels] + ([_model(label) for label in REFERENCES] if training else []),
        times=[p for label in labels for p in _times(label, oom)] if speed else [],
        speedups=[p for label in others for p in _speedups(label, oom)] if speed else [],
        controls=[
            ControlPoint(
                sweep="constant-tokens",
                length=length,
                processes=3,
                process_ratios=[0.99, 1.004, 1.012],
                ratio=1.002,
                simultaneous=(0.97, 1.035),
                covers_one=True,
                width=0.067,
            )
            for length in LENGTHS
        ]
        if speed
        else [],
        noise_floors=[
            NoiseFloor(sweep="constant-tokens", factor=1.035, percent=3.5, lengths=list(LENGTHS), all_cover_one=True)
        ]
        if speed
        else [],
        crossovers=[_crossover(label) for label in others] if speed else [],
        trends=[
            Trend(
                label=label,
                sweep="constant-tokens",
                slope=0.62,
                interval=(0.55, 0.69),
                window=(128, 8192),
                points=7,
            )
            for label in others
        ]
        if speed
        else [],
        laws=[_law(label, oom) for label in labels] if speed else [],
        exponents=[_exponent(label, "time", oom) for label in labels] if speed else [],
        local_slopes=[
            LocalSlope(
                label=label,
                sweep="constant-tokens",
                quantity="time",
                lengths=(low, high),
                slope=math.log2(seconds(label, high) * high / (seconds(label, low) * low)),
                interval=None,
            )
            for label in labels
            for low, high in itertools.pairwise(LENGTHS)
        ]
        if speed
        else [],
        memory=[
            MemoryPoint(
                label=label,
                sweep="constant-batch",
                constant="batch",
                length=length,
                batch=4,
                method="VmHWM",
                peak_bytes=int(20e6 + 9e3 * length + (16 * length**2 if label == "sasrec-math" else 0)),
                tiny_peak_bytes=20_000_000,
                net_bytes=int(9e3 * length * (1 + place / 5) + (16 * length**2 if label == "sasrec-math" else 0)),
                reserved_bytes=None,
                device_peak_bytes=None,
                state=64.0,
            )
            for place, label in enumerate(labels)
            for length in (256, 512, 1024, 2048)
        ]
        if memory
        else [],
        energy=[
            EnergyPoint(
                label=label,
                sweep="constant-tokens",
                length=length,
                processes=3,
                joules_per_step=300 * seconds(label, length),
                watts=300.0,
            )
            for label in labels
            for length in LENGTHS
        ]
        if energy
        else [],
        censored=[
            Censored(
                kind="speed",
                label=label,
                where="constant-tokens",
                length=length,
                replicate=replicate,
                status="oom",
                detail="resident memory reached the limit",
            )
            for label in oom
            for length in LENGTHS[-2:]
            for replicate in range(3)
        ]
        if speed
        else [],
        accuracy=[row for dataset in datasets for row in _accuracy(labels, dataset, seeds, training_lengths)]
        if training
        else [],
        accuracy_differences=[
            AccuracyDifference(
                dataset=dataset,
                split_sha256="ab" * 32,
                partner=PARTNER,
                label=label,
                family=MODELS.get(label, ("attention",))[0],
                length=length,
                seeds=len(seeds),
                users=6040,
                difference=0.005,
                interval=(-0.001, 0.011),
                relative=0.029,
                relative_interval=(-0.006, 0.064),
                method="users only (one seed)" if len(seeds) == 1 else "seeds and users",
                p_better=None if len(seeds) == 1 else 0.04,
                p_worse=None if len(seeds) == 1 else 0.96,
                verdict="undecided",
            )
            for dataset in datasets
            for label in others
            for length in training_lengths
        ]
        if training
        else [],
        learning=[
            LearningPoint(
                dataset=dataset,
                label=label,
                length=length,
                seed=seed,
                epoch=epoch,
                train_seconds=(epoch + 1) * 10 * (1 + place / 4),
                loss=8 - epoch / 3,
                validation_ndcg10=MODELS.get(label, ("", 0, 0, 0.17))[3] * (1 - math.exp(-(epoch + 1) / 4))
                + seed / 900,
            )
            for dataset in datasets
            for place, label in enumerate(labels)
            for length in training_lengths
            for seed in seeds
            for epoch in range(12)
        ]
        if training
        else [],
        times_to_quality=[
            TimeToQuality(
                dataset=dataset,
                label=label,
                length=length,
                target=0.15,
                seconds=[None if label == "gru4rec" else 62.0 + 4 * seed for seed in seeds],
                trained_seconds=[171.0 + 4 * seed for seed in seeds],
            )
            for dataset in datasets
            for label in labels
            for length in training_lengths
        ]
        if training
        else [],
        records=list(_records(labels, speed, training, seeds, datasets, training_lengths, oom)),
        problems=Problems(
            failed=[
                FailedCell(
                    path="speed/gru4rec/constant-tokens-L8192-r2-0badf00d.failed.json",
                    label="gru4rec",
                    status="killed",
                    detail="killed by signal 9",
                )
            ],
            refused=[RefusedFile(path="speed/x.json", message="not a complete JSON file (truncated); delete it")],
            orphans=["speed/old/constant-tokens-L128-r0-00000000.json"],
            stale=["speed/hyenarec/constant-tokens-L128-r0-12345678.json"],
            threats=[
                "Accuracy rests on one seed; one seed decides nothing.",
                "6 cells ran out of memory and only bound the fits.",
            ],
        )
        if problems
        else Problems(failed=[], refused=[], orphans=[], stale=[], threats=[]),
        operator=operator_bench(operator_record()) if operator else None,
        streams=[p for label in labels if label in STREAMED for p in _streams(label)] if speed else [],
    )


def with_labels(analysis, replace):
    """The same analysis with labels renamed, everywhere they occur."""
    text = msgspec.json.encode(analysis).decode()
    for old, new in replace.items():
        text = text.replace(f'"{old}"', msgspec.json.encode(new).decode())
    return msgspec.json.decode(text.encode(), type=Analysis)


def _model(label):
    reference = label in REFERENCES
    return ModelRow(
        label=label,
        name=label.split("-")[0] if label.startswith("sasrec") else label,
        family="reference" if reference else MODELS.get(label, ("attention",))[0],
        causal=True,
        citation="Kang and McAuley, Self-attentive sequential recommendation, ICDM 2018",
        options={} if reference else {"hidden_size": 64, "num_layers": 2, "dropout": 0.2},
        parameters=(0, 0) if reference else (741_000, 1_250_000),
        backends={"attention": ["sdpa-math"]} if label.startswith("sasrec") else {},
        is_partner=label == PARTNER,
    )


def _measured(label, oom):
    return LENGTHS[:-2] if label in oom else LENGTHS


def _times(label, oom):
    for length in _measured(label, oom):
        mean = seconds(label, length)
        yield TimePoint(
            label=label,
            sweep="constant-tokens",
            constant="tokens",
            phase="step",
            length=length,
            batch=TOKENS // length,
            tokens=TOKENS,
            processes=3,
            process_seconds=[mean * w for w in WIGGLE],
            step_seconds=mean,
            step_interval=spread(mean),
            microseconds_per_token=mean / TOKENS * 1e6,
            microseconds_per_token_interval=spread(mean / TOKENS * 1e6),
            block_spread=0.03,
            operations=1e9,
            bytes_moved=1e8,
            predicted_seconds=seconds(label, length) * 0.9,
            flagged=int(length == 128),
        )


def _streams(label):
    start, growth = STREAMED[label]
    found = []
    for length in (2048, 8192):
        histories = [n for n in (128, 512, 2048, 8192) if n <= length]
        for history in histories:
            ratio = (start + growth * history) / (start + growth * histories[0])
            found.append(
                StreamPoint(
                    label=label,
                    sweep="constant-tokens",
                    length=length,
                    history=history,
                    shortest=histories[0],
                    processes=3,
                    event_seconds=start + growth * history,
                    event_interval=(0.97 * (start + growth * history), 1.03 * (start + growth * history)),
                    process_ratios=[ratio * w for w in WIGGLE],
                    ratio=ratio,
                    ratio_interval=(0.96 * ratio, 1.04 * ratio),
                    block_spread=0.04,
                )
            )
    return found


def _speedups(label, oom):
    for length in _measured(label, oom):
        ratio = seconds(label, length) / seconds(PARTNER, length)
        yield SpeedupPoint(
            label=label,
            partner=PARTNER,
            sweep="constant-tokens",
            length=length,
            processes=3,
            process_speedups=[ratio * w for w in WIGGLE],
            pairs=40,
            speedup=ratio,
            interval=spread(ratio, 1.04),
            simultaneous=spread(ratio, 1.07),
            paired=True,
            faster=ratio > 1.1,
            slower=ratio < 0.9,
        )


def _crossover(label):
    _, base, growth, _ = MODELS.get(label, ("attention", 0.07, 6e-5, 0.17))
    length = (0.095 - base) / (growth - 1e-7) if growth > 1e-6 else None
    crosses = length is not None and 128 < length < 8192
    return Crossover(
        label=label,
        partner=PARTNER,
        sweep="constant-tokens",
        state="crosses" if crosses else "below",
        length=length if crosses else None,
        bracket=(256, 512) if crosses else None,
        interval=(length * 0.85, length * 1.2) if crosses else None,
        window=(128, 8192),
        sentence=f"{PARTNER} is faster than {label} at 512 to 8,192; the estimates cross at about {length:,.0f}."
        if crosses
        else f"{PARTNER} is faster than {label} at every measured length.",
    )


def _law(label, oom):
    lengths = list(_measured(label, oom))
    values = [seconds(label, length) for length in lengths]
    growing = values[-1] / values[0] > 1.3
    fits = [
        Fit(
            law=law,
            fixed_seconds=None,
            per_token_seconds=values[0] / TOKENS,
            growth_seconds=0.0 if law == "constant" else 1e-9,
            growth_interval=None if law == "constant" else (0.8e-9, 1.2e-9),
            relative_error=0.01 if growing == (law == "linear") else 0.4,
            residuals=[0.01 * (-1) ** i for i in range(len(lengths))],
            fitted_seconds=[v * (1 + 0.01 * (-1) ** i) for i, v in enumerate(values)],
        )
        for law in ("constant", "log", "linear")
    ]
    return ScalingLaw(
        label=label,
        sweep="constant-tokens",
        lengths=lengths,
        measured_seconds=values,
        processes=3,
        fits=fits,
        chosen="linear" if growing else "constant",
        best="linear" if growing else "constant",
        challenges=[
            Challenge(
                law=law,
                fitted_lengths=lengths[:-2],
                length=lengths[-1],
                predicted_seconds=values[-1] / ratio,
                measured_seconds=values[-1],
                ratio=ratio,
                interval=spread(ratio, 1.03),
                tolerance=0.1,
                outcome="passed" if abs(ratio - 1) < 0.1 else "contradicted",
            )
            for law, ratio in (("constant", 3.1 if growing else 1.01), ("linear", 1.02))
        ],
        rise=values[-1] / values[-4],
        rise_interval=spread(values[-1] / values[-4], 1.04),
        rise_window=(lengths[-4], lengths[-1]),
        censored_lengths=list(LENGTHS[-2:]) if label in oom else [],
    )


def _exponent(label, quantity, oom):
    return Exponent(
        label=label,
        sweep="constant-tokens",
        quantity=quantity,
        exponent=1.02 if label in {"hyenarec", "lrurec"} else 1.87,
        interval=(0.98, 1.06) if label in {"hyenarec", "lrurec"} else (1.8, 1.93),
        constant=1e-4,
        coefficient=1e-6,
        window=(128, _measured(label, oom)[-1]),
        points=len(_measured(label, oom)),
        method="power with constant",
    )


def _accuracy(labels, dataset, seeds, lengths):
    for label in [*labels, *REFERENCES]:
        reference = label in REFERENCES
        for length in [None] if reference else lengths:
            value = REFERENCES.get(label) or MODELS.get(label, ("", 0, 0, 0.17))[3] + math.log2(length / 128) * 0.004
            yield AccuracyRow(
                dataset=dataset,
                split_sha256="ab" * 32,
                label=label,
                name=label,
                family="reference" if reference else MODELS.get(label, ("attention",))[0],
                length=length,
                seeds=[0] if reference else list(seeds),
                collapsed_seeds=[],
                users=6040,
                metrics={
                    f"{metric}@{k}": Metric(
                        mean=value * (1 + k / 20) * scale,
                        interval=spread(value * (1 + k / 20) * scale, 1.03),
                        per_seed=[value * (1 + k / 20) * scale * (1 + seed / 200) for seed in seeds],
                    )
                    for metric, scale in (("hr", 1.6), ("ndcg", 2 / 3), ("mrr", 0.6))
                    for k in (1, 5, 10, 20)
                },
                interval_method="users only (one seed)" if len(seeds) == 1 else "t over seeds",
                parameters=0 if reference else 741_000,
                training_seconds=None if reference else 120.0,
                seconds_per_epoch=None if reference else 10.0,
                tokens_per_second=None if reference else 81_000.0,
                best_epoch=[] if reference else [9 for _ in seeds],
                epochs=[] if reference else [12 for _ in seeds],
                validation_ndcg10=value,
                flags=[],
                is_reference=reference,
                is_partner=label == PARTNER,
                below_best_reference=not reference and value < 0.16,
            )


_WORDS = ("supported", "refuted", "inconclusive", "missing")


def _claim(claim, others, speed, training):
    needs_speed = claim.id not in {"accuracy", "no-sacrifice", "kernel"}
    there = speed if needs_speed else training
    word = _WORDS[sum(map(ord, claim.id)) % 4] if there else "missing"

    def verdict(variant, word):
        found = word != "missing"
        return ClaimVerdict(
            id=claim.id,
            variant=variant,
            verdict=word,
            statistic=5.127 if found else None,
            interval=(4.81, None) if word == "inconclusive" else (4.81, 5.46) if found else None,
            threshold=claim.threshold,
            margin=claim.margin,
            window=(128, 8192) if found and needs_speed else None,
            evidence=["speed/hyenarec/constant-tokens-L128-r0-12345678.json"] if found else [],
            detail=f"Largest simultaneous lower bound 4.81 at 8,192 events against {variant or 'all'}."
            if found
            else "No records.",
            missing=[] if found else ["training cells of all models"],
            sample_size=9 if word == "inconclusive" else None,
            sample_unit="processes" if word == "inconclusive" else "",
        )

    per_label = claim.id in {"speedup-6x", "quadratic-attention", "long-sequences", "accuracy"} and there
    variants = [verdict(label, _WORDS[place % 3]) for place, label in enumerate(others)] if per_label else []
    return ClaimResult(
        id=claim.id,
        sentence=claim.sentence,
        source=claim.source,
        rule=claim.rule,
        challenger=PARTNER,
        marks_speedup=claim.rule == "speedup",
        statistic="a statistic",
        records="records",
        overall=verdict("", word),
        variants=variants,
    )


def _records(labels, speed, training, seeds, datasets, training_lengths, oom):
    for label in labels if speed else ():
        for length in LENGTHS:
            for replicate in range(3):
                lost = label in oom and length in LENGTHS[-2:]
                yield RecordRow(
                    kind="speed",
                    label=label,
                    coordinates=f"constant-tokens-L{length}-r{replicate}",
                    where="constant-tokens",
                    length=length,
                    number=replicate,
                    status="oom" if lost else "ok",
                    flags=["first-block-slow"] if length == 128 and replicate == 0 else [],
                    stale=length == 128 and replicate == 0,
                    step_seconds=None if lost else seconds(label, length),
                    partner_step_seconds=None if lost else seconds(PARTNER, length),
                    net_bytes=None,
                    ndcg10=None,
                    detail="resident memory reached the limit" if lost else "",
                    path=f"speed/{label}/constant-tokens-L{length}-r{replicate}-12345678.json",
                )
    for dataset in datasets if training else ():
        for label in labels:
            for length in training_lengths:
                for seed in seeds:
                    yield RecordRow(
                        kind="training",
                        label=label,
                        coordinates=f"{dataset}-L{length}-s{seed}",
                        where=dataset,
                        length=length,
                        number=seed,
                        status="ok",
                        flags=[],
                        stale=False,
                        step_seconds=None,
                        partner_step_seconds=None,
                        net_bytes=None,
                        ndcg10=0.17,
                        detail="",
                        path=f"training/{label}/{dataset}-L{length}-s{seed}-12345678.json",
                    )
