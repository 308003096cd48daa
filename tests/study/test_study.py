import contextlib
from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import UserError
from harness.records.schema import encode
from harness.records.spec import LossSpec, TrainingSpec
from harness.study.cells import cells
from harness.study.check import load_study
from harness.study.claim import load_cards
from harness.study.find import find_study, study_names
from harness.study.manifest import manifest, read_manifest
from harness.study.schema import Study
from models import registry

BASE = {
    "name": "tiny",
    "device": "cpu",
    "variants": {"sasrec-math": {"model": "sasrec", "attention": "math"}},
    "speed": {
        "models": ["hyenarec", "sasrec-math"],
        "sweeps": {"constant-tokens": {"lengths": [64, 128], "tokens": 128}},
    },
    "training": {"models": ["hyenarec"], "datasets": ["synthetic"], "lengths": [64], "epochs": 2},
}


def changed(path, value):
    """BASE with one entry replaced; `path` is dotted."""
    study = msgspec.json.decode(msgspec.json.encode(BASE))
    *parents, last = path.split(".")
    node = study
    for key in parents:
        node = node[key]
    node[last] = value
    return study


def load(tmp_path, value):
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(value))
    return load_study(str(file))


def test_every_shipped_study_is_valid_and_expands_to_distinct_cells():
    assert {"cpu", "gpu", "paper", "movielens", "ablation"} <= set(study_names())
    for name in study_names():
        paths = [c.path for c in cells(load_study(name))]
        assert len(paths) == len(set(paths)) > 0


def test_the_ablation_covers_every_kernel_and_changes_nothing_but_its_subject():
    specs = training_specs(load_study("ablation"))
    plain = specs["hyenarec"].model.options
    assert {spec.model.options["kernel"] for spec in specs.values()} == {*registry.options("hyenarec")["kernel"].legal}
    for label, spec in specs.items():
        changes = {k for k, v in spec.model.options.items() if v != plain[k]}
        assert len(changes) == (label != "hyenarec") + label.endswith("-wide")
        assert msgspec.structs.replace(specs["hyenarec"], model=spec.model, seed=spec.seed) == spec


# Added when the large studies were in use; a study that takes one in takes it from this list.
NOT_YET = {"fuxi-linear", "recblr", "retnet"}


@pytest.mark.parametrize("name", ["gpu", "paper"])
def test_the_large_studies_compare_every_model(name):
    shipped = {n for n in registry.names(reference=False) if registry.entries()[n].distribution is None}
    for kind in ("speed", "training"):
        compared = {c.spec.model.name for c in cells(load_study(name)) if c.kind == kind}
        assert shipped - compared == NOT_YET


