import json

import factories
import msgspec
import pytest
from operator_examples import operator_record

from harness import cli
from harness.analysis.analyse import analyse, read, write
from harness.records.operator import FILE_NAME, SOURCES
from harness.records.schema import encode
from harness.records.source_digest import source_digest


@pytest.fixture
def folder(tmp_path):
    return factories.make_folder(tmp_path / "study")


def test_operator_json_is_in_the_analysis_as_it_is(folder, tmp_path):
    record = operator_record()
    (folder / FILE_NAME).write_bytes(encode(record))
    found = analyse(folder)
    assert found.operator == record
    assert FILE_NAME in found.problems.stale
    write(found, tmp_path / "analysis.json")
    assert read(tmp_path / "analysis.json") == found


def test_one_from_these_sources_is_not_stale(folder):
    record = operator_record()
    provenance = msgspec.structs.replace(record.provenance, source_digest=source_digest(SOURCES))
    (folder / FILE_NAME).write_bytes(encode(msgspec.structs.replace(record, provenance=provenance)))
    assert FILE_NAME not in analyse(folder).problems.stale


def test_without_it_nothing_is_said_and_an_older_analysis_can_be_read(folder, tmp_path):
    found = analyse(folder)
    assert found.operator is None
    value = json.loads(encode(found))
    del value["operator"]
    (tmp_path / "older.json").write_text(json.dumps(value))
    assert read(tmp_path / "older.json") == found


def test_a_broken_one_is_refused_and_the_rest_is_reported(folder, tmp_path):
    (folder / FILE_NAME).write_bytes(encode(operator_record())[:-40])
    found = analyse(folder)
    assert found.operator is None
    assert found.times
    assert any(r.path == FILE_NAME and "not a complete JSON" in r.message for r in found.problems.refused)
    assert cli.main(["report", str(folder), "--output", str(tmp_path / "report.pdf")]) == 0


def test_report_shows_the_page_for_a_folder_that_holds_it(folder, tmp_path):
    (folder / FILE_NAME).write_bytes(encode(operator_record()))
    figures = tmp_path / "figures"
    command = ["report", str(folder), "--output", str(tmp_path / "report.pdf"), "--figures", str(figures)]
    assert cli.main(command) == 0
    assert {"operator-time.svg", "operator-error.svg"} <= {p.name for p in figures.iterdir()}
