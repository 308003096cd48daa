"""Generated input for every reader of files from elsewhere: read, or refused in one line, in time and in memory.

`FUZZ` is how many inputs there are over all readers, `FAULTS_SEED` what they are drawn from. One that fails is named by
its number.
"""

import gzip
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tarfile
import traceback
import zipfile
from collections import Counter
from pathlib import Path

import factories
import pytest
import torch
import yaml
from operator_examples import operator_record
from scene import ROOT, SPEED, TRAINING

from harness.analysis import analyse, published
from harness.data import summary
from harness.errors import UserError, in_one_line
from harness.measure.training import checkpoint
from harness.records import device_series, operator, schema
from harness.report.verdict_table import verdict_table
from harness.report.verdicts_json import document
from harness.run.session import resume
from harness.study.check import load_study
from harness.study.claim import load_cards
from harness.study.manifest import read_manifest
from models.registry import RegistryError

pytestmark = [pytest.mark.faults, pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")]
COUNT = int(os.environ.get("FUZZ", "5000"))
# Of processor time: the machine may have other work.
SECONDS, BYTES = 10, 1 << 30
# In place of a value, a word or a few bytes of a good file.
VALUES = [None, True, -1, 0, 2**63, 1e308, -1e-308, "", "x" * 5000, "../../x", "$(id)", "`id`", "a\nb", "\0", "é\u202e"]
VALUES += ["#eval(1)", "<script>", [], {}, [[]], [None] * 50, {"": ""}, "nan", "2026-13-45", "1e999", float("nan")]
PIECES = [
    b"\0",
    b"\xff\xfe",
    b"\n",
    b"\r",
    b'"',
    b"'",
    b"[" * 3000,
    b"{" * 3000,
    b"NaN",
    b"1e999",
    b"9" * 400,
    b"\t",
    b",",
]
PIECES += [
    b"&a *a",
    b"!!python/object:os.system",
    b"\xef\xbb\xbf",
    b"::",
    b"-",
    b"\x1f\x8b",
    b"PK\x03\x04",
    b"\xe2\x80\xa8",
]


class TooLongError(Exception):
    """An input took longer than any may."""


def damaged(content, draw):
    """A good file's bytes with one to four changes."""
    changed = bytearray(content)
    for _ in range(draw.randrange(1, 5)):
        place = draw.randrange(len(changed) + 1)
        length = draw.choice([1, 1, 2, 8, 64, 1000])
        way = draw.randrange(6)
        if way == 0 and changed:
            changed[place % len(changed)] ^= 1 << draw.randrange(8)
        elif way == 1:
            del changed[place:]
        elif way == 2:
            del changed[place : place + length]
        elif way == 3:
            changed[place:place] = draw.choice(PIECES)
        elif way == 4:
            changed[place:place] = changed[place : place + length] * draw.choice([1, 2, 50])
        else:
            changed[place : place + length] = draw.randbytes(length)
    return bytes(changed)


def revalued(value, draw):
    """A good structure in which one to three values, or the names of keys, are others."""
    value = json.loads(json.dumps(value))
    for _ in range(draw.randrange(1, 4)):
        holder = value
        while True:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not keys:
                break
            key = draw.choice(keys)
            if isinstance(holder[key], dict | list) and holder[key] and draw.random() < 0.8:
                holder = holder[key]
                continue
            way = draw.randrange(4)
            if way == 0:
                del holder[key]
            elif way == 1 and isinstance(holder, dict):
                holder[draw.choice(["x", "", "name", "../x", key * 2])] = holder.pop(key)
            else:
                holder[key] = draw.choice(VALUES)
            break
    return value


def structured(good, draw, dump=json.dumps):
    """Bytes of a changed structure, sometimes with changed bytes too."""
    content = dump(revalued(good, draw)).encode(errors="surrogatepass")
    return damaged(content, draw) if draw.random() < 0.3 else content


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """One good input of every kind."""
    folder = factories.make_folder(tmp_path_factory.mktemp("good") / "study", lengths=(256, 512, 1024))
    analysis = analyse.analyse(folder)
    analyse.write(analysis, folder / "analysis.json")
    records = sorted(path for kind in ("speed", "training") for path in (folder / kind).rglob("*.json"))
    buffer = io.BytesIO()
    state = {"weights": {"w": torch.arange(30.0)}, "epoch": 2, "log": [{"loss": 0.5, "ndcg": None}]}
    torch.save({"format": checkpoint.FORMAT, "identity": "run", "sources": "code", "state": state}, buffer)
    study = {"name": "tiny", "device": "cpu", "threads": 1, "timing_partner": "gru4rec", "speed": SPEED}
    study |= {"training": TRAINING, "data": {"mine": {"format": "pairs", "file": "mine.txt"}}}
    cards = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "workflow" / "claims").glob("*.yaml"))]
    tables = [json.loads(path.read_text()) for path in sorted((ROOT / "workflow" / "published").glob("*.json"))]
    columns = list(device_series.DeviceSeries.__struct_fields__)
    scalars = {"measure": "time", "device": "GPU-0", "period_seconds": 0.1, "baseline_bytes": 5}
    one = {**{name: [0.5, 1.5] for name in columns}, **scalars}
    return {
        "folder": folder,
        "record": [json.loads(path.read_text()) for path in records[:: max(1, len(records) // 12)]],
        "paths": [path.relative_to(folder) for path in records],
        "manifest": [json.loads((folder / "study.json").read_text())],
        "analysis": [json.loads((folder / "analysis.json").read_text())],
        "operator": [json.loads(schema.encode(operator_record()))],
        "series": [{"schema_version": 1, "label": "x", "spec_digest": "y", "passes": [one]}],
        "table": tables,
        "study": [study, *[yaml.safe_load(p.read_text()) for p in sorted((ROOT / "workflow/studies").glob("*.yaml"))]],
        "cards": cards,
        "checkpoint": buffer.getvalue(),
    }


def read_record(good, draw, path):
    path.write_bytes(structured(draw.choice(good["record"]), draw))
    schema.read(path)


def read_folder(good, draw, path):
    """Whatever one record or the manifest says, the others count, and verdicts, JSON and tables are written."""
    target = good["folder"] / draw.choice([*good["paths"], Path("study.json")])
    kept = target.read_bytes()
    target.write_bytes(structured(json.loads(kept), draw))
    try:
        found = analyse.analyse(good["folder"])
        verdict_table(found)
        json.loads(document(found))
    finally:
        target.write_bytes(kept)


def read_study_json(good, draw, path):
    (path / "study.json").write_bytes(structured(good["manifest"][0], draw))
    read_manifest(path)


def read_analysis(good, draw, path):
    path.write_bytes(structured(good["analysis"][0], draw))
    analyse.read(path)


def read_operator(good, draw, path):
    path.write_bytes(structured(good["operator"][0], draw))
    operator.read(path)


def read_series(good, draw, path):
    path.write_bytes(structured(good["series"][0], draw))
    device_series.read(path)


def read_table(good, draw, path):
    path.write_bytes(structured(draw.choice(good["table"]), draw))
    published.read_table(path)


def read_study(good, draw, path):
    path.write_bytes(structured(draw.choice(good["study"]), draw, yaml.safe_dump))
    load_study(str(path))


def read_cards(good, draw, path):
    path.write_bytes(structured(draw.choice(good["cards"]), draw, yaml.safe_dump))
    load_cards([str(path)])


def read_checkpoint(good, draw, path):
    content = good["checkpoint"]
    if draw.random() < 0.2:
        buffer = io.BytesIO()
        # What says of itself that it is this run's, in this format and by this code, is taken at its word.
        torch.save({**revalued({"format": 1, "identity": "run", "sources": "code"}, draw), "state": {"a": 1}}, buffer)
        content = buffer.getvalue()
    path.write_bytes(damaged(content, draw) if draw.random() < 0.8 else content)
    try:
        checkpoint.load(path, "run", "code")
    except IndexError as error:
        # Torch's reader knows no better; the supervisor puts such a file aside and says so (test_supervisor.py).
        assert "_weights_only_unpickler" in traceback.format_exc()
        raise UserError("put aside by the supervisor") from error
    except UserError as error:
        # Its words repeat a forged file's, and are printed by the command line in one line.
        raise UserError(in_one_line(error)) from None


def read_data(good, draw, path):
    separator = draw.choice(["\t", ",", " ", "::", ";", "|"])
    columns = draw.randrange(1, 6)
    words = [*map(str, range(12)), "a", "é", "NaN", "2020-01-02", "1e5", '"q', "", "-3", "978300760"]
    rows = [separator.join(draw.choice(words) for _ in range(columns)) for _ in range(draw.randrange(0, 30))]
    content = "\n".join([*(["user,item,rating,time"] if draw.random() < 0.3 else []), *rows]).encode()
    content = damaged(content, draw) if draw.random() < 0.6 else content
    packed = draw.randrange(6)
    if packed == 0:
        content = gzip.compress(content)
    elif packed == 1:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", draw.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as bundle:
            for number in range(draw.choice([1, 1, 1, 2])):
                bundle.writestr(draw.choice(["a.txt", "../../a.txt", "/etc/a.txt"]) + "x" * number, content)
        content = buffer.getvalue()
    path.write_bytes(damaged(content, draw) if packed < 3 else content)
    form = draw.choice([None, "pairs", "sequences", "ratings", "table"])
    summary.of_file(path, {} if form is None else {"format": form})


def read_archive(good, draw, path):
    names = [
        "set/study.json",
        "set/speed/a/x.json",
        "logs/a.log",
        "set/../../x",
        "/abs/x",
        "set",
        "",
        "set/" + "y" * 300,
    ]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=draw.choice(["w:gz", "w"])) as bundle:
        for _ in range(draw.randrange(0, 6)):
            member = tarfile.TarInfo(draw.choice(names))
            member.type = draw.choice([tarfile.REGTYPE] * 4 + [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
            member.linkname = draw.choice(["/etc/passwd", "../x", "set/study.json"])
            body = draw.randbytes(draw.choice([0, 10, 2000])) if member.isreg() else b""
            member.size = len(body)
            bundle.addfile(member, io.BytesIO(body))
    content = buffer.getvalue()
    target = path.parent / "records"
    path.write_bytes(damaged(content, draw) if draw.random() < 0.7 else content)
    outside = {entry for entry in path.parent.iterdir() if entry != target}
    try:
        resume(path, target)
    finally:
        assert {entry for entry in path.parent.iterdir() if entry != target} == outside
        assert not any(entry.is_symlink() for entry in target.rglob("*"))


# Each reader with its share of all inputs: the quick ones have more.
READERS = {
    "record": (read_record, 0.17),
    "folder of records": (read_folder, 0.005),
    "study.json": (read_study_json, 0.06),
    "analysis.json": (read_analysis, 0.05),
    "operator.json": (read_operator, 0.06),
    "series": (read_series, 0.06),
    "published table": (read_table, 0.05),
    "study": (read_study, 0.1),
    "cards": (read_cards, 0.1),
    "checkpoint": (read_checkpoint, 0.125),
    "data file": (read_data, 0.12),
    "archive": (read_archive, 0.1),
}


@pytest.fixture
def bounds():
    """An input that takes too long, or too much memory, is an error of its own."""

    def late(*_):
        raise TooLongError

    before, (soft, hard) = signal.signal(signal.SIGPROF, late), resource.getrlimit(resource.RLIMIT_DATA)
    used = 1024 * int(Path("/proc/self/status").read_text().split("VmData:")[1].split()[0])
    resource.setrlimit(resource.RLIMIT_DATA, (used + BYTES, hard))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


@pytest.mark.parametrize("kind", READERS)
def test_is_read_or_refused_in_one_line(good, tmp_path, monkeypatch, ledger, kind, bounds, capfd):
    read, share = READERS[kind]
    monkeypatch.setenv("HYENAREC_CACHE", str(tmp_path / "cache"))
    seed, ends, wrong = os.environ.get("FAULTS_SEED", "0"), Counter(), {}
    name = {"study": "x.yaml", "cards": "x.yaml", "study.json": "", "archive": "archives/x.tar.gz"}.get(kind, "x.json")
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    for number in range(max(1, round(COUNT * share))):
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            read(good, random.Random(f"{seed} {kind} {number}"), path)
            ends["read"] += 1
        except (UserError, RegistryError) as error:
            ends["refused"] += 1
            if "\n" in str(error) or len(str(error)) > 10_000:
                wrong[number] = str(error)[:500]
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)[-3:]
            wrong[number] = [repr(error)[:300], *(f"{frame.filename}:{frame.lineno}" for frame in frames)]
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        ledger.injected[f"input: {kind}"] += 1
        ledger.survived[f"input: {kind}"] += number not in wrong
        if number % 500 == 0:
            capfd.readouterr()
            shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    assert not wrong, f"{len(wrong)} of seed {seed}, such as " + "\n".join(map(str, list(wrong.items())[:12]))
