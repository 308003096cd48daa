from functools import cache

import pytest

from harness import source_digest


@pytest.fixture(autouse=True, scope="session")
def _digests_once():
    """Sources do not change while the tests run; following their imports for every folder is slow."""
    original = source_digest.cell_digest

    @cache
    def digest(kind, *sides):
        names = {side: {"name": name} for side, name in sides}
        return original({"kind": kind, **names})

    def by_names(spec):
        return digest(spec["kind"], *((s, spec[s]["name"]) for s in ("model", "partner") if s in spec))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source_digest, "cell_digest", by_names)
        yield
