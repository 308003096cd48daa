"""Models of installed packages: found without importing them, and mistakes told to who can correct them."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from harness import cli
from models import registry
from models.registry import RegistryError

EXAMPLE = (Path(__file__).parents[1] / "docs" / "example_plugin" / "fossil.py").read_text()


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts sources on the path and entry points into the installed packages' list."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(sources, **points):
        folder = tmp_path / "digger-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Name: digger\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in points.items()]
        (folder / "entry_points.txt").write_text("\n".join([f"[{registry.ENTRY_POINT_GROUP}]", *lines]))
        for path, text in sources.items():
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_text(text)
        importlib.invalidate_caches()
        return tmp_path

    yield make
    for cached in (registry.entries, registry.family, registry._tree):
        cached.cache_clear()


@pytest.fixture(autouse=True)
def _anew():
    for cached in (registry.entries, registry.family, registry._tree):
        cached.cache_clear()


def test_a_package_is_found_and_read_without_being_imported(install):
    sources = {"dig/__init__.py": "raise SystemExit('imported')", "dig/fossil.py": EXAMPLE}
    install(sources, fossil="dig.fossil:Fossil")
    assert "fossil" in registry.names(reference=False)
    assert {"alpha", "order", "hidden_size"} & set(registry.options("fossil")) >= {"order", "hidden_size"}
    assert "dig" not in sys.modules


@pytest.mark.parametrize(
    ("sources", "points", "words"),
    [
        ({"dig.py": EXAMPLE}, {"fossils": "dig:Fossil"}, ["digger", "fossils = dig:Fossil", "registers fossil"]),
        ({"dig.py": "x = 1"}, {"fossil": "dig:Fossil"}, ["registers nothing", "correct its entry point"]),
        ({}, {"fossil": "gone.fossil:Fossil"}, ["digger", "no source of a module 'gone.fossil'", "uninstall"]),
        ({"dig.py": "def f(:"}, {"fossil": "dig:Fossil"}, ["dig.py", "cannot be parsed", "fix or delete"]),
        ({"dig.py": EXAMPLE}, {"hyenarec": "dig:Fossil"}, ["'hyenarec' is built in already", "another name"]),
    ],
)
def test_a_package_that_breaks_the_rules_is_named_with_the_remedy(install, sources, points, words):
    install(sources, **points)
    with pytest.raises(RegistryError) as caught:
        registry.entries()
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("line", ["order: int = 2 * 2", "order: int", "order: int = field(default=3)"])
def test_options_without_a_plain_default_are_refused(install, line):
    assert "order: int = 3" in EXAMPLE
    install({"dig.py": EXAMPLE.replace("order: int = 3", line)}, fossil="dig:Fossil")
    with pytest.raises(RegistryError, match=r"dig\.py, line \d+: 'order: int.*plain values"):
        registry.options("fossil")


def test_a_package_that_cannot_be_imported_is_named(install):
    install({"dig.py": EXAMPLE + "\nimport not_there\n"}, fossil="dig:Fossil")
    with pytest.raises(RegistryError, match=r"'fossil' of package 'digger' cannot be imported \(ModuleNotFoundError"):
        registry.load("fossil")
    sys.modules.pop("dig", None)


def test_the_commands_say_it_in_one_line(install):
    folder = install({}, fossil="gone:Fossil")
    run = subprocess.run(
        [sys.executable, "-m", "harness", "models"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(folder), "PATH": ""},
        check=False,
    )
    assert run.returncode == 64
    assert run.stderr.startswith("error: package 'digger'")
    assert len(run.stderr.splitlines()) == 1


def test_a_model_that_cannot_be_imported_is_named_and_hides_no_other(capsys, monkeypatch):
    def load(name):
        if name == "fossil":
            raise ModuleNotFoundError("No module named 'nonexisting'")
        return real(name)

    real = registry.load
    entries = {name: registry.entries()[name] for name in ("hyenarec", "popularity")}
    entries["fossil"] = registry.Entry("fossil", "models.fossil", Path("models/fossil.py"), reference=False)
    monkeypatch.setattr(registry, "entries", lambda: entries)
    monkeypatch.setattr(registry, "load", load)
    assert cli.main(["models"]) == 0
    said = capsys.readouterr()
    assert "hyenarec" in said.out
    assert "popularity" in said.out
    assert said.err == (
        "warning: model 'fossil' (models/fossil.py) cannot be imported: ModuleNotFoundError: No module named "
        "'nonexisting'; correct the file, or install what it needs\n"
    )