@pytest.mark.parametrize("name", ["field", "field-gpu"])
def test_the_field_rules_on_each_card_once_with_cells_of_its_own(name):
    study = load_study(name)
    cards, found = load_cards(study.claims), list(cells(study))
    assert {card.source.split(" (")[0].split(",")[0] for card in cards} == {
        "Hyena",
        "RecMamba",
        "LRURec",
        "HSTU",
        "FuXi-Linear",
        "this project",
    }
    for card in cards:
        assert card.setting, card.id
        assert card.differs, card.id
        needs = "memory" if card.rule == "memory-saving" else "time"
        own = [c for c in found if card.covers(c.spec.length) and needs in c.spec.measure]
        beside = {c.label for c in own if c.spec.partner.label == card.challenger} | {
            c.label for c in own if c.spec.measure == ["memory"]
        }
        models = {c.label: c.spec.model.name for c in own}
        opponents = {label for label, model in models.items() if {label, model} & set(card.opponents)}
        assert {card.challenger, *opponents} <= beside, card.id
        assert opponents, card.id
        if card.phase == "forward" or card.rule.startswith("serving"):
            assert all({"forward", "stream"} <= set(c.spec.phases) for c in own)
        if card.rule.startswith("serving"):
            assert {c.spec.batch for c in own if c.label in opponents} >= {1}


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("speed.models", ["hyenarek"], ["hyenarek", "hyenarec", "sasrec-math"]),
        ("timing_partner", "hyena", ["hyena", "hyenarec"]),
        ("training.datasets", ["syntetic"], ["syntetic", "synthetic", "ml-1m"]),
        ("training.references", ["markof"], ["markof", "decayed-markov", "popularity"]),
        ("variants.sasrec-math", {"model": "sasrec", "attention": "mth"}, ["mth", "math", "sdpa"]),
        ("variants.sasrec-math", {"model": "sasrec", "atention": "math"}, ["atention", "attention"]),
        ("variants.sasrec-math", {"attention": "math"}, ["needs a 'model'"]),
        ("variants.sasrec-math", {"model": "sasrec", "num_heads": "two"}, ["num_heads", "int"]),
        ("variants.sasrec-math", {"model": "sasrec", "num_layers": 0}, ["num_layers", "sasrec-math", "at least 1"]),
        ("variants.sasrec-math", {"model": "sasrec", "hidden_size": -4}, ["hidden_size", "-4", "at least 1"]),
        ("model", {"dropout": 1.5}, ["dropout", "1.5", "below 1"]),
        ("speed.sweeps.constant-tokens", {"lengths": [64], "tokens": -64}, ["tokens is -64", "at least 1"]),
        ("speed.sweeps.constant-tokens", {"lengths": [64, 0], "tokens": 64}, ["lengths[1] is 0", "at least 1"]),
        ("speed.sweeps.constant-tokens", {"lengths": [64, 64], "tokens": 64}, ["lengths", "distinct"]),
        ("speed.sweeps.constant-tokens", {"lengths": [64], "batch": 1, "measure": []}, ["measure is empty"]),
        ("speed.sweeps", {}, ["speed.sweeps is empty"]),
        ("speed.sweeps", {"../q": {"lengths": [64], "batch": 1}}, ["'../q'", "letters"]),
        ("speed.models", [], ["speed.models is empty"]),
        ("speed.timeout_seconds", -1, ["speed.timeout_seconds is -1", "above 0"]),
        ("speed.learning_rate", float("nan"), ["speed.learning_rate is nan", "finite"]),
        ("training.learning_rate", -0.1, ["training.learning_rate is -0.1", "above 0"]),
        ("training.seeds", [0, -1], ["training.seeds[1] is -1", "at least 0"]),
        ("memory_limit_bytes", -1, ["memory_limit_bytes is -1", "at least 1"]),
        ("variants", {"../../x": {"model": "sasrec"}}, ["'../../x'", "letters"]),
        ("claims", ["speedup-7x"], ["speedup-7x", "speedup-6x"]),
        ("claims", ["accuracy", "accuracy"], ["claims", "twice"]),
        ("speed.sweeps", {"a.b": {"lengths": [64], "tokens": 0}}, ["speed.sweeps.a.b.tokens is 0", "at least 1"]),
        ("speed.sweeps", {"a[0]": {"lengths": [0], "tokens": 64}}, ["speed.sweeps.a[0].lengths[0] is 0", "at least 1"]),
        ("training.budgets", {"a.b": {"epochs": 0}}, ["training.budgets.a.b.epochs is 0", "at least 1"]),
        ("data", {"a.b": {"format": "pairs", "fil": "x"}}, ["fil", "data.a.b", "file"]),
        ("variants.sasrec-math", {"model": "sasrec", "num_heads": 3}, ["num_heads", "is 3", "64", "3 heads"]),
        ("variants.sasrec-math", {"model": "sasrec", "feed_forward": 0}, ["feed_forward", "is 0", "at least 1"]),
        ("variants.sasrec-math", {"model": "sasrec", "num_heads": True}, ["num_heads", "True", "int"]),
        ("variants.sasrec-math", {"model": "hyenarec", "kernel_order": -1}, ["kernel_order", "is -1", "at least 1"]),
        ("variants.sasrec-math", {"model": "hyenarec", "order": 1}, ["order", "is 1", "at least 2"]),
        ("variants.sasrec-math", {"model": "sasrec", "dropout": float("inf")}, ["dropout is inf", "finite"]),
        ("variants.sasrec-math", {"model": "hstu", "time_buckets": -1}, ["time_buckets", "is -1", "at least 0"]),
        ("variants.sasrec-math", {"model": "mamba4rec", "state_size": 0}, ["state_size", "is 0", "at least 1"]),
        ("model", {"hidden_size": 130}, ["num_heads of sasrec", "130", "3 heads"]),
        ("speed.sweps", {}, ["sweps", "sweeps"]),
        ("precision", "float16", ["float16", "bfloat16", "float32"]),
        ("training.epochs", "many", ["int", "training.epochs"]),
        ("training.epochs", 0, ["training.epochs", "at least 1"]),
        ("training.loss", "gbse", ["gbse", "gbce", "sampled-softmax"]),
        ("training.negatives", 16, ["training.negatives", "cross-entropy", "sampled-softmax"]),
        ("training.temperature", -1.0, ["training.temperature", "above 0"]),
        ("training.budgets", {"sasrek": {"epochs": 9}}, ["sasrek", "hyenarec"]),
        ("training.budgets", {"hyenarec": {"epochs": 0}}, ["training.budgets.hyenarec.epochs", "at least 1"]),
        ("training.budgets", {"hyenarec": {"batch_size": 9}}, ["batch_size", "epochs"]),
        ("training.budgets", {"hyenarec": {"seeds": []}}, ["training.budgets.hyenarec.seeds"]),
        ("training.budgets", {"hyenarec": {"seeds": [1, 1]}}, ["training.budgets.hyenarec.seeds", "1", "twice"]),
        ("training.budgets", {"hyenarec": {"learning_rate": 0}}, ["training.budgets.hyenarec.learning_rate", "0"]),
        ("training.budgets", {"hyenarec": {"weight_decay": 0.1}}, ["training.budgets.hyenarec", "'adam'", "adamw"]),
        ("speed.sweeps.constant-tokens", {"lengths": [64]}, ["tokens", "batch"]),
        ("speed.sweeps.constant-tokens", {"lengths": [48], "tokens": 128}, ["48", "128"]),
        ("name", "a/b", ["a/b"]),
        ("training.seeds", [0, 0], ["training.seeds", "twice"]),
        ("speed.models", ["hyenarec", "hyenarec"], ["speed.models", "twice"]),
        ("speed.first", ["sasrec-mat"], ["speed.first", "sasrec-mat", "sasrec-math"]),
        ("operator", "quick", ["operator", "bool"]),
        (
            "speed.sweeps.constant-tokens",
            {"lengths": [64], "tokens": 64, "replicates_of": {"hyenarek": 5}},
            ["speed.sweeps.constant-tokens.replicates_of", "hyenarek", "hyenarec"],
        ),
        (
            "speed.sweeps.constant-tokens",
            {"lengths": [64], "tokens": 64, "replicates_of": {"hyenarec": 0}},
            ["replicates_of", "is 0", "at least 1"],
        ),
        ("speed.sweeps.constant-tokens", {"lengths": [64], "tokens": 64, "phases": []}, ["phases is empty"]),
        ("speed.sweeps.constant-tokens", {"lengths": [64], "tokens": 64, "phases": ["steam"]}, ["steam", "stream"]),
        ("speed.sweeps.constant-tokens", {"lengths": [64], "tokens": 64, "phases": ["step", "step"]}, ["twice"]),
    ],
)
def test_a_mistake_gives_one_line_with_the_value_and_the_legal_values(tmp_path, path, value, words):
    with pytest.raises(UserError) as caught:
        load(tmp_path, changed(path, value))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_unknown_study_names_the_known_ones():
    with pytest.raises(UserError, match=r"movilens.*Did you mean 'movielens'.*cpu"):
        find_study("movilens")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"name: caf\xe9\n", "not valid YAML"),
        (b"name: a\ndate: 2020-99-99\n", "not valid YAML"),
        (b"? [a, b]\n: 1\n", "a key must be one word"),
        (b"name: empty\n", "nothing to measure"),
    ],
)
def test_a_file_that_is_no_study_is_refused(tmp_path, content, words):
    (tmp_path / "study.yaml").write_bytes(content)
    with pytest.raises(UserError, match=words):
        load_study(str(tmp_path / "study.yaml"))


