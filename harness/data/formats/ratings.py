"""`user item rating unix_seconds` a line, in any order, as MovieLens has them.

A table whose users keep the order of the file. For files of your own there is `table`.
"""

from __future__ import annotations

from pathlib import Path

from harness.data.account import PLAIN, Account, Options
from harness.data.formats import Format, Histories
from harness.data.formats.table import OPTIONS, read_table
from harness.data.reading.lines import ItemIds


def read(
    path: Path,
    items: ItemIds,
    options: Options = PLAIN,
    account: Account | None = None,
    users: list[str] | None = None,
) -> Histories:
    """Histories and timestamps; see `harness.data.formats.table.read`."""
    return read_table(path, items, options, account or Account(), users, sort_users=False)


FORMAT = Format(read, version=3, options=OPTIONS, tells_users=True)
