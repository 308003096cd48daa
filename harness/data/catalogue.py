"""Which data sets exist: format, file, checksum, where to get it. No torch, no files touched."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from harness.data.account import Options, given, in_words
from harness.data.preparation import Preparation
from harness.errors import UserError

# The format of generated data, which have no file.
SYNTHETIC = "synthetic"
# Items of a cluster of planted data.
MEMBERS = 5

_Count = Annotated[int, msgspec.Meta(ge=1)]


class Planted(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of generated data whose next item depends on one earlier event, see harness/data/planted.py.

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


class DataSource(Options, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where one data set comes from, and how its file is read: see `Options`.

    Attributes:
        format: `synthetic` (generated), or a file of harness/data/formats such as `table`.
        planted: For `synthetic`: data with a dependence at a known lag, instead of the built-in ones.
        preparation: What is done to the events before they are split.
        file: Path below the data folder, or below harness/data/packaged, where it is `FILE.gz`; or an absolute one.
        sha256: Checksum of that file; None accepts any file and records what it was.
        url: Where a user may fetch it; None where there is no stable public address.
        citation: What to cite.
        sentinel_ndcg10: NDCG@10 above which a result means a wrong split, where one is known.
        caution: What a reader of results on it must know, as a sentence.
    """

    format: str
    planted: Planted | None = None
    preparation: Preparation = Preparation()
    file: str | None = None
    sha256: str | None = None
    url: str | None = None
    citation: str = ""
    sentinel_ndcg10: float | None = None
    caution: str = ""

    @property
    def options(self) -> Options:
        """How the file is read."""
        return Options(**self.given)

    @property
    def words(self) -> str:
        """What changes the events of the file: how it is read, and its preparation."""
        return ", ".join(filter(None, [self.options.words, self.preparation.words]))

    @property
    def spoken(self) -> str | None:
        """The file as a cell's spec has it; with the options that differ from their defaults, which change it."""
        if self.planted is not None:
            return self.planted.words
        return f"{self.file}: {self.words}" if self.words else self.file

    def check(self, name: str) -> None:
        """Check what the types do not.

        Args:
            name: Name of the data set, for the message.

        Raises:
            UserError: Options that contradict each other, a malformed checksum or address, or a file of planted data.
        """
        if words := self.problem():
            raise UserError(f"data set '{name}': {words}")
        if self.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise UserError(
                f"data set '{name}': sha256 is '{self.sha256}'; it must be 64 of the digits 0-9 and a-f, in lower case"
            )
        if self.url is not None and not _is_address(self.url):
            raise UserError(
                f"data set '{name}': url is '{self.url}'; it must begin with https://, http://, ftp:// or file:///"
            )
        if words := self.preparation.problem():
            raise UserError(f"data set '{name}', preparation: {words}")
        if self.format == SYNTHETIC and self.words:
            vain = [*self.given, *(["preparation"] if self.preparation.words else [])]
            raise UserError(f"data set '{name}' is generated, so {', '.join(vain)} mean nothing; leave them out")
        if self.planted is None:
            return
        problem = self.planted.problem()
        if self.format != SYNTHETIC or self.file is not None or self.sha256 is not None:
            problem = f"they are generated; write `format: {SYNTHETIC}` and leave file and sha256 out"
        if problem is not None:
            raise UserError(f"data set '{name}', planted: {problem}")


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    far = parts.scheme in ("http", "https", "ftp") and bool(parts.netloc)
    return bool(parts.path) and (parts.scheme == "file" or far)


_MCAULEY = "McAuley et al., Image-based recommendations on styles and substitutes, SIGIR 2015"

SOURCES: dict[str, DataSource] = {
    "synthetic": DataSource(format="synthetic", citation="built in, see harness/data/synthetic.py"),
    "ml-1m": DataSource(
        format="pairs",
        file="ml-1m/ml-1m.txt",
        sha256="b725f3acb3986fe3130bffd1e77a74d182a1f51799567a236dbd60270f95b0a2",
        url="https://raw.githubusercontent.com/kang205/SASRec/master/data/ml-1m.txt",
        citation="Harper and Konstan, The MovieLens datasets, TiiS 2015; file of Kang and McAuley, SASRec, ICDM 2018",
        sentinel_ndcg10=0.25,
    ),
    "ml-100k": DataSource(
        format="ratings",
        file="ml-100k/u.data",
        sha256="06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490",
        citation="u.data of ml-100k.zip, Harper and Konstan, The MovieLens datasets, TiiS 2015",
    ),
    "ml-latest-small": DataSource(
        format="ratings",
        file="ml-latest-small/ratings.csv",
        sha256="80da8b3393dae325bbba5a31f291a6ba55d8d4f4396de3c456f2c1635b1b70e8",
        citation="ratings.csv of ml-latest-small.zip, Harper and Konstan, The MovieLens datasets, TiiS 2015",
        # As the README.txt of the data set says of it.
        caution="Its authors call it a development data set, which may change: it is for trying out, not for evidence.",
    ),
    "beauty": DataSource(
        format="sequences",
        file="amazon/Beauty.txt",
        sha256="226cce9c3105299ca0db9615d7d3fb32b3175e90da43100ae352599f0f0107b8",
        citation=_MCAULEY,
    ),
    "sports": DataSource(
        format="sequences",
        file="amazon/Sports_and_Outdoors.txt",
        sha256="2a095e0648872beb9982408958290f5d655db5be2911c3756b5446de9f0b8de2",
        citation=_MCAULEY,
    ),
    "video-games": DataSource(
        format="sequences",
        file="amazon/Video_Games.txt",
        sha256="929cd5d06b806927bcdc4374140b3840f07209ebababd5960e5d411ba7aa44f8",
        citation=_MCAULEY,
    ),
    "video": DataSource(
        format="pairs",
        file="amazon/Video_sasrec.txt",
        sha256="b7376fe24430743f411dc7f567285657b2adb3f74361cc7ba0aee94f3024b651",
        citation=_MCAULEY,
    ),
}
