"""Benchmarking and scaling analysis of sequence models: study, cells, records, verdicts, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

__version__ = "0.1.0"


def load(folder: str | Path, table: str = "cells") -> pd.DataFrame:
    """A folder of records as one tidy pandas frame. Needs no torch.

    `cells` has a row a cell of the study, measured or not: what it is (`label`, `model`, `family`, `partner`, `sweep`
    or `dataset`, `length` in events, `batch` in sequences, `replicate` or `seed`), how it ended (`status`, `stale`),
    its cost (`step_seconds`, `token_seconds`, `tokens_per_second`, `speedup`, `peak_bytes`), its test accuracy
    (`ndcg@10` and all other metrics, 0 to 1) and where it was measured (`machine`, `device`, `torch`). `samples` has a
    row a timed block with its `seconds` and `steps`, `epochs` a row an epoch of a training cell; the key between them
    is `path`. `verdicts` has a row a ruling, on a claim (`variant` is "") or on a part of it. Every column is named in
    docs/frame.md, with its unit.

    Args:
        folder: A folder with study.json, such as `results/reference/cpu-2core`.
        table: `cells`, `samples`, `epochs` or `verdicts`.

    Returns:
        Numbers in the units of the columns' names; missing where they were not measured.

    Raises:
        UserError: There is no readable study.json, or no such table. A file that is not a record is no error: its cell
            has the status `refused`.

    Example:
        >>> cells = harness.load("results/reference/cpu-2core")
        >>> cells.pivot_table("step_seconds", "length", "label")
    """
    # Everything else here, and the processes that cells run in, do without pandas.
    from harness.analysis.frame import load as load_frame

    return load_frame(Path(folder), table)
