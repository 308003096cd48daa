"""Which format a file has, told from its first lines: for `data FILE`, where no study says it."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from harness.data.account import PLAIN, SEPARATORS
from harness.data.reading import columns
from harness.data.reading import lines as text
from harness.errors import UserError

_SAMPLE = 200
# Numbers, as items of a history; words with blanks between may be one item's title.
_LIST = re.compile(r"\d+([\s,;|]+\d+)+")


def guess(path: Path, encoding: str = PLAIN.encoding) -> str:
    """`table`, `pairs` or `sequences`.

    A table has names of columns; or as many fields in every line, and times, or a separator that is no blank before
    a last field that is a number. Pairs have two fields in every line. All else are sequences.

    Raises:
        UserError: The file is empty, cannot be unpacked, is no text, or may be a table or sequences.
    """
    if text.is_parquet(path):
        return "table"
    sample = [line for _, line in itertools.islice(text.text_lines(path, encoding), _SAMPLE)]
    if not sample:
        raise text.no_events(path)
    if sample[0].lstrip().startswith(("{", "[{")):
        return "table"
    if sample[0].strip() == "[":
        raise UserError(f"{path}, line 1: a JSON list over several lines; write one object a line (`jq -c '.[]' FILE`)")
    pairs = unsure = False
    for separator in SEPARATORS:
        rows = _rows(sample, separator)
        width = len(rows[0]) if rows else 0
        named = width > 1 and columns.is_header(rows[0])
        if named and width > 2:
            return "table"
        if width < 2 or any(len(row) != width for row in rows):
            continue
        if width == 2:
            # A list of items stands in one field, too; the first line may name it.
            second = [row[1].strip() for row in rows[len(rows) > 1 :]]
            if all(_LIST.fullmatch(field) for field in second) or (separator == "\t" and all("," in f for f in second)):
                return "sequences"
            pairs = True
        elif columns.has_times(rows):
            return "table"
        elif width <= 4 and columns.has_numbers(rows):
            if separator != " ":
                return "table"
            unsure = True
    if unsure:
        raise UserError(
            f"{path}, line 1: '{text.shown(sample[0])}' may be a row of a table or a user's history; "
            "say `--format table` or `--format sequences`"
        )
    return "pairs" if pairs else "sequences"


def _rows(sample: list[str], separator: str) -> list[list[str]]:
    try:
        return [text.split(line, separator) for line in sample]
    except ValueError:
        # A quote goes on in the next line, as only a table has it.
        return _over_lines(sample, separator) if separator != " " else []


def _over_lines(sample: list[str], separator: str) -> list[list[str]]:
    rows: list[list[str]] = []
    try:
        rows.extend(text.quoted(sample, separator))
    except ValueError:
        # The sample ends in a quote, or the file is damaged: reading it says so.
        return rows
    return rows
