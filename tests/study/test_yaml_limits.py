"""Files from elsewhere: too large, too deep, or grown by aliases. One line each, at once."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UserError
from harness.study.check import load_study
from harness.study.schema import Study
from harness.study.yaml_reading import read_yaml

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LAUGHS, "more than 100,000 values"),
        ("name: &name [*name]", "an alias stands inside what it names"),
        ("model: {hidden_size: 1e2}", "model.hidden_size is the text '1e2'; write 100.0, without quotes"),
        ("training: {lengths: 50}", r"training.lengths must be a list; write \[50\]"),
        ("[" * 5_000 + "]" * 5_000, "nested too deeply"),
        ("a: " + "[" * 60 + "]" * 60, "nested too deeply; at most 40 levels"),
        ("name: " + "x" * (1 << 20), "too many for a study or a card"),
        ('name: x\nprecision: "a\\n\\e[2J"', r"value in precision 'a\\n\\x1b\[2J'\. Legal"),
        ("!!python/object/apply:os.system ['echo hacked']", "not valid YAML"),
    ],
    ids=["laughs", "cycle", "text", "no list", "deepest", "deep", "large", "steers the terminal", "object"],
)
def test_is_refused_in_one_line_and_at_once(tmp_path, text, words):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    begin = time.monotonic()
    with pytest.raises(UserError, match=words) as caught:
        load_study(str(path))
    assert "\n" not in str(caught.value)
    # Of a hundred million values the reading alone would take minutes.
    assert time.monotonic() - begin < 20


def test_aliases_that_stay_small_are_read(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(
        "name: mine\nspeed:\n  models: &few [gru4rec, lrurec]\n"
        "  sweeps:\n    one: {tokens: 64, lengths: [16], models: *few}\n"
    )
    study = read_yaml(path, Study)
    assert study.speed.sweeps["one"].models == ["gru4rec", "lrurec"]


@given(st.text(alphabet="ab:-[]{}&*!|>#'\" \n,?", max_size=60))
def test_any_text_is_a_study_or_one_line(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("any") / "study.yaml"
    path.write_text(text)
    said = ""
    try:
        read_yaml(path, Study)
    except UserError as error:
        said = str(error)
    assert "\n" not in said
