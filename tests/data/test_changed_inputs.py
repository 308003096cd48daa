"""One log in every form that people bring, changed at random: what keeps the meaning loads equal, else file and line.

Half of the inputs are written otherwise (separator, names, quotes, units of time, order of rows, packing …) and must
give the same histories. The others have one fault put in, and must be refused with the file, the line of the fault
where it has one, and a reason; or, where one character was changed, give what Python's own `csv` reads.
"""

import csv
import gzip
import io
import json
import random
import re
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
import zstandard

from harness.data.account import Account, Options
from harness.data.formats import find_format
from harness.data.reading.lines import ItemIds
from harness.data.reading.tokens import MISSING
from harness.errors import UserError

READERS = ("pairs", "sequences", "ratings", "table", "inter", "json", "parquet")
NAMES = {
    "user": ["user", "userId", "user_id", "uid", "session_id", "reviewerID", "User"],
    "item": ["item", "movieId", "item_id", "asin", "parent_asin", "ITEM"],
    "time": ["time", "timestamp", "unixReviewTime", "ts", "event_time"],
}
IDS = [
    lambda draw: str(draw.randrange(1, 50)),
    lambda draw: f"{draw.randrange(1, 50):05d}",
    lambda draw: f"SKU-{draw.randrange(30)}",
    lambda draw: draw.choice(["é", "ß", "日本", "Ω", "ж"]) + str(draw.randrange(9)),
    lambda draw: f"{draw.getrandbits(64):016x}x",
    lambda draw: f"{draw.choice('abc')}{draw.randrange(20)}",
]


def log(draw):
    """Events `(user, item, second)`; no user has two at one second, so that times alone tell the order."""
    user, item = draw.choice(IDS), draw.choice(IDS)
    users = [*dict.fromkeys(user(draw) for _ in range(draw.randrange(1, 5)))]
    items = [*dict.fromkeys(item(draw) for _ in range(draw.randrange(2, 8)))]
    begin = draw.choice([800_000_000, 1_000_000_000, 1_500_000_000, 1_790_000_000])
    seconds = draw.sample(range(begin, begin + 10**7), draw.randrange(2, 16))
    return [(draw.choice(users), draw.choice(items), second) for second in seconds]


def histories(events):
    found = {}
    for user, item, _ in sorted(events, key=lambda event: event[2]):
        found.setdefault(user, []).append(item)
    return found


@dataclass
class Text:
    """A file of lines; `rows[k]` is the place in `lines` of event k."""

    lines: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    def add(self, line, *, is_row=True):
        if is_row:
            self.rows.append(len(self.lines))
        self.lines.append(line)


def spaced(text, draw):
    """The same with blank lines and comments where they mean nothing."""
    spread = Text()
    ends = set(text.rows)
    if draw.random() < 0.2:
        spread.add("# an export", is_row=False)
    for place, line in enumerate(text.lines):
        spread.add(line, is_row=place in ends)
        if draw.random() < 0.1:
            spread.add(draw.choice(["", "  "]), is_row=False)
    return spread


def quoted(cell, draw, separator):
    must = separator in cell or '"' in cell
    return '"' + cell.replace('"', '""') + '"' if must or draw.random() < 0.15 else cell


def as_time(second, unit):
    moment = datetime.fromtimestamp(second, UTC)
    return {
        "s": f"{second}",
        "ms": f"{second}123",
        "us": f"{second}123456",
        "float": f"{second}.0",
        "T": f"{moment:%Y-%m-%dT%H:%M:%SZ}",
        "blank": f"{moment:%Y-%m-%d %H:%M:%S}",
    }[unit]


