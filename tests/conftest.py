from hypothesis import settings

# A red run should be the commit's fault, not the draw's: the same examples every time. For new ones:
# python -m pytest --hypothesis-profile=search
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None)
settings.load_profile("same")


def pytest_collection_modifyitems(items):
    """Whole workflows take longest: begun first, they run beside all others."""
    items.sort(key=lambda item: item.path.parent.name != "workflow")
