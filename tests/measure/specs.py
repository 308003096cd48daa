"""The spec of a speed cell that takes less than a second."""

from harness.records.spec import ModelSpec, SpeedSpec

SPEC = SpeedSpec(
    device="cpu",
    threads=1,
    precision="float32",
    timeout_seconds=60.0,
    model=ModelSpec(label="gru4rec", name="gru4rec", options={}),
    partner=ModelSpec(label="lrurec", name="lrurec", options={}),
    sweep="constant-batch",
    constant="batch",
    length=16,
    batch=2,
    replicate=0,
    measure=["time"],
    phases=["step"],
    minimum_seconds=0.01,
    minimum_steps=2,
    budget_seconds=0.5,
    catalogue_items=50,
    negatives=8,
    learning_rate=1e-3,
    compile=False,
)