def test_a_key_given_twice_is_refused(tmp_path):
    (tmp_path / "study.yaml").write_text("name: one\nname: two\n")
    with pytest.raises(UserError, match="key 'name' is given twice"):
        load_study(str(tmp_path / "study.yaml"))


def test_the_shipped_claims_are_those_of_the_design():
    assert [c.id for c in load_cards()] == [
        "linear-time",
        "quadratic-attention",
        "speedup-6x",
        "long-sequences",
        "accuracy",
        "no-sacrifice",
        "linear-memory",
        "kernel",
        "streaming",
        "equal-quality",
        "energy",
    ]


def test_foreign_folders_of_the_same_name_do_not_hide_the_shipped_studies(tmp_path, monkeypatch):
    (tmp_path / "workflow").mkdir()
    (tmp_path / "reports").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_study("cpu").name == "cpu"
    assert load_cards()


def digests(study):
    return {c.path for c in cells(study)}


def test_adding_a_model_asks_only_for_its_cells(tmp_path):
    before = digests(load(tmp_path, BASE))
    after = digests(load(tmp_path, changed("speed.models", ["hyenarec", "sasrec-math", "gru4rec"])))
    assert before < after
    assert all("/gru4rec/" in path for path in after - before)


def test_changing_the_epochs_asks_for_new_training_cells_and_no_speed_cells(tmp_path):
    before = digests(load(tmp_path, BASE))
    after = digests(load(tmp_path, changed("training.epochs", 3)))
    assert before - after == {p for p in before if p.startswith("training/hyenarec")}
    assert {p.split("/")[0] for p in after - before} == {"training"}


