from pathlib import Path

from hypothesis import settings

# A red run should be the commit's fault, not the draw's: the same examples every time. For new ones:
# python -m pytest --hypothesis-profile=search
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None)
settings.load_profile("same")


def pytest_collection_modifyitems(items):
    """Of two processes neither should be left with a long file at the end: whole workflows begin, then whole commands.

    Those are the files of this folder itself.
    """
    begins = {"workflow": 0, Path(__file__).parent.name: 1}
    items.sort(key=lambda item: begins.get(item.path.parent.name, 2))