def table(events, draw, separators=(",", ";", "\t", "|", "::", " "), typed=False):
    """A table, each choice of its writer at random."""
    separator = draw.choice(separators)
    units = ["s", "ms", "us", "float", *(["T"] if separator == " " else ["T", "blank"])]
    unit = draw.choice(["s", "float", "ms"]) if typed else draw.choice(units)
    named = typed or draw.random() < 0.6
    columns = ["user", "item", "time"]
    if named:
        draw.shuffle(columns)
    if draw.random() < 0.5:
        columns.insert(2 if not named else draw.randrange(4), "rating")
    if named and draw.random() < 0.3 and separator != " ":
        columns.insert(draw.randrange(len(columns) + 1), "text")
    kinds = {"user": "token", "item": "token", "time": "float", "rating": "float", "text": "token"}
    names = {"rating": "rating", "text": "remark"} | {role: draw.choice(names) for role, names in NAMES.items()}
    if typed:
        names |= {"user": "user_id", "item": "item_id", "time": "timestamp"}
    if draw.random() < 0.5:
        events = draw.sample(events, len(events))
    text = Text()
    if named:
        text.add(separator.join(f"{names[c]}:{kinds[c]}" if typed else names[c] for c in columns), is_row=False)
    pad = draw.choice(["", "", " "]) if separator in ",;|" else ""
    for user, item, second in events:
        cells = {"user": user, "item": item, "time": as_time(second, unit), "rating": str(draw.randrange(1, 6))}
        cells["text"] = draw.choice(["ok", f"good{separator} and cheap", 'a "b" c', ""])
        text.add((separator + pad).join(quoted(cells[c], draw, separator) for c in columns))
    return spaced(text, draw)


def grouped(events):
    """Histories by user, users in the order of their first event."""
    return histories(events).items()


def pairs(events, draw):
    separator, text = draw.choice(["\t", ",", " ", ";", "::"]), Text()
    if draw.random() < 0.3:
        text.add(f"user_id{separator}item_id", is_row=False)
    for user, items in grouped(events):
        for item in items:
            text.add(f"{quoted(user, draw, separator)}{separator}{quoted(item, draw, separator)}")
    return spaced(text, draw)


def sequences(events, draw):
    separator, text = draw.choice(["\t", ",", " ", ";"]), Text()
    for user, items in grouped(events):
        text.add(separator.join([user, *items]))
    return spaced(text, draw)


def json_lines(events, draw):
    names = {role: draw.choice(names) for role, names in NAMES.items()}
    unit, text = draw.choice(["s", "ms", "T"]), Text()
    for user, item, second in draw.sample(events, len(events)):
        time = as_time(second, unit)
        row = {names["user"]: user, names["item"]: item, names["time"]: time if unit == "T" else int(time)}
        if draw.random() < 0.5:
            row |= {"rating": 5.0, "tags": ["x", {"y": None}], "summary": 'a "b", c'}
        # A number where an id is one may stand without quotes.
        row = {k: int(v) if isinstance(v, str) and v.isascii() and v == str_of(v) else v for k, v in row.items()}
        text.add(json.dumps(dict(draw.sample([*row.items()], len(row))), ensure_ascii=draw.random() < 0.5))
    return text


def str_of(digits):
    return str(int(digits)) if digits.isdigit() else None


def parquet(events, draw):
    arrow, engine = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    events = draw.sample(events, len(events))
    users, items, seconds = (arrow.array(list(column)) for column in zip(*events, strict=True))
    kind = draw.choice(["int64", "string", "s", "ms", "us", "double"])
    times = seconds.cast(f"timestamp[{'s' if len(kind) > 2 else kind}]")
    times = seconds.cast(kind) if kind in ("int64", "double") else times.cast("string") if kind == "string" else times
    columns = {"user": users, "item": items, "time": times, "remark": arrow.array(["x"] * len(events))}
    for role in ("user", "item"):
        if draw.random() < 0.4:
            columns[role] = columns[role].dictionary_encode()
    names = {role: draw.choice(names) for role, names in NAMES.items()}
    columns = draw.sample([*columns.items()], len(columns))
    file = io.BytesIO()
    engine.write_table(
        arrow.table({names.get(role, role): column for role, column in columns}),
        file,
        compression=draw.choice(["none", "snappy", "gzip", "zstd"]),
        row_group_size=draw.choice([None, 3]),
    )
    return file.getvalue()