def training_specs(study):
    found = [c.spec for c in cells(study) if isinstance(c.spec, TrainingSpec) and c.spec.length is not None]
    return {spec.model.label: spec for spec in found}


def test_one_loss_with_every_option_stands_in_the_spec_of_every_model(tmp_path):
    section = {**BASE["training"], "models": ["hyenarec", "sasrec-math"]}
    specs = training_specs(load(tmp_path, changed("training", section)))
    wanted = LossSpec(name="cross-entropy", normalise=False, temperature=1.0)
    assert [spec.loss for spec in specs.values()] == 2 * [wanted]
    section |= {"loss": "sampled-softmax", "normalise": True, "negatives": 64, "compile": True}
    specs = training_specs(load(tmp_path, changed("training", section)))
    wanted = LossSpec(name="sampled-softmax", normalise=True, temperature=0.05, negatives=64)
    assert [(spec.loss, spec.compile) for spec in specs.values()] == 2 * [(wanted, True)]


def test_an_unset_option_and_its_default_are_one_cell(tmp_path):
    section = {**BASE["training"], "loss": "gbce"}
    explicit = {**section, "negatives": 256, "calibration": 0.75, "temperature": 1.0, "normalise": False}
    assert digests(load(tmp_path, changed("training", section))) == digests(
        load(tmp_path, changed("training", explicit))
    )


def test_a_budget_changes_its_models_cells_alone(tmp_path):
    section = {**BASE["training"], "models": ["hyenarec", "sasrec-math"]}
    before = load(tmp_path, changed("training", section))
    after = load(tmp_path, changed("training", {**section, "budgets": {"sasrec-math": {"epochs": 9}}}))
    assert all("/sasrec-math/" in path for path in digests(before) ^ digests(after))
    specs = training_specs(after)
    assert (specs["hyenarec"].epochs, specs["sasrec-math"].epochs) == (2, 9)
    assert specs["hyenarec"].patience == specs["sasrec-math"].patience == 10


def test_a_model_may_have_more_seeds(tmp_path):
    section = {**BASE["training"], "models": ["hyenarec", "sasrec-math"], "seeds": [0, 1]}
    before = load(tmp_path, changed("training", section))
    after = load(tmp_path, changed("training", {**section, "budgets": {"hyenarec": {"seeds": [0, 1, 4]}}}))
    (more,) = digests(after) - digests(before)
    assert "/hyenarec/" in more
    assert "-s4-" in more
    assert digests(before) < digests(after)
    assert [c.spec.seed for c in cells(after) if c.kind == "training" and c.spec.length][-1] == 4


