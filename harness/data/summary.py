"""What a data set is: what was read of its file, its figures, who can be ranked and trained, in words and as JSON."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
import yaml

from harness.data import sources, splits
from harness.data.account import Account, Leaks, Options
from harness.data.catalogue import SOURCES, SYNTHETIC, DataSource
from harness.data.formats import names
from harness.data.generated import planted, synthetic
from harness.data.interactions import StoredInteractions
from harness.data.leaks import leaks
from harness.data.parts import Files
from harness.data.reading.guess import guess
from harness.data.sources import Prepared
from harness.data.splits import SPLITS, Split
from harness.errors import UserError, unknown

# Share of the test items that nobody trains on, and of events of an item had before, from which on it is a warning.
_MANY_COLD = 0.1
_MANY_REPEATS = 0.05


@dataclass(frozen=True)
class Summary:
    """A data set and its figures.

    Attributes:
        source: Where it comes from.
        prepared: Its arrays, and what was found in the file.
        split: Who is ranked.
        leaks: What the leak check of the split found.
        repeats: Share of the events whose item the user has had before.
        cold: Test events whose item stands in nobody's training events.
        untrained: Users of less than two training events, who give a model nothing to train on.
    """

    source: DataSource
    prepared: Prepared
    split: Split
    leaks: Leaks
    repeats: float
    cold: int
    untrained: int

    @property
    def stored(self) -> StoredInteractions:
        """The events."""
        return self.prepared.interactions

    @property
    def account(self) -> Account:
        """What was found in the file; empty where that is not known."""
        return self.prepared.account or Account(rows=self.stored.num_events)

    @property
    def histories(self) -> dict[str, float]:
        """Events a user."""
        low, middle, high, top = np.quantile(self.stored.lengths, [0, 0.5, 0.99, 1]).tolist()
        return {"min": low, "median": middle, "mean": float(self.stored.lengths.mean()), "p99": high, "max": top}

    @property
    def histories_sha256(self) -> str:
        """Checksum of the histories alone: the same for one file with times and one in their order."""
        digest = hashlib.sha256(np.ascontiguousarray(self.stored.items).data)
        digest.update(np.ascontiguousarray(self.stored.offsets).data)
        return digest.hexdigest()

    @property
    def span(self) -> tuple[str, str] | None:
        """First and last day; None where there are no times."""
        times = self.stored.timestamps
        if times is None:
            return None
        # Any second is a day here, and not only those that Python's own dates know.
        first, last = (
            str(np.datetime64(int(time), "s").astype("datetime64[D]")) for time in (times.min(), times.max())
        )
        return first, last

    @property
    def warnings(self) -> list[str]:
        """What may be wrong with the data, a sentence each."""
        found, tested = [*self.account.warnings], int(self.split.test.counts.sum())
        if problem := unusable(self.prepared, split_of(self.source)):
            found.append(problem)
        elif self.cold >= _MANY_COLD * tested:
            found.append(
                f"{self.cold:,} of {tested:,} test items stand in nobody's training events: no model can know them"
            )
        return [*found, *self._repeated, *self.leaks.warnings]

    @property
    def _repeated(self) -> list[str]:
        """What is said of repeats and duplicates while a study has not decided about them."""
        choices = self.source.preparation
        if choices is not None and choices.repeats != "keep":
            return []
        # A split that is given is taken as it is.
        mine, found = self.source.files is None, []
        if self.repeats >= _MANY_REPEATS:
            advice = ". `preparation: {repeats: first}` keeps the first event of each" if mine else ""
            found.append(
                f"{self.repeats:.0%} of the events are of an item that the user has had before; items had are left out "
                f"of a user's ranking, all but the one held out{advice}"
            )
        if count := self.account.duplicates:
            advice = "; `preparation: {repeats: exact}` keeps one of those of one second" if mine else ""
            events = "1 event is there twice" if count == 1 else f"{count:,} events are there twice"
            found.append(f"{events} (same user, item and time), and all count{advice}")
        return found

    @property
    def lines(self) -> str:
        """What to write into a study to use the file."""
        entry: dict[str, Any] = {"format": self.source.format}
        if self.prepared.files_sha256 is None:
            entry |= {"file": self.source.file, "sha256": self.prepared.data_sha256}
        else:
            sums = self.prepared.files_sha256
            parts = self.source.parts.items()
            entry["files"] = {part: {"file": one.file, "sha256": sums[part]} for part, one in parts}
        content: dict[str, Any] = {"data": {self.prepared.name: {**entry, **self.source.given}}}
        dumped: str = yaml.safe_dump(
            content, default_flow_style=None, sort_keys=False, width=10_000, allow_unicode=True
        )
        return dumped.rstrip()


def summary(name: str, source: DataSource, folder: str | Path | None = None) -> str:
    """Prepare a data set and describe it, as `python -m harness data NAME` prints it; see `figures`."""
    return as_text(figures(name, source, folder))


def figures(name: str, source: DataSource, folder: str | Path | None = None) -> Summary:
    """Prepare a data set and count.

    Args:
        name: Name of the data set.
        source: Where it comes from.
        folder: The study's data folder.

    Raises:
        UserError: See `harness.data.sources.prepare`.
    """
    prepared = sources.prepare(name, source, folder)
    stored, split = prepared.interactions, SPLITS[split_of(source)](prepared.interactions)
    owner = np.repeat(np.arange(stored.num_users), stored.lengths)
    distinct = len(np.unique(owner * (stored.num_items + 1) + stored.items))
    known = np.zeros(stored.num_items + 1, dtype=bool)
    known[split.training().items] = True
    return Summary(
        source=source,
        prepared=prepared,
        split=split,
        leaks=leaks(split),
        repeats=1 - distinct / stored.num_events,
        cold=int((~known[stored.items[split.targets("test")]]).sum()),
        untrained=int((split.training_ends - stored.offsets[:-1] < 2).sum()),
    )


def split_of(source: DataSource) -> str:
    """By which rule `data` describes a source: as it came split, else by leaving one out."""
    return "leave-one-out" if source.files is None else "given"


def of_file(path: Path, said: Mapping[str, Any], held_out: Mapping[str, Path] = MappingProxyType({})) -> Summary:
    """The same of a file that no study names.

    Args:
        path: The file.
        said: Its format and options, as far as they are given.
        held_out: Files of `validation` and `test`, where `path` is the one of train.

    Raises:
        UserError: It cannot be read; the message says what to give, as in a study.
    """
    if held_out and "test" not in held_out:
        raise UserError("--validation is of data that come split, which have a file of test too; add `--test FILE`")
    for part, file in held_out.items():
        if not file.is_file():
            raise UserError(f"--{part}: there is no file {file.absolute()}; correct the path")
    legal = names()
    if "format" in said and said["format"] not in legal:
        raise unknown("format", said["format"], legal)
    options = {name: value for name, value in said.items() if name != "format"}
    # Before a file is looked into by them.
    if words := Options(encoding=options.get("encoding", "utf-8")).problem():
        raise UserError(words)
    form = said.get("format")
    if form is None:
        asked = options.keys() & {"user", "item", "time", "order"}
        form = "table" if asked else guess(path, options.get("encoding", "utf-8"))
    # Not what a link leads to, whose name may be a checksum.
    path = Path(os.path.normpath(path.absolute()))
    # Of a split the folder tells more than its `train.csv` does.
    told = path.parent.name if held_out else path.name.split(".")[0]
    name = re.sub(r"[^A-Za-z0-9]+", "-", told).strip("-") or "mine"
    if name in SOURCES:
        name += "-own"
    if not held_out:
        return figures(name, DataSource(format=form, file=str(path), **options))
    files = Files(train=str(path), **{part: os.path.normpath(file.absolute()) for part, file in held_out.items()})
    return figures(name, DataSource(format=form, files=files, **options))


def unusable(prepared: Prepared, split: str = "leave-one-out") -> str | None:
    """Why no model can be trained or ranked on a data set; None if one can.

    Args:
        prepared: The data set.
        split: By which rule, an entry of `harness.data.splits.SPLITS`.
    """
    stored = prepared.interactions
    if split == "global-temporal" and stored.timestamps is None:
        return (
            "it has no times, which `split: global-temporal` needs; take a file with times, or `split: leave-one-out`"
        )
    if split != "leave-one-out":
        return _nobody(SPLITS[split](stored), split)
    longest = int(stored.lengths.max(initial=0))
    # Of a ranked user all but two events are for training, and a pair of input and target takes two.
    if longest < splits.LEAST_EVENTS:
        return (
            f"no user has {splits.LEAST_EVENTS} events, so nobody can be ranked (the longest history has {longest}); "
            "bring longer histories"
        )
    if not (splits.leave_one_out(stored).training_ends - stored.offsets[:-1] >= 2).any():
        return (
            "no user has two training events besides the two that are held out, so nothing can be trained; "
            "bring longer histories"
        )
    return None


# What to do where a split leaves nobody.
_REMEDIES = {
    "global-temporal": "hardly anybody has events both early and late; take `split: leave-one-out`",
    "given": "the files must have users who stand in train and, with two events there, in the others",
}


def _nobody(split: Split, rule: str) -> str | None:
    """For what a split leaves no user at all; None if there is somebody for each part."""
    starts = split.interactions.offsets[:-1]
    for what, there in {
        "validation": len(split.validation.users) > 0,
        "test": len(split.test.users) > 0,
        "training with two events": bool((split.training_ends - starts >= 2).any()),
    }.items():
        if not there:
            return f"`split: {rule}` leaves no user for {what}: {_REMEDIES[rule]}"
    return None


def as_text(found: Summary) -> str:
    """What `python -m harness data` prints."""
    stored, told, split, source = found.stored, found.account, found.split, found.source
    history = found.histories
    lines = [
        f"{found.prepared.name}: {stored.num_users:,} users, {stored.num_items:,} items, {stored.num_events:,} events",
        f"history: min {history['min']:.0f}, median {history['median']:g}, mean {history['mean']:.1f}, "
        f"p99 {history['p99']:.0f}, max {history['max']:.0f}",
    ]
    if found.prepared.account is not None:
        left = ", ".join(f"{count:,} {reason}" for reason, count in told.left_out.items())
        lines.append(f"read: {told.form}")
        if told.columns:
            columns = ", ".join(f"{role} is {name}" for role, name in told.columns.items())
            lines.append(f"columns: {columns}; not used: {', '.join(told.ignored) or 'none'}")
        lines.append(f"rows: {told.rows:,} kept; left out: {left or 'none'}")
    lines.append(f"timestamps: {'none' if stored.timestamps is None else told.unit or 'unix seconds'}")
    if found.span is not None:
        lines.append(f"time: {found.span[0]} to {found.span[1]}")
    if told.ties is not None:
        lines.append(
            f"ties: {told.ties:.1%} of neighbouring events of a user have the same time; {told.duplicates:,} events "
            "are there twice (same user, item and time) and count"
        )
    lines += [
        f"repeats: {found.repeats:.1%} of the events are of an item that the user has had before",
        *_split_words(found),
        f"training: {found.untrained:,} users have fewer than two training events; {found.cold:,} items of the test "
        "stand in nobody's training events",
        f"split sha256: {split.sha256}",
        f"data sha256: {found.prepared.data_sha256}",
        f"arrays sha256: {found.prepared.arrays_sha256}",
        f"arrays: {found.prepared.folder.absolute()}",
        f"reference: {source.citation or 'none stated'}",
    ]
    if source.origin is not None:
        lines.append(f"licence: {source.origin.conditions}")
    lines += [f"warning: {words}" for words in found.warnings]
    if source.caution:
        lines.append(f"caution: {source.caution}")
    if source.planted is not None:
        lines.append(planted.describe(source.planted))
    elif source.format == SYNTHETIC:
        lines.append(synthetic.describe())
    elif found.prepared.name not in SOURCES:
        lines.append("in a study:")
        lines += [found.lines, "training:", f"  datasets: [{yaml_word(found.prepared.name)}]"]
        lines += [] if source.files is None else ["  split: given"]
    return "\n".join(lines)


def yaml_word(name: str) -> str:
    """A name as a study has it: in quotes where YAML would take it for a number, a date or true."""
    dumped: str = yaml.safe_dump([name], default_flow_style=True, allow_unicode=True, width=float("inf"))
    return dumped.strip()[1:-1]


def _split_words(found: Summary) -> list[str]:
    """Who is ranked, and what the leak check of the split says; by another rule too, where it can be used."""
    split, check = found.split, f"leak check: {found.leaks.words}"
    if found.source.files is None:
        return [
            f"split: {splits.RULE}; {len(split.users):,} users ranked, {split.training_only:,} with fewer than "
            f"{splits.LEAST_EVENTS} events in training only",
            check,
            *_temporal_words(found.stored),
        ]
    counts = {
        "train": split.training().num_events,
        "validation": int(split.validation.counts.sum()),
        "test": int(split.test.counts.sum()),
    }
    files = ", ".join(f"{part} {count:,}" for part, count in counts.items())
    taken = "" if "validation" in found.source.parts else f" (taken from train: {splits.TAKEN})"
    return [
        f"split: given by the files; events: {files}{taken}; {len(split.users):,} users ranked, "
        f"{split.training_only:,} in training only",
        check,
    ]


def _temporal_words(stored: StoredInteractions) -> list[str]:
    """Whom `split: global-temporal` would rank, and its leak check, as lines; none where it cannot be used."""
    if stored.timestamps is None:
        return []
    split = splits.global_temporal(stored)
    if _nobody(split, "global-temporal") is not None:
        return []
    left = stored.num_users - split.interactions.num_users
    return [
        f"split global-temporal: {len(split.users):,} users ranked on {split.test.counts.sum():,} events; {left:,} "
        "users without an event before it left out",
        f"leak check of split global-temporal: {leaks(split).words}",
    ]


def as_json(found: Summary) -> str:
    """What `python -m harness data --json` prints."""
    stored, told = found.stored, found.account
    content = {
        "name": found.prepared.name,
        "format": found.source.format,
        **{name: value for name, value in asdict(told).items() if name not in ("rows", "warnings")},
        "kept": told.rows,
        "users": stored.num_users,
        "items": stored.num_items,
        "events": stored.num_events,
        "histories": {**found.histories, "sha256": found.histories_sha256},
        "span": found.span,
        "repeats": found.repeats,
        "ranked_users": len(found.split.users),
        "untrained_users": found.untrained,
        "cold_test_items": found.cold,
        "warnings": found.warnings,
        "split": split_of(found.source),
        "leaks": msgspec.to_builtins(found.leaks),
        "split_sha256": found.split.sha256,
        "data_sha256": found.prepared.data_sha256,
        "arrays_sha256": found.prepared.arrays_sha256,
        "reference": found.source.citation or None,
        "licence": None if found.source.origin is None else found.source.origin.conditions,
        "study": None if found.prepared.name in SOURCES else yaml.safe_load(found.lines),
    }
    return json.dumps(content, indent=1, ensure_ascii=False)