def ratings(events, draw):
    return table(events, draw, ("::", "\t", ","))


def inter(events, draw):
    return table(events, draw, ("\t",), typed=True)


WRITERS = {
    "pairs": pairs,
    "sequences": sequences,
    "ratings": ratings,
    "table": table,
    "inter": inter,
    "json": json_lines,
}


def encoded(text, draw):
    """Bytes of lines, with one of the line ends that there are, and packed or not."""
    end = draw.choice(["\n", "\n", "\r\n", "\r"])
    content = end.join(text.lines) + (end if draw.random() < 0.7 else "")
    return packed((("\ufeff" if draw.random() < 0.2 else "") + content).encode(), draw)


def packed(content, draw):
    way = draw.randrange(8)
    if way == 0:
        return gzip.compress(content)
    if way == 1:
        return zstandard.compress(content)
    if way == 2:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("data/log.txt", content)
        return file.getvalue()
    return content


def read(reader, path):
    """Items of each user, oldest first."""
    form = reader if reader in ("pairs", "sequences", "ratings") else "table"
    ids, users = ItemIds(), []
    found, _ = find_format(form).read(path, ids, Options(), Account(), users)
    found, names = [[*map(int, history)] for history in found], list(ids)
    return {user: [names[item - 1] for item in items] for user, items in zip(users, found, strict=True)}


def faults(reader, text, row):
    """What may be wrong with a row, and its line with that; each is refused wherever the row stands."""
    line = text.lines[text.rows[row]]
    yield "a byte of zero", line + "\0"
    if reader == "json":
        yield "an object cut off", line[:-1]
        yield "no object", "[1, 2]"
        yield "a list for an id", re.sub(r'": ("[^"]*"|\d+)', '": [1]', line, count=1) if '"tags"' not in line else "{}"
        return
    if reader == "sequences":
        yield "a user alone", re.split(r"[\t,; ]", line)[0]
        yield "a list in brackets", "u9 ['a', 'b']"
        return
    # A row of another width than all others.
    if reader == "pairs":
        yield "a user alone", "u9"
        return
    yield "one field", "u9"
    if reader == "inter" and '"' not in line:
        cells, names = line.split("\t"), text.lines[text.rows[0] - 1].split("\t")
        for name, cell in (("user_id", ""), ("item_id", "nan"), ("timestamp", "soon"), ("timestamp", "9" * 30)):
            place = next((k for k, head in enumerate(names) if head.startswith(name)), None)
            if place is not None:
                yield f"{name} '{cell[:4]}'", "\t".join([*cells[:place], cell, *cells[place + 1 :]])
    yield "the names again", text.lines[text.rows[0] - 1] if is_header(text) else "one field"
    if not line.startswith('"') and any(mark in line for mark in "\t,;|"):
        yield "a quote that is not closed", '"' + line


def is_header(text):
    first = text.rows[0] - 1
    return first >= 0 and text.lines[first][:1].isalpha() and len(text.lines[first]) > 8


def changed_character(text, draw):
    """A comma-separated table with one character put in, taken out or replaced, and what `csv` makes of it."""
    lines = ["user,item,time", *(f"{user},{item},{second}" for user, item, second in text)]
    content = "\n".join(lines) + "\n"
    place = draw.randrange(len(lines[0]) + 1, len(content))
    letter = draw.choice([*'abz059,," \n-._é\t;'])
    content = content[:place] + draw.choice([letter, "", letter + content[place]]) + content[place + 1 :]
    try:
        rows = [*csv.reader([line for line in content.split("\n") if line.strip()], strict=True, skipinitialspace=True)]
    except csv.Error:
        return content, None
    cells = [[cell.strip() for cell in row] for row in rows[1:]]
    if any(len(row) != 3 or row[0] in MISSING or row[1] in MISSING or "\n" in "".join(row) for row in cells):
        return content, None
    if any(not re.fullmatch(r"\d{9,10}(\.\d*)?", row[2]) for row in cells):
        return content, None
    times = [float(row[2]) for row in cells]
    if len({(row[0], time) for row, time in zip(cells, times, strict=True)}) < len(cells):
        return content, "either"
    if min(times) < 631_152_000 or max(times) > 4_102_444_800:
        return content, None
    return content, histories([(row[0], row[1], time) for row, time in zip(cells, times, strict=True)])


