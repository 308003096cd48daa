"""Which data sets exist: format, file, checksum, where to get it. No torch, no data touched.

The public ones stand in `remote/registry.yaml`, each entry as a study would have it under `data:`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
import yaml

from harness.data.account import Options, given, in_words
from harness.data.parts import Files
from harness.data.preparation import Preparation
from harness.errors import UserError

# The format of generated data, which have no file.
SYNTHETIC = "synthetic"
# Items of a cluster of planted data.
MEMBERS = 5

_REGISTRY = Path(__file__).parent / "remote" / "registry.yaml"
_SCHEMES = "https://, http://, ftp:// or file:///"

_Count = Annotated[int, msgspec.Meta(ge=1)]


class Planted(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of generated data whose next item depends on one earlier event, see harness/data/generated/planted.py.

    Attributes:
        lag: How many events back that event lies.
        noise: Share of the events that depend on none.
        users: Number of users.
        shortest: Least events of a user.
        longest: Most events of a user.
        clusters: Clusters of five items; the catalogue has 5 × clusters.
        seed: Seed of the generator.
    """

    lag: _Count
    noise: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.2
    users: _Count = 2_500
    shortest: _Count = 60
    longest: _Count = 180
    clusters: Annotated[int, msgspec.Meta(ge=2)] = 200
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0

    @property
    def num_items(self) -> int:
        """Catalogue size V."""
        return self.clusters * MEMBERS

    @property
    def words(self) -> str:
        """What a cell's spec says: the options that differ from their defaults, so that one can be added later."""
        return f"planted: {in_words(given(self, Planted))}"

    def problem(self) -> str | None:
        """What is wrong with the options together; None if nothing is."""
        if self.longest < self.shortest:
            return f"longest is {self.longest}; it must be at least shortest, which is {self.shortest}"
        if self.lag > self.shortest - 2:
            return (
                f"lag is {self.lag}; it must be at most shortest - 2 = {self.shortest - 2}, so that both held-out "
                f"events of every user depend on one of the history. Give a shorter lag, or shortest: {self.lag + 2}"
            )
        if 2 * self.longest > self.num_items:
            return (
                f"longest is {self.longest}; it must be at most {self.num_items // 2}, half of all items: users "
                f"should not have to repeat one. Give clusters: {-(-2 * self.longest // MEMBERS)}"
            )
        return None


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the file of a data set is published, and on what terms.

    Attributes:
        url: Address of the file, or of the archive that holds it.
        checksum: Of what lies there, `md5:…` or `sha256:…`; None: none is known that could be verified.
        size: Of what lies there, in bytes, for the user to read; None: not known.
        members: Paths in the archive, a zip or tar. Several become one file, in this order, their header kept once.
        licence: Its name, or what it says in a few words.
        terms: Address of its text.
        consent: Whether it is fetched only for somebody who agrees to these terms.
        columns: Of the file, for the user to read.
    """

    url: str
    checksum: str | None = None
    size: _Count | None = None
    members: tuple[str, ...] = ()
    licence: str = "not stated"
    terms: str | None = None
    consent: bool = False
    columns: str = ""

    @property
    def weight(self) -> str:
        """The size in words."""
        if self.size is None:
            return "size not known"
        unit, factor = next((u, f) for u, f in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("bytes", 1)) if self.size >= f)
        return f"{self.size / factor:.3g} {unit}"

    @property
    def archive(self) -> str:
        """Name of what lies at the address."""
        return PurePosixPath(urlsplit(self.url).path).name

    @property
    def conditions(self) -> str:
        """Licence and where its text is."""
        return f"{self.licence}; {self.terms}" if self.terms else self.licence

    def problem(self) -> str | None:
        """What is wrong with it; None if nothing is."""
        if not _is_address(self.url) or not self.archive:
            return f"url is '{self.url}'; it must begin with {_SCHEMES}, and end in the name of a file"
        if self.checksum is not None and not re.fullmatch("md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", self.checksum):
            return f"checksum is '{self.checksum}'; it must be md5: and 32, or sha256: and 64 digits 0-9 and a-f"
        if bad := [member for member in self.members if ".." in PurePosixPath(member).parts or member.startswith("/")]:
            return f"members name '{bad[0]}'; they must be paths inside the archive, without '..'"
        return None


class DataSource(Options, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where one data set comes from, and how its file is read: see `Options`.

    Attributes:
        format: `synthetic` (generated), or a file of harness/data/formats such as `table`.
        planted: For `synthetic`: data with a dependence at a known lag, instead of the built-in ones.
        preparation: What is done to the events before they are split.
        files: Instead of `file`: files of train, validation and test of data that come split.
        file: Path below the data folder, or below harness/data/packaged, where it is `FILE.gz`; or an absolute one.
        sha256: Checksum of that file; None accepts any file and records what it was.
        url: Where a user may fetch it; None where there is no stable public address.
        origin: Where it is published, if it lies in an archive or has terms to be shown; instead of `url`.
        citation: What to cite.
        sentinel_ndcg10: NDCG@10 above which a result means a wrong split, where one is known.
        caution: What a reader of results on it must know, as a sentence.
    """

    format: str
    planted: Planted | None = None
    preparation: Preparation = Preparation()
    files: Files | None = None
    file: str | None = None
    sha256: str | None = None
    url: str | None = None
    origin: Origin | None = None
    citation: str = ""
    sentinel_ndcg10: float | None = None
    caution: str = ""

    @property
    def published(self) -> Origin | None:
        """Where it can be fetched; None if nowhere."""
        if self.origin is not None:
            return self.origin
        return None if self.url is None else Origin(url=self.url)

    @property
    def options(self) -> Options:
        """How the file is read."""
        return Options(**self.given)

    @property
    def words(self) -> str:
        """What changes the events of the file: how it is read, and its preparation."""
        return ", ".join(filter(None, [self.options.words, self.preparation.words]))

    @property
    def parts(self) -> dict[str, DataSource]:
        """Each of `files` as a source of its own; none without them."""
        if self.files is None:
            return {}
        return {
            name: msgspec.structs.replace(self, files=None, file=part.file, sha256=part.sha256, url=part.url)
            for name, part in self.files.parts.items()
        }

    @property
    def stated_sha256(self) -> str | None:
        """The checksum that the data must have; of several files a common one, if all are stated."""
        if self.files is None:
            return self.sha256
        return joint_sha256({name: part.sha256 for name, part in self.parts.items()})

    @property
    def spoken(self) -> str | None:
        """The file as a cell's spec has it; with the options that differ from their defaults, which change it."""
        if self.planted is not None:
            return self.planted.words
        file = self.file
        if self.files is not None:
            file = ", ".join(f"{name} {part.file}" for name, part in self.parts.items())
        return f"{file}: {self.words}" if self.words else file

    def refuse_split(self, split: str) -> str | None:
        """Why events cannot be held out by a rule, an entry of `harness.data.splits.SPLITS`; None if they can."""
        if self.files is not None and split != "given":
            return f"comes split, as files, and training.split is '{split}'; write `split: given` under training"
        if self.files is None and split == "given":
            return (
                "does not come split, and training.split is 'given'; write `files: {train: …, test: …}` instead of "
                "`file`, or another split: leave-one-out, global-temporal"
            )
        return None

    def check(self, name: str) -> None:
        """Check what the types do not.

        Args:
            name: Name of the data set, for the message.

        Raises:
            UserError: Options that contradict each other, a malformed checksum or address, or a file of planted data.
        """
        if words := self.problem():
            raise UserError(f"data set '{name}': {words}")
        if words := self._problem_of_files():
            raise UserError(f"data set '{name}': {words}")
        for part, source in self.parts.items():
            source.check(f"{name}, {part}")
        if self.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise UserError(
                f"data set '{name}': sha256 is '{self.sha256}'; it must be 64 of the digits 0-9 and a-f, in lower case"
            )
        if self.url is not None and not _is_address(self.url):
            raise UserError(f"data set '{name}': url is '{self.url}'; it must begin with {_SCHEMES}")
        if self.origin is not None:
            problem = self.origin.problem() if self.url is None else "it has an address, so leave url out"
            if problem is not None:
                raise UserError(f"data set '{name}', origin: {problem}")
        if words := self.preparation.problem():
            raise UserError(f"data set '{name}', preparation: {words}")
        if self.format == SYNTHETIC and (self.words or self.files is not None):
            others = {"preparation": self.preparation.words, "files": self.files}
            vain = [*self.given, *(option for option, there in others.items() if there)]
            raise UserError(f"data set '{name}' is generated, so {', '.join(vain)} mean nothing; leave them out")
        if self.planted is None:
            return
        problem = self.planted.problem()
        if self.format != SYNTHETIC or self.file is not None or self.sha256 is not None:
            problem = f"they are generated; write `format: {SYNTHETIC}` and leave file and sha256 out"
        if problem is not None:
            raise UserError(f"data set '{name}', planted: {problem}")

    def _problem_of_files(self) -> str | None:
        """What is wrong with the files of a split; None if nothing is, or there are none."""
        if self.files is None:
            return None
        for field in ("file", "sha256", "url", "origin"):
            if getattr(self, field) is not None:
                return (
                    f"{field} and files are two ways to say where it comes from; leave {field} out, or write it with "
                    "each file: `train: {file: train.csv, sha256: …}`"
                )
        if self.preparation.words:
            return "a split that comes as files is taken as it is, so preparation means nothing; leave it out"
        named = [part.file for part in self.files.parts.values()]
        if len(set(named)) < len(named):
            return f"files names one file twice ({', '.join(named)}); every part must have its own"
        return None


def joint_sha256(parts: Mapping[str, str | None]) -> str | None:
    """One checksum of several files: sha256 of the sorted lines `NAME CHECKSUM`; None where one is not known."""
    if None in parts.values():
        return None
    return hashlib.sha256("".join(f"{name} {sha256}\n" for name, sha256 in sorted(parts.items())).encode()).hexdigest()


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    far = parts.scheme in ("http", "https", "ftp") and bool(parts.netloc)
    return bool(parts.path) and (parts.scheme == "file" or far)


def _registry() -> dict[str, DataSource]:
    # Every command reads it; the loader in C, where PyYAML has it, takes a tenth of the time.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    entries: dict[str, Any] = yaml.load(_REGISTRY.read_text(encoding="utf-8"), Loader=loader)
    return msgspec.convert(entries, dict[str, DataSource])


SOURCES: dict[str, DataSource] = {
    "synthetic": DataSource(format=SYNTHETIC, citation="built in, see harness/data/generated/synthetic.py"),
    **_registry(),
}