def test_a_description_changes_no_cell(tmp_path):
    assert digests(load(tmp_path, BASE)) == digests(load(tmp_path, changed("description", "other words")))


def test_replicates_share_nothing_but_the_point(tmp_path):
    value = load(tmp_path, BASE)
    speed = [c for c in cells(value) if c.kind == "speed" and c.label == "hyenarec" and c.spec.length == 64]
    assert [c.spec.replicate for c in speed] == [0, 1, 2]
    assert len({c.digest for c in speed}) == 3


def test_a_label_may_have_more_processes_and_a_sweep_phases_of_its_own(tmp_path):
    sweep = {"lengths": [64, 128], "tokens": 128, "replicates_of": {"hyenarec": 5}, "phases": ["stream"]}
    study = load(tmp_path, changed("speed.sweeps", {**BASE["speed"]["sweeps"], "other": sweep}))
    own = [c for c in cells(study) if c.kind == "speed" and c.spec.sweep == "other"]
    assert {c.spec.replicate for c in own if c.label == "hyenarec"} == set(range(5))
    assert {c.spec.replicate for c in own if c.label == "sasrec-math"} == set(range(3))
    assert {tuple(c.spec.phases) for c in own} == {("stream",)}
    assert digests(load(tmp_path, BASE)) < digests(study)


def test_constant_tokens_keep_the_tokens(tmp_path):
    for cell in cells(load(tmp_path, BASE)):
        if cell.kind == "speed":
            assert cell.spec.batch * cell.spec.length == 128


def test_manifest_round_trip(tmp_path):
    value = manifest(load(tmp_path, BASE))
    (tmp_path / "study.json").write_bytes(msgspec.json.encode(value))
    assert read_manifest(tmp_path) == value


def test_a_folder_without_a_manifest_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"study\.json"):
        read_manifest(tmp_path)


@settings(max_examples=60)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=12,
    )
)
def test_any_yaml_is_either_a_study_or_a_user_error(tmp_path_factory, value):
    file = tmp_path_factory.mktemp("any") / "study.yaml"
    file.write_text(yaml.safe_dump(value))
    # Anything but a Study or a UserError fails by raising.
    with contextlib.suppress(UserError):
        assert isinstance(load_study(str(file)), Study)


def test_cards_lie_beside_the_study_from_wherever_it_is_named(tmp_path, monkeypatch):
    folder = tmp_path / "own"
    folder.mkdir()
    card = {"id": "faster-here", "sentence": "Here it is faster.", "source": "me", "rule": "speedup"}
    card |= {"challenger": "hyenarec", "opponents": ["gru4rec"], "lengths": 16, "threshold": 1.0}
    (folder / "card.yaml").write_text(yaml.safe_dump([card]))
    speed = {"models": ["gru4rec"], "sweeps": {"constant-tokens": {"lengths": [16], "tokens": 64}}}
    (folder / "study.yaml").write_text(yaml.safe_dump({"name": "own", "claims": ["card.yaml"], "speed": speed}))
    for place, typed in ((tmp_path, "own/study.yaml"), (folder, "study.yaml"), (Path("/"), str(folder / "study.yaml"))):
        monkeypatch.chdir(place)
        assert [found.id for found in load_cards(load_study(typed).claims)] == ["faster-here"]


def test_a_cell_without_events_is_refused(tmp_path):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(BASE))
    content = manifest(load_study(str(tmp_path / "study.yaml")))
    first, *others = content.cells
    empty = msgspec.structs.replace(first, spec=msgspec.structs.replace(first.spec, batch=0))
    (tmp_path / "study.json").write_bytes(encode(msgspec.structs.replace(content, cells=[empty, *others])))
    with pytest.raises(UserError, match="has no events; delete it"):
        read_manifest(tmp_path)
