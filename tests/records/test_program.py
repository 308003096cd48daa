"""What a digest of statements sees and what it does not, on a small project."""

import ast
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import shop
from shop import FILES, digest, program, write

PINNED = "52c4e7dd0f91484adc4a35e2ed49bab90e03d4e8d0afc73c6c3a28d611b729eb"


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, FILES)
    return tmp_path


def edit(folder, name, old, new):
    text = (folder / name).read_text()
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {name}"
    (folder / name).write_text(text.replace(old, new))


def test_the_digest_is_pinned(folder):
    """One that changes makes all records stale: let it change only together with them."""
    assert digest(folder) == PINNED


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_all_versions_of_python_agree(folder, version):
    installed = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    python = str(installed[0]) if installed else shutil.which(f"python{version}")
    if python is None:
        # Not every machine has other Pythons; the one that runs the tests is held to the pinned digest above.
        pytest.skip(f"Python {version} is not installed")
    root = Path(__file__).resolve().parents[2]
    # Without this environment's packages: a digest needs none.
    done = subprocess.run(
        [python, "-S", shop.__file__, folder],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert (done.stdout.strip(), done.stderr) == (PINNED, "")


SAME = {
    "a comment": ("shop/till.py", "# A comment.", "# Another one."),
    "a docstring": ("shop/till.py", '"""Sell."""', '"""Buy."""'),
    "no docstring": ("shop/till.py", '"""A bill."""', ""),
    "the wording of an error": ("shop/till.py", "only more than none", "take more"),
    "an import's name": ("shop/till.py", "import math as m\n", "import math as m\nimport math as unread\n"),
    "an entry that is not chosen": ("shop/prices.py", '"other": unused}', '"other": unused, "third": unused}'),
    "what only that entry does": ("shop/prices.py", "return 2", "return 3"),
    "a statement that nothing reads": ("shop/till.py", '{"a": [1]}', '{"a": [2]}'),
    "a function that nothing calls": ("shop/till.py", "return _UNREAD", "return None"),
    "what an annotation of a function names": ("shop/unused.py", "pass", "x: int"),
    "a module that is not imported": ("shop/new.py", "", "print(1)\n"),
    "an f-string cut elsewhere": ("shop/till.py", 'a" f"b"', 'ab"'),
}


@pytest.mark.parametrize("change", SAME)
def test_spelling_and_what_is_not_executed_do_not_count(folder, change):
    name, old, new = SAME[change]
    if not (folder / name).exists():
        (folder / name).write_text("")
        old = ""
        (folder / name).write_text(new)
    else:
        edit(folder, name, old, new)
    assert digest(folder) == PINNED


def test_formatting_does_not_count(folder):
    for path in folder.rglob("*.py"):
        path.write_text(ast.unparse(ast.parse(path.read_text())))
    assert digest(folder) == PINNED


RENAMED = {
    "prices.": "costs.",
    "from shop import prices": "import shop.low.costs as costs",
    "from shop.deep import round_up as upwards": "from shop.low import maths",
    "upwards(": "maths.round_up(",
    "m.sqrt": "sqrt",
    "import math as m": "from math import sqrt",
    "import numpy as np": "import numpy",
    "np.float32": "numpy.float32",
    "from shop import late": "from shop import later",
    "late.offers": "later.offers",
    "ShopError(f": "shop.errors.ShopError(f",
    "from shop.errors import ShopError": "import shop.errors",
}


def test_names_of_modules_and_of_imports_do_not_count(folder):
    (folder / "shop" / "deep").rename(folder / "shop" / "low")
    (folder / "shop" / "prices.py").rename(folder / "shop" / "low" / "costs.py")
    (folder / "shop" / "late.py").rename(folder / "shop" / "later.py")
    edit(folder, "shop/low/costs.py", "from shop.deep import Line, log", "from .maths import log, Line")
    till = folder / "shop" / "till.py"
    text = till.read_text()
    for old, new in RENAMED.items():
        assert old in text
        text = text.replace(old, new)
    till.write_text(text)
    assert digest(folder, "shop.low.costs.TABLE") == PINNED


def test_a_definition_may_move(folder):
    edit(folder, "shop/deep/maths.py", "\n\ndef round_up(x):\n    return -(-x // 1)\n", "")
    write(folder, {"shop/rounding.py": "def round_up(x):\n    return -(-x // 1)\n"})
    edit(folder, "shop/till.py", "from shop.deep import round_up", "from shop.rounding import round_up")
    assert digest(folder) == PINNED


OTHER = {
    "a constant": ("shop/till.py", "0.19", "0.2"),
    "a default": ("shop/till.py", "scale: float = 1.0", "scale: float = 2.0"),
    "an operator": ("shop/till.py", "* (1 + RATE)", "/ (1 + RATE)"),
    "a comparison": ("shop/till.py", "count < 0", "count <= 0"),
    "what raises the error": ("shop/till.py", "{count} of", "{scale} of"),
    "a decorator": ("shop/till.py", "kw_only=True", "kw_only=False"),
    "a field's type": ("shop/till.py", "total: float", "total: int"),
    "the type that a field names": ("shop/deep/maths.py", "text: str", "text: bytes"),
    "the annotation of an argument": ("shop/till.py", "count: int", "count: float"),
    "another definition of an import": ("shop/till.py", "import round_up as", "import round_down as"),
    "another method of a module": ("shop/till.py", "late.offers", "late.others"),
    "an external name": ("shop/till.py", "np.float32", "np.float64"),
    "another external module": ("shop/till.py", "import math as m", "import cmath as m"),
    "a first value": ("shop/till.py", "_seen = 0", "_seen = 1"),
    "a format": ("shop/till.py", ":>{count}", ":<{count}"),
    "a conversion": ("shop/till.py", "!r", "!s"),
    "a pattern": ("shop/till.py", '"all" | "some"', '"all" | "none"'),
    "a condition in a comprehension": ("shop/till.py", "len(name)) > 2", "len(name)) > 3"),
    "bytes": ("shop/till.py", "xff", "xfe"),
    "the chosen entry": ("shop/prices.py", "return 1", "return 0"),
    "an entry's function": ("shop/prices.py", '"used": used', '"used": unused'),
    "a cycle": ("shop/prices.py", "net(count) + 1", "net(count) + 2"),
    "an effect of loading": ("shop/prices.py", "prices are loaded", "prices are there"),
    "a new effect": ("shop/errors.py", "    pass\n", "    pass\n\n\nprint(1)\n"),
    "an effect of a package around": ("shop/__init__.py", "", "print(1)"),
    "what a decorator with an effect is given": ("shop/deep/maths.py", "return 3", "return 4"),
    "the decorator": ("shop/deep/maths.py", "log.append(function)", "log.insert(0, function)"),
    "what a function imports": (
        "shop/late.py",
        "def offers(count):\n    return [count]",
        "def offers(count):\n    return []",
    ),
    "a native source": ("shop/deep/maths.cpp", "int x", "int y"),
}


@pytest.mark.parametrize("change", OTHER)
def test_what_is_executed_counts(folder, change):
    name, old, new = OTHER[change]
    if old:
        edit(folder, name, old, new)
    else:
        (folder / name).write_text(new)
    assert digest(folder) != PINNED


def test_two_functions_swapped_count_though_the_set_of_statements_is_the_same(folder):
    edit(folder, "shop/till.py", "prices.net(count)", "prices.gross(count)")
    once = digest(folder)
    assert once != PINNED
    edit(folder, "shop/prices.py", "net(count) + 1", "gross(count) + 1")
    edit(folder, "shop/prices.py", "return gross(count - 1)", "return net(count - 1)")
    assert digest(folder) not in (PINNED, once)


def test_all_entries_count_where_none_is_chosen(folder):
    everything = program(folder)
    whole = everything.reach(everything.definitions("shop.till.run")).digest()
    assert whole != PINNED
    edit(folder, "shop/prices.py", "return 2", "return 3")
    edited = program(folder)
    assert edited.reach(edited.definitions("shop.till.run")).digest() != whole


def test_a_name_that_nothing_binds(folder):
    with pytest.raises(LookupError, match=r"nothing binds 'shop\.till\.sell'"):
        program(folder).definitions("shop.till.sell")


def test_only_a_table_can_be_chosen_from(folder):
    small = program(folder)
    with pytest.raises(ValueError, match="not a table"):
        small.reach(small.definitions("shop.till.run"), {"shop.prices.CHEAP": ["x"]})


def test_a_changed_file_is_noticed(folder):
    small = program(folder)
    small.reach(small.definitions("shop.till.run"))
    assert small.modules.are_current()
    (folder / "shop" / "deep" / "maths.cpp").write_text("int other;\n")
    assert not small.modules.are_current()
