"""A format to copy: after `cp _template.py my_form.py` a study's `data:` says `format: my-form`.

This file is not a format, since its name begins with `_`. It would read `item user` lines in the order of time.
"""

from __future__ import annotations

from pathlib import Path

from harness.data.formats import Format, Histories
from harness.data.reading.lines import ItemIds, lines, malformed

_FORM = "'item user', the oldest event of the file first"


def read(path: Path, items: ItemIds) -> Histories:
    """Histories of the file.

    Raises:
        UserError: A line of another form, with file and line.
    """
    users: dict[str, list[int]] = {}
    # `lines` skips blank lines and comments, refuses bytes that are not UTF-8, and splits at white space; `text_lines`
    # gives the line whole, for other separators, and `refuse` is the error for one.
    for number, fields in lines(path):
        if len(fields) != 2:
            raise malformed(path, number, fields, _FORM)
        item, user = fields
        # `items` gives a token its id, in order of first appearance.
        users.setdefault(user, []).append(items[item])
    # Every user's events, oldest first; then their unix seconds in the same order, `[[978300760, …], …]`, or None.
    return users.values(), None


# With `options=("ties",)` it takes that option of a study's data set, and `read` two arguments more: the options, and
# an account of lines kept and left out, which `python -m harness data` then shows; see `Format`.
# Raise `version` when the same file is to give other histories: they are then prepared anew.
FORMAT = Format(read, version=1)
