import msgspec
from examples import example

from harness.report.sections.variants import data
from harness.study.training import Budget


def rows(analysis, **validation):
    """The analysis with these labels' mean validation NDCG@10, and no other trained label."""
    kept = [
        msgspec.structs.replace(row, validation_ndcg10=validation[row.label])
        for row in analysis.accuracy
        if row.label in validation
    ]
    return msgspec.structs.replace(analysis, accuracy=kept)


def test_variants_stand_by_validation_with_what_sets_them_apart():
    found = data(rows(example(), **{"sasrec-math": 0.2, "sasrec-sdpa": 0.3, "hyenarec": 0.9}))
    (table,) = found["tables"]
    assert [(r["label"], r["first"]) for r in table["rows"]] == [("sasrec-sdpa", True), ("sasrec-math", False)]
    assert [r["differs"] for r in table["rows"]] == ["attention sdpa", "attention math"]
    assert table["sentences"][0].startswith("sasrec: sasrec-sdpa leads on validation")


def test_what_a_label_is_trained_with_of_its_own_counts():
    analysis = rows(example(), **{"sasrec-math": 0.2, "sasrec-sdpa": 0.3})
    training = msgspec.structs.replace(analysis.study.training, budgets={"sasrec-math": Budget(learning_rate=0.003)})
    analysis = msgspec.structs.replace(analysis, study=msgspec.structs.replace(analysis.study, training=training))
    differs = {r["label"]: r["differs"] for r in data(analysis)["tables"][0]["rows"]}
    assert differs["sasrec-math"] == "attention math, learning_rate 0.003"
    assert differs["sasrec-sdpa"] == f"attention sdpa, learning_rate {training.learning_rate:g}"


def test_one_variant_a_model_is_nothing_to_show():
    assert data(rows(example(), **{"sasrec-math": 0.2, "hyenarec": 0.3})) == {"tables": []}
