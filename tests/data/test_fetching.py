"""Fetching from a server on this machine: whole, cut, resumed, changed, moved, missing, lying."""

import hashlib
import http.server
import threading

import pytest
import requests

from harness.data.remote import fetching
from harness.data.remote.fetching import ChecksumError, fetch

CONTENT = b"".join(b"%d %d\n" % (user, item) for user in range(600) for item in range(40))
SHA = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
MD5 = f"md5:{hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.asked.append(self.headers.get("Range"))
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/file")
            self.end_headers()
            return
        if self.path != "/file":
            self.send_error(404)
            return
        content, start = server.content, 0
        same = self.headers.get("If-Range") == server.tag
        if server.ranges and same and (asked := self.headers.get("Range")):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start > len(content) or (start and server.refuses_ranges):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start + server.shift}-{len(content) - 1}/{len(content)}")
        if server.tag:
            self.send_header("ETag", server.tag)
        self.send_header("Content-Length", str(len(content) - start + server.lie))
        self.end_headers()
        part = content[start:]
        if server.cuts:
            part = part[: server.cuts.pop(0)]
        self.wfile.write(part)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(fetching, "_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(fetching, "_CHUNK", 1_000)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        found.content, found.tag, found.ranges, found.asked = CONTENT, '"one"', True, []
        found.cuts, found.lie, found.shift, found.refuses_ranges = [], 0, 0, False
        found.url = f"http://127.0.0.1:{found.server_port}/file"
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def left(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("checksum", [SHA, MD5, None])
def test_a_good_file_arrives_and_nothing_else(server, tmp_path, checksum):
    fetch(server.url, tmp_path / "x", checksum)
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert left(tmp_path) == ["x"]
    assert server.asked == [None]


def test_a_cut_connection_is_gone_on_with(server, tmp_path):
    server.cuts = [20_000, 30_000]
    fetch(server.url, tmp_path / "x", SHA)
    assert (tmp_path / "x").read_bytes() == CONTENT
    first, second, third = server.asked
    assert first is None
    assert int(second.removeprefix("bytes=")[:-1]) == 20_000
    assert int(third.removeprefix("bytes=")[:-1]) == 50_000


def test_what_is_left_of_one_command_is_gone_on_with_by_the_next(server, tmp_path):
    server.cuts = [10_000, 0, 0, 0]
    with pytest.raises(requests.RequestException):
        fetch(server.url, tmp_path / "x", SHA)
    assert left(tmp_path) == [".x.part", ".x.part-of"]
    fetch(server.url, tmp_path / "x", SHA)
    assert server.asked[-1] == "bytes=10000-"
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert left(tmp_path) == ["x"]


@pytest.mark.parametrize("changes", [{"ranges": False}, {"tag": ""}, {"tag": 'W/"weak"'}])
def test_where_the_server_cannot_resume_all_is_fetched_again(server, tmp_path, changes):
    vars(server).update(changes)
    server.cuts = [10_000]
    fetch(server.url, tmp_path / "x", SHA)
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert len(server.asked) == 2


def test_a_file_that_changed_in_between_is_never_pasted_to_the_old_part(server, tmp_path):
    server.cuts = [10_000, 0, 0, 0]
    with pytest.raises(requests.RequestException):
        fetch(server.url, tmp_path / "x")
    server.content, server.tag = CONTENT[::-1], '"two"'
    fetch(server.url, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("changes", [{"shift": 7}, {"refuses_ranges": True}])
def test_another_part_than_was_asked_for_is_thrown_away(server, tmp_path, changes):
    vars(server).update(changes)
    server.cuts = [10_000]
    fetch(server.url, tmp_path / "x", SHA)
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=10000-", None]


def test_a_wrong_checksum_leaves_nothing_and_names_both(server, tmp_path):
    server.content = CONTENT + b"more\n"
    with pytest.raises(ChecksumError) as caught:
        fetch(server.url, tmp_path / "x", SHA)
    assert SHA in str(caught.value)
    assert hashlib.sha256(server.content).hexdigest() in str(caught.value)
    assert left(tmp_path) == []


def test_a_redirect_is_followed(server, tmp_path):
    fetch(server.url.replace("/file", "/moved"), tmp_path / "x", SHA)
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_what_is_not_there_is_asked_for_once(server, tmp_path):
    with pytest.raises(requests.HTTPError, match="404"):
        fetch(server.url.replace("/file", "/none"), tmp_path / "x", SHA)
    assert len(server.asked) == 1
    assert left(tmp_path) == []


def test_a_file_shorter_than_its_length_is_refused_though_no_checksum_is_known(server, tmp_path):
    server.lie = 1_000
    with pytest.raises(requests.RequestException):
        fetch(server.url, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_file_longer_than_its_length_fails_its_checksum(server, tmp_path):
    server.lie = -1_000
    with pytest.raises(ChecksumError):
        fetch(server.url, tmp_path / "x", SHA)
    assert left(tmp_path) == []


def test_nobody_answers(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "_WAIT_SECONDS", 0.0)
    with pytest.raises(requests.ConnectionError) as caught:
        fetch("http://127.0.0.1:9/file", tmp_path / "x")
    assert fetching.reason(caught.value).startswith("Failed to establish a new connection")
    assert left(tmp_path) == []


def test_a_terminal_shows_how_far_it_is(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    fetch(server.url, tmp_path / "x.zip", SHA)
    assert "x.zip" in capsys.readouterr().err
