from functools import cache

import pytest

from harness.records import source_digest

_original = source_digest.cell_digest


@cache
def _digest(kind, *sides):
    return _original({"kind": kind, **{side: {"name": name} for side, name in sides}})


# Not for the session: tests elsewhere, which may run after these, ask for real digests.
@pytest.fixture(autouse=True, scope="module")
def _digests_once():
    """Sources do not change while the tests run; following their imports for every folder is slow."""

    def by_names(spec):
        return _digest(spec["kind"], *((s, spec[s]["name"]) for s in ("model", "partner") if s in spec))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source_digest, "cell_digest", by_names)
        yield
