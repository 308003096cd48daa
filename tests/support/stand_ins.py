"""Modules of packages that are not installed, with only the functions a test writes."""

import functools
import sys
import types

from models.ops.build import optional


def install(monkeypatch, name, function):
    """`name` becomes a module with that one function, and its package looks installed."""
    package, *rest = name.split(".")
    for depth in range(len(rest) + 1):
        parent = ".".join([package, *rest[:depth]])
        monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
    setattr(sys.modules[name], function.__name__, function)
    looks_for(monkeypatch, package)


def looks_for(monkeypatch, package):
    """Nothing is known of what was imported before, and that package alone looks installed."""
    monkeypatch.setattr(optional, "imports", functools.cache(optional.imports.__wrapped__))
    monkeypatch.setattr("importlib.util.find_spec", lambda asked: object() if asked == package else None)
