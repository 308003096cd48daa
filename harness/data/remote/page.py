"""The table of public data sets in docs/data.md: `python -m harness.data.remote.page` prints it."""

from __future__ import annotations

from harness.data.account import in_words
from harness.data.catalogue import SOURCES, SYNTHETIC, DataSource, Origin

_COLUMNS = ("name", "published file", "checksum", "licence", "consent", "columns", "events that count", "cite")


def table() -> str:
    """One row a set, in Markdown."""
    head = f"| {' | '.join(_COLUMNS)} |\n|{'---|' * len(_COLUMNS)}\n"
    return head + "".join(_row(name, source) for name, source in SOURCES.items() if source.format != SYNTHETIC)


def _row(name: str, source: DataSource) -> str:
    origin = source.origin or Origin(url="")
    published = f"[{origin.archive}]({origin.url}), {origin.weight}" if source.origin else "no address known"
    checksum = origin.checksum or (f"sha256:{source.sha256}" if source.sha256 else None)
    shown = f"`{checksum.partition(':')[0]}:{checksum.partition(':')[2][:8]}…`" if checksum else "none verified"
    licence = f"[{origin.licence}]({origin.terms})" if origin.terms else "see the other Amazon sets"
    rating = {} if source.least_rating is None else {source.rating or "rating": f"≥ {source.least_rating:g}"}
    kept = ", ".join(filter(None, [*(f"`{k}` {v}" for k, v in rating.items()), in_words(source.preparation.given)]))
    cells = [f"`{name}`", published, shown, licence, "yes" if origin.consent else "", origin.columns, kept or "all"]
    return f"| {' | '.join([*cells, source.citation])} |\n"


if __name__ == "__main__":
    print(table(), end="")
