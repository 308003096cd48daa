"""The one look of all figures: fonts, colours, markers, axes. A model looks the same everywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from harness.report.numbers import number

TEXT_WIDTH_INCHES = 6.54
# Of one of two figures side by side.
NARROW_INCHES = 3.2
INK = "#22262b"
MUTED = "#6b7280"
RULE = "#d6d9de"
ACCENT = "#d55e00"
# Of heat maps, on paper and on the page.
SLOWER_TO_FASTER = ("#0072b2", "#f6f6f4", ACCENT)
SALT = "hyenarec-bench"
_CHARACTER_INCHES = 0.055

# Okabe and Ito's and Tol's colours, told apart with any vision; labels differ in marker too. Where these are used up,
# the further ones are nearer to them. The accent is for the label that the study is about, greys are for references.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#332288", "#56b4e9", "#882255", "#999933")
_FURTHER = ("#44aa99", "#7a6fac", "#8c6d1f", "#117733", "#661100")
_GREYS = ("#8a8f98", "#3f4650", "#6b7280")
_MARKERS = ("s", "D", "^", "v", "P", "X", "<", ">", "h", "p", "d", "*")


@dataclass(frozen=True)
class Style:
    """How one label is drawn, in every figure."""

    colour: str
    marker: str
    emphasis: bool

    @property
    def width(self) -> float:
        """Line width in points; the model under test stands out by weight, not by hue alone."""
        return 2.0 if self.emphasis else 1.3


def styles(labels: Iterable[str], emphasised: str, muted: Collection[str] = ()) -> dict[str, Style]:
    """A style per label, no two alike.

    Colour and marker come from a hash of the label, so that they hardly change when other models join: only where two
    labels' hashes meet, the later one moves on to the next free colour or marker.

    Args:
        labels: All labels of a report, so that each looks the same in all its figures.
        emphasised: The label that the study is about.
        muted: Labels drawn in grey, such as untrained references.
    """
    found: dict[str, Style] = {}
    taken: list[tuple[str, str]] = []
    for name in dict.fromkeys(labels):
        if name == emphasised:
            found[name] = Style(ACCENT, "o", emphasis=True)
            continue
        place = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
        colours, markers = [look[0] for look in taken], [look[1] for look in taken]
        order = _from(_GREYS, place) if name in muted else [*_from(_COLOURS, place), *_from(_FURTHER, place)]
        colour = min(order, key=colours.count)
        marker = min(_from(_MARKERS, place // len(_COLOURS)), key=lambda m: ((colour, m) in taken, markers.count(m)))
        taken.append((colour, marker))
        found[name] = Style(colour, marker, emphasis=False)
    return found


def _from(looks: Sequence[str], place: int) -> Sequence[str]:
    start = place % len(looks)
    return [*looks[start:], *looks[:start]]


def font_folder() -> Path:
    """The fonts that matplotlib measures the text with, for Typst to set it in."""
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@contextmanager
def themed() -> Iterator[None]:
    """The settings under which all figures are drawn and saved."""
    settings: Any = {
        **sns.axes_style("ticks"),
        **sns.plotting_context("paper"),
        "font.family": ["DejaVu Sans"],
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 7.5,
        "axes.labelsize": 7.5,
        "axes.titlesize": 8,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlepad": 6,
        "axes.labelcolor": INK,
        "axes.edgecolor": "#9aa0a8",
        "axes.linewidth": 0.7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.grid": True,
        "grid.color": "#e7e9ec",
        "grid.linewidth": 0.6,
        "text.color": INK,
        # A model's label is text even where it holds a dollar sign.
        "text.parse_math": False,
        "xtick.color": "#9aa0a8",
        "ytick.color": "#9aa0a8",
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "xtick.major.size": 3,
        "ytick.major.size": 3,
        "xtick.major.width": 0.7,
        "ytick.major.width": 0.7,
        "legend.fontsize": 7,
        "legend.frameon": False,
        "legend.handlelength": 1.8,
        "lines.markersize": 4.2,
        "lines.markeredgewidth": 0.6,
        "figure.facecolor": "white",
        "svg.fonttype": "none",
        "svg.hashsalt": SALT,
    }
    with matplotlib.rc_context(settings):
        yield


def save(figure: Figure, path: Path) -> None:
    """Write a figure; the same figure gives the same bytes. The suffix names the format."""
    metadata = {"Date": None} if path.suffix == ".svg" else {"CreationDate": None} if path.suffix == ".pdf" else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    with themed():
        figure.savefig(path, metadata=metadata, dpi=200)


def length_axis(axes: Axes, lengths: Sequence[int], label: str = "sequence length L (events)") -> None:
    """Logarithmic x axis with ticks at the lengths that were measured."""
    ticks = sorted(set(lengths))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel(label)
    place = axes.get_subplotspec()
    columns = place.get_gridspec().ncols if place is not None else 1
    needed = sum(len(f"{tick:,}") + 2 for tick in ticks) * _CHARACTER_INCHES
    figure = axes.get_figure()
    width = float(figure.get_size_inches()[0]) if isinstance(figure, Figure) else TEXT_WIDTH_INCHES
    if needed > width / columns - 1.2:
        axes.tick_params(axis="x", labelrotation=40)


def log_axis(axes: Axes, label: str, which: Literal["x", "y"] = "y") -> None:
    """Logarithmic axis with plain numbers: 1, 2, 5 within few decades, fewer beyond."""
    axis: Axis = axes.yaxis if which == "y" else axes.xaxis
    axes.set(**{f"{which}scale": "log"})
    low, high = axis.get_view_interval()
    subs = (1.0, 2.0, 5.0) if high / low < 300 else (1.0, 3.0) if high / low < 1e5 else (1.0,)
    axis.set_major_locator(LogLocator(base=10, subs=subs, numticks=30))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axis.set_minor_formatter(NullFormatter())
    axis.set_label_text(label)
