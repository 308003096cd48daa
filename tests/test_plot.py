"""harness.plot: what is drawn are the numbers of the frame."""

from pathlib import Path

import factories
import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")
import matplotlib.pyplot as plt

import harness
from harness import plot
from harness.errors import UserError

LENGTHS = (256, 512, 1024)


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    folder = factories.make_folder(
        tmp_path_factory.mktemp("plot") / "study", lengths=LENGTHS, seeds=(0, 1), users=200, replicates=3
    )
    return harness.load(folder)


@pytest.fixture
def axes():
    figure, found = plt.subplots()
    yield found
    plt.close(figure)


def lines(axes):
    """Label → its points, told by the legend's colours."""
    handles, labels = axes.get_legend_handles_labels()
    colours = {handle.get_color(): label for handle, label in zip(handles, labels, strict=True)}
    own = [line for line in axes.get_lines() if line.get_color() in colours and len(line.get_xdata()) == len(LENGTHS)]
    return {colours[line.get_color()]: dict(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in own}


def geometric(rows, column):
    return np.exp(np.log(rows[column].astype(float)).mean())


def test_a_speedup_is_the_geometric_mean_of_the_processes_and_the_partner_is_no_line(cells, axes):
    assert plot.speedup(cells, ax=axes) is axes
    drawn = lines(axes)
    assert set(drawn) == {"sasrec-math", "sasrec-sdpa", "gru4rec"}
    for label, points in drawn.items():
        own = cells[(cells["label"] == label) & (cells["sweep"] == "constant-tokens")]
        for length in LENGTHS:
            assert points[length] == pytest.approx(geometric(own[own["length"] == length], "speedup"))
    assert "hyenarec over the model" in axes.get_ylabel()
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_a_cost_is_in_microseconds_a_token_and_every_label_is_a_line(cells, axes):
    drawn = lines(plot.cost(cells, ax=axes))
    assert set(drawn) == set(factories.TRUTHS)
    own = cells[(cells["label"] == "gru4rec") & (cells["length"] == 512) & (cells["sweep"] == "constant-tokens")]
    assert drawn["gru4rec"][512] == pytest.approx(1e6 * geometric(own, "token_seconds"))
    assert "µs" in axes.get_ylabel()


def test_accuracy_has_a_dot_a_seed_and_the_best_on_top(cells, axes):
    plot.accuracy(cells, ax=axes)
    trained = cells[cells["ndcg@10"].notna()]
    means = trained.groupby("label")["ndcg@10"].mean().sort_values(ascending=False)
    assert [text.get_text() for text in axes.get_yticklabels()] == list(means.index)
    dots = [len(collection.get_offsets()) for collection in axes.collections if len(collection.get_offsets())]
    assert sum(dots) == len(trained)
    assert axes.get_xlabel() == "test NDCG@10 on synthetic, 1,024 events"


def test_the_frontier_joins_what_nothing_surpasses_after_as_little_training(cells, axes):
    timed = cells.assign(timed=True)
    plot.frontier(timed, ax=axes)
    trained = timed[timed["training_seconds"].notna() & timed["length"].notna() & timed["ndcg@10"].notna()]
    means = trained.groupby(["label", "length"])[["training_seconds", "ndcg@10"]].mean()
    (steps,) = [line for line in axes.get_lines() if line.get_gid() == "frontier"]
    *drawn, last = list(zip(steps.get_xdata(), steps.get_ydata(), strict=True))
    free = [
        tuple(point)
        for point in means.sort_values("training_seconds").to_numpy()
        if not ((means["training_seconds"] <= point[0]) & (means["ndcg@10"] > point[1])).any()
    ]
    assert drawn == [pytest.approx(point) for point in free]
    assert last == pytest.approx((means["training_seconds"].max(), free[-1][1]))
    assert axes.get_xscale() == "log"
    with pytest.raises(UserError, match="timed trainings"):
        plot.frontier(cells.assign(timed=False))


def test_without_axes_the_current_ones_are_drawn_into(cells):
    figure = plt.figure()
    assert plot.accuracy(cells, metric="hr@5") is figure.gca()
    plt.close(figure)


def test_what_cannot_be_drawn_says_what_to_type(cells):
    with pytest.raises(UserError, match=r"no row has a 'speedup'.*timed in pairs"):
        plot.speedup(cells[cells["kind"] == "training"])
    other = cells.assign(partner=cells["partner"].where(cells["length"] != 512, "gru4rec"))
    with pytest.raises(UserError, match=r"several values of partner .*frame\[frame\['partner'\] == "):
        plot.speedup(other)
    with pytest.raises(UserError, match=r"unknown metric 'ndgc@10'. Did you mean 'ndcg@10'"):
        plot.accuracy(cells, metric="ndgc@10")
    with pytest.raises(UserError, match="no column 'token_seconds'"):
        plot.cost(cells[["label", "length"]])
    longer = cells.assign(length=cells["length"].where(cells["seed"] != 1, 2048))
    with pytest.raises(UserError, match="several values of length"):
        plot.accuracy(longer)


def test_the_committed_records_are_drawn(axes):
    cells = harness.load(Path(__file__).resolve().parents[1] / "results" / "reference" / "cpu-2core")
    drawn = plot.speedup(cells, ax=axes)
    assert drawn.get_legend() is not None