def kept(reader, draw, path):
    """An input whose meaning is that of the log: why it is wrong, or nothing."""
    events = log(draw)
    content = parquet(events, draw) if reader == "parquet" else encoded(WRITERS[reader](events, draw), draw)
    path.write_bytes(content)
    found, meant = read(reader, path), histories(events)
    return None if found == meant else f"read as {found}, meant {meant}"


def spoilt(reader, draw, path):
    """An input with one fault: why its reading is wrong, or nothing, and the kind."""
    events = log(draw)
    if reader == "parquet":
        content = bytearray(parquet(events, draw))
        del content[draw.randrange(4, len(content)) :]
        kind, line, content = "cut off", None, bytes(content)
    elif reader == "table" and draw.random() < 0.5:
        text, meant = changed_character(events, draw)
        path.write_text(text, encoding="utf-8", newline="")
        try:
            found = read(reader, path)
        except UserError as error:
            known = f"{path}, line " in str(error) and "\n" not in str(error)
            return "a character", None if known and meant in (None, "either") else f"{text!r} refused: {error}"
        return "a character", None if meant in (found, "either") else f"{text!r} read as {found}, meant {meant}"
    else:
        text = WRITERS[reader](events, draw)
        row = draw.randrange(len(text.rows))
        if draw.random() < 0.05 and reader in ("pairs", "table", "inter"):
            # Beyond what decides whether a file is text at all.
            text.lines[-1:] = ["# " + "x" * 5000, text.lines[-1]]
            text.rows = [place + (place == len(text.lines) - 2) for place in text.rows]
        kind, spoilt_line = draw.choice([*faults(reader, text, row)])
        line = text.rows[row] + 1
        text.lines[text.rows[row]] = spoilt_line
        content = encoded(text, draw)
    path.write_bytes(content)
    try:
        found = read(reader, path)
    except UserError as error:
        message = str(error)
        if "\n" in message or str(path) not in message:
            return kind, f"{content!r}: {message}"
        named = re.search(r", line (\d+)", message)
        # Without names, rows decide together what columns are, and the first that does not fit is named.
        if line is not None and (named is None or (reader not in ("ratings", "table") and int(named[1]) != line)):
            return kind, f"not line {line}: {content!r}: {message}"
        return kind, None
    # A column that is not read may hold anything.
    ignored = kind == "a byte of zero" and found == histories(events)
    return kind, None if ignored else f"{content!r} was read as {found}"


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("reader", READERS)
def test_changed_inputs_load_equal_or_are_refused_with_file_and_line(tmp_path, reader, count):
    path, wrong, kinds = tmp_path / "log.data", {}, Counter()
    for number in range(count):
        draw = random.Random(f"{reader} {number}")
        try:
            if number % 2:
                kind, why = spoilt(reader, draw, path)
            else:
                kind, why = "kept", kept(reader, draw, path)
        except UserError as error:
            kind, why = "kept", f"{path.read_bytes()!r} refused: {error}"
        kinds[kind] += 1
        if why is not None:
            wrong[number] = f"{kind}: {why}"
    assert kinds["kept"] >= count // 2
    shown = "\n".join(f"{number} {why[:900]}" for number, why in list(wrong.items())[:8])
    assert not wrong, f"{len(wrong)} of {count}:\n{shown}"
