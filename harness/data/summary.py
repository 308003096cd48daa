"""What a data set looks like, in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.data import planted, sources, splits, synthetic
from harness.data.catalogue import SYNTHETIC, DataSource


def summary(name: str, source: DataSource, folder: str | Path | None = None) -> str:
    """What `python -m harness data NAME` prints: prepares the data and describes it.

    Args:
        name: Name of the data set.
        source: Where it comes from.
        folder: The study's data folder.

    Raises:
        UserError: See `harness.data.sources.prepare`.
    """
    prepared = sources.prepare(name, source, folder)
    stored, split = prepared.interactions, splits.leave_one_out(prepared.interactions)
    low, middle, high, top = np.quantile(stored.lengths, [0, 0.5, 0.99, 1])
    lines = [
        f"{name}: {stored.num_users:,} users, {stored.num_items:,} items, {stored.num_events:,} events",
        f"history: min {low:.0f}, median {middle:g}, mean {stored.lengths.mean():.1f}, p99 {high:.0f}, max {top:.0f}",
        f"split: {splits.RULE}; {len(split.users):,} users ranked, {split.training_only:,} with fewer than "
        f"{splits.LEAST_EVENTS} events in training only",
        f"split sha256: {split.sha256}",
        f"data sha256: {prepared.data_sha256}",
        f"timestamps: {'none' if stored.timestamps is None else 'unix seconds'}",
        f"arrays: {prepared.folder}",
        f"reference: {source.citation or 'none stated'}",
    ]
    if source.caution:
        lines.append(f"caution: {source.caution}")
    if source.planted is not None:
        lines.append(planted.describe(source.planted))
    elif source.format == SYNTHETIC:
        lines.append(synthetic.describe())
    return "\n".join(lines)
