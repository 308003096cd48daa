import msgspec
from examples import example

from harness.data.account import Leaks
from harness.report.section import draw
from harness.report.sections.accuracy import data, see_frontier, surpassing


def test_a_development_data_set_is_said_to_illustrate():
    found = data(example(datasets=("ml-latest-small", "synthetic")))["notes"]
    assert [heading for heading, _ in found if "illustrates" in heading] == ["ml-latest-small illustrates."]
    assert "not for evidence" in dict(found)["ml-latest-small illustrates."]


def test_other_data_sets_need_no_caution():
    assert not any("illustrates" in heading for heading, _ in data(example())["notes"])


def timed(*points):
    """Rows of one data set with this mean NDCG@10 and these seconds of training."""
    some = next(r for r in example().accuracy if not r.is_reference)
    metric = some.metrics["ndcg@10"]
    return [
        msgspec.structs.replace(
            some,
            label=label,
            training_seconds=seconds,
            metrics={"ndcg@10": msgspec.structs.replace(metric, mean=mean)},
        )
        for label, mean, seconds in points
    ]


def named(label):
    return msgspec.structs.replace(example().models[0], label=label)


def test_the_frontier_holds_who_is_neither_outranked_nor_outpaced():
    rows = timed(("slow", 0.3, 90.0), ("beaten", 0.1, 50.0), ("quick", 0.2, 10.0), ("level", 0.2, 20.0))
    points = [(row, row.training_seconds) for row in rows]
    assert [row.label for row, _ in surpassing(points)] == ["quick", "slow"]


def test_the_frontier_is_named_with_its_figures():
    rows = timed(("slow", 0.3, 900.0), ("beaten", 0.1, 50.0), ("quick", 0.2, 10.0))
    analysis = msgspec.structs.replace(example(), accuracy=rows, models=[], records=[])
    labelled = msgspec.structs.replace(analysis, models=[named(row.label) for row in rows])
    assert see_frontier(labelled).endswith("quick (0.2000 in 10 s), slow (0.3000 in 15 min).")
    (axes,) = draw(labelled, "frontier").axes
    steps = next(line for line in axes.lines if line.get_drawstyle() == "steps-post")
    assert list(steps.get_xdata()) == [10.0, 900.0, 900.0]
    assert list(steps.get_ydata()) == [0.2, 0.3, 0.3]
    alone = msgspec.structs.replace(labelled, accuracy=timed(("quick", 0.3, 9.0)))
    assert see_frontier(alone) == ""
    assert draw(alone, "frontier") is None


def test_where_trainings_have_no_time_the_step_of_the_speed_cells_is_the_cost():
    plain = example(training_lengths=(1024,))
    rows = [msgspec.structs.replace(row, training_seconds=None) for row in plain.accuracy]
    analysis = msgspec.structs.replace(plain, accuracy=rows)
    assert "µs a token" in see_frontier(analysis)
    (axes,) = draw(analysis, "frontier").axes
    assert axes.get_xlabel() == "training step of the speed cells (µs a token)"
    bare = msgspec.structs.replace(analysis, times=[])
    assert draw(bare, "frontier") is None


def test_the_leak_check_of_every_data_set_is_shown():
    assert "Leak check." not in dict(data(example())["notes"])
    leaks = Leaks(held_out=40, trained=0, had_before=3, copies=2, earlier=1, later_training=0.5)
    rows = [msgspec.structs.replace(row, leaks=leaks) for row in timed(("a", 0.2, 1.0), ("b", 0.3, 2.0))]
    (words,) = [
        words
        for heading, words in data(msgspec.structs.replace(example(), accuracy=rows))["notes"]
        if "Leak" in heading
    ]
    assert words == (
        "synthetic: 0 of 40 held-out events are trained on; 3 are of an item that the user has had before, 2 of them "
        "at the same time; 1 are earlier than an event of their own history; 50.0% of the training events come after "
        "a test event, on average."
    )
