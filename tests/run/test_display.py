"""What is shown while cells run: lines and their number, the time left, warnings once, failures with their log."""

import io
import json
import os
import threading

import factories
import msgspec
import numpy as np
import pytest

from harness.records import schema
from harness.run import display as display_module
from harness.run.display import Display, Pace, describe, failure_log, in_words
from harness.run.follow import Follower
from harness.study.cells import cells
from harness.study.schema import Study

STUDY = msgspec.convert(
    {
        "name": "tiny",
        "device": "cpu",
        "speed": {
            "models": ["hyenarec", "gru4rec"],
            "sweeps": {"constant-tokens": {"lengths": [16, 1024], "tokens": 1024, "replicates": 2}},
        },
        "training": {"models": ["hyenarec"], "datasets": ["synthetic"], "lengths": [64], "references": ["popularity"]},
    },
    Study,
)
CELLS = list(cells(STUDY))
SPEED = [cell for cell in CELLS if cell.kind == "speed"]
TRAINING = [cell for cell in CELLS if cell.kind == "training"]


def record(cell, **changes):
    rng = np.random.default_rng(0)
    truths = {"hyenarec": factories.HYENAREC, "gru4rec": factories.TRUTHS["gru4rec"]}
    if cell.kind == "speed":
        return factories.speed_record(cell, truths, rng, **changes)
    truth = factories.HYENAREC if cell.spec.length else factories.Truth("popularity", "reference", lambda t, n: 0.0)
    return factories.training_record(cell, truth, rng, np.linspace(0, 1, 200), **changes)


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves."""
    now = [1000.0]
    monkeypatch.setattr(display_module.time, "monotonic", lambda: now[0])

    def move(seconds):
        now[0] += seconds

    return move


@pytest.fixture
def shown():
    return io.StringIO()


def test_cells_are_named_in_words():
    assert describe(SPEED[0]) == "hyenarec, 16 events, process 1"
    assert describe(SPEED[3]) == "hyenarec, 1,024 events, process 2"
    assert {describe(cell) for cell in TRAINING} == {
        "popularity on synthetic",
        "hyenarec on synthetic, 64 events, seed 0",
    }


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "0 s"), (89, "89 s"), (100, "2 min"), (1500, "25 min"), (7500, "2 h 5 min")]
)
def test_durations_are_as_exact_as_a_person_needs(seconds, words):
    assert in_words(seconds) == words


def test_time_left_comes_from_like_cells_and_says_what_is_not_known():
    pace = Pace(CELLS, {})
    assert pace.left({}) == (0.0, 0.0)
    pace.ended(SPEED[0], 10.0)
    # The other seven speed cells count as like it; of the trainings nothing is known.
    assert pace.left({}) == (70.0, pytest.approx(7 / 9))
    pace.ended(SPEED[1], 12.0)
    assert pace.left({SPEED[2].path: 4.0})[0] == pytest.approx(6 * 11.0 - 4.0)
    for cell in SPEED[2:]:
        pace.ended(cell, 11.0)
    for cell in TRAINING:
        pace.ended(cell, 3.0)
    assert pace.left({}) == (0.0, 1.0)


def test_no_time_left_is_shown_while_most_of_it_is_not_known(clock, shown):
    pace = Pace(CELLS, {TRAINING[0].path: 4.0})
    display = Display(len(CELLS), 0, pace, shown)
    assert (pace.left({})[0], display.left()) == (4.0, "")
    display.begun(SPEED[0])
    clock(10)
    display.ended(SPEED[0], record(SPEED[0]), None)
    assert display.left() == "more than 74 s left"


def test_what_cells_took_before_counts_at_the_pace_of_today():
    expected = {cell.path: 10.0 for cell in CELLS}
    pace = Pace(CELLS, expected)
    assert pace.left({}) == (100.0, 1.0)
    pace.ended(TRAINING[0], 20.0)
    assert pace.left({}) == (180.0, 1.0)
    # A training whose time counts has the machine for itself, whatever else stands side by side.
    assert [cell.spec.timed for cell in TRAINING] == [True, True]
    assert Pace(CELLS, expected, beside=2).left({})[0] == 8 * 10.0 / 2 + 2 * 10.0


def test_how_soon_a_cell_fails_says_nothing_of_the_others(clock, shown):
    display = Display(len(CELLS), 0, Pace(CELLS, {cell.path: 10.0 for cell in CELLS}), shown)
    display.begun(SPEED[0])
    clock(0.2)
    display.ended(SPEED[0], None, None)
    assert display.left() == "about 2 min left"


def test_records_of_another_machine_tell_how_cells_compare_once_one_ended_here():
    pace = Pace(CELLS, {}, elsewhere={cell.path: 10.0 if cell in SPEED else 40.0 for cell in CELLS})
    assert pace.left({}) == (0.0, 0.0)
    pace.ended(SPEED[0], 20.0)
    # Twice as slow here: seven cells of 20 s, and two trainings of 80 s.
    assert pace.left({}) == (300.0, 1.0)


def test_lines_are_few_and_the_last_one_is_there(clock, shown):
    display = Display(len(CELLS), 0, Pace(CELLS, {}), shown)
    with display:
        for cell in CELLS:
            display.begun(cell)
            clock(3)
            display.ended(cell, record(cell), None)
    lines = shown.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[0] == "[0/10] begins: hyenarec, 16 events, process 1"
    assert lines[-1].startswith("[10/10] ")
    assert "ms a step" in lines[1]
    assert "left" in lines[1]
    assert "left" not in lines[-1]


def test_what_a_training_says_is_shown_now_and_then(clock, shown):
    (cell,) = [one for one in TRAINING if one.spec.length]
    display = Display(1, 0, Pace([cell], {}), shown)
    display.begun(cell)
    for epoch in range(1, 61):
        clock(1)
        display.said(cell, f"epoch {epoch}/60: loss 6.1\n")
    lines = shown.getvalue().splitlines()
    assert len(lines) == 3
    assert "hyenarec on synthetic, 64 events, seed 0: epoch 30/60: loss 6.1" in lines[1]
    assert dict(display.rows())["now"].endswith("epoch 60/60: loss 6.1")


def test_warnings_are_shown_at_once_and_a_flag_of_many_cells_once(clock, shown):
    display = Display(len(SPEED), 0, Pace(SPEED, {}), shown)
    display.begun(SPEED[0])
    display.said(SPEED[0], "note: C++ operators are off\n")
    assert shown.getvalue().splitlines()[-1] == "note: C++ operators are off"
    for place, cell in enumerate(SPEED):
        flag = (
            f"neighbours: its threads waited {place + 10}% of the time for a core; stop the others, delete the record"
        )
        display.ended(cell, record(cell, flags=[flag]), None)
    (line,) = [line for line in shown.getvalue().splitlines() if "neighbours" in line]
    assert line == "warning: hyenarec, 16 events, process 1: neighbours: its threads waited 10% of the time for a core"
    assert "delete" not in shown.getvalue()


def test_a_failed_cell_is_one_line_with_its_log_and_counts_as_no_result(clock, shown, tmp_path):
    display = Display(len(SPEED), 0, Pace(SPEED, {}), shown)
    display.begun(SPEED[0])
    failed = record(SPEED[0], status="error", detail="Traceback:\n  File x\nRuntimeError: boom\na note")
    display.ended(SPEED[0], failed, tmp_path / "cell.log")
    lines = shown.getvalue().splitlines()
    assert lines[-1] == f"failed: hyenarec, 16 events, process 1: error: RuntimeError: boom; why: {tmp_path}/cell.log"
    assert (display.done, display.failed) == (0, 1)
    display.ended(SPEED[1], record(SPEED[1], status="oom", detail="not enough memory"), None)
    assert "oom: not enough memory" in shown.getvalue()
    assert (display.done, display.failed) == (1, 1)
    # Tried again it is one failure still, and none once it has a result.
    display.ended(SPEED[0], failed, None)
    assert (display.done, display.failed) == (1, 1)
    display.ended(SPEED[0], record(SPEED[0]), None)
    assert (display.done, display.failed) == (2, 0)


def test_the_log_of_a_failure_is_where_something_stands(tmp_path):
    output, log = tmp_path / "r.json", tmp_path / "r.log"
    assert failure_log(output, log) == tmp_path / "r.failed.json"
    log.write_text("Traceback")
    assert failure_log(output, log) == log


def test_a_terminal_that_knows_ascii_alone_gets_what_it_can_show(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    stream.isatty = lambda: True
    with Display(1, 0, Pace(SPEED[:1], {}), stream) as display:
        display.note("warning: 2 × 3")
    stream.flush()
    assert b"warning: 2 ? 3" in raw.getvalue()
    assert b"0/1 cells" in raw.getvalue()


@pytest.mark.parametrize("term", ["dumb", None])
def test_a_dumb_terminal_gets_lines(monkeypatch, term):
    monkeypatch.delenv("TERM", raising=False)
    if term is not None:
        monkeypatch.setenv("TERM", term)
    stream = io.StringIO()
    stream.isatty = lambda: True
    with Display(1, 0, Pace(SPEED[:1], {}), stream) as display:
        display.stage("analysis")
    assert stream.getvalue() == "[0/1] analysis\n"


def test_a_closed_stream_ends_no_run(clock):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    with Display(1, 0, Pace(SPEED[:1], {}), Closed()) as display:
        display.begun(SPEED[0])
        display.ended(SPEED[0], record(SPEED[0]), None)
    assert display.done == 1


def test_events_of_a_workflow_engine_become_what_is_shown(tmp_path, shown):
    folder, (first, second, *_) = tmp_path / "results" / "tiny", SPEED
    log = tmp_path / "first.log"
    log.write_text("of an earlier try\n")
    schema.write(record(first), folder / first.path)
    schema.write(record(second, status="killed", detail="killed by SIGKILL."), folder / second.path)
    display = Display(2, 0, Pace([first, second], {}), shown)
    follower = Follower(folder, {str(folder / cell.path): cell for cell in (first, second)}, display)
    read, write = os.pipe()
    with os.fdopen(write, "w") as pipe:

        def send(event, cell=None, **more):
            own = {} if cell is None else {"output": [str(folder / cell.path)], "log": [str(log)], "rule": "speed"}
            pipe.write(json.dumps({"event": event, **own, **more}) + "\n")
            pipe.flush()

        reading = threading.Thread(target=follower.follow, args=(read,))
        reading.start()
        send("begun", first)
        with log.open("a") as file:
            file.write("warning: something is odd\n")
        send("ended", first)
        send("begun", second)
        send("failed", second)
        send("failed", rule="report", output=["reports/scaling.pdf"], log=["report.log"])
        send("told", level="error", text="it is broken")
        send("begun", rule="analyse", output=["analysis.json"], log=[])
    reading.join(timeout=30)
    os.close(read)
    lines = shown.getvalue().splitlines()
    assert (display.done, display.failed) == (1, 1)
    assert any(line.startswith("failed: hyenarec, 16 events, process 2: killed: killed by SIGKILL") for line in lines)
    assert follower.other == ["report failed; why: report.log"]
    assert follower.told == ["it is broken"]
    assert any("analysis" in line for line in lines)
    assert "of an earlier try" not in shown.getvalue()
