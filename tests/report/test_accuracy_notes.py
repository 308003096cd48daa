from examples import example

from harness.report.sections.accuracy import data


def test_a_development_data_set_is_said_to_illustrate():
    found = data(example(datasets=("ml-latest-small", "synthetic")))["notes"]
    assert [heading for heading, _ in found if "illustrates" in heading] == ["ml-latest-small illustrates."]
    assert "not for evidence" in dict(found)["ml-latest-small illustrates."]


def test_other_data_sets_need_no_caution():
    assert not any("illustrates" in heading for heading, _ in data(example())["notes"])
