"""Lines about what was asked of a server: in order, none lost unseen, and nobody waits for them."""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from takeoff.errors import SettingsError
from takeoff.observe import lines
from takeoff.observe.lines import LineWriter, line_of, opened_logs
from takeoff.settings import Settings

LIMIT_S = 10.0


def told(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def wait_told(path: Path, num: int) -> list[dict[str, Any]]:
    """The lines of the file, once there are so many."""
    deadline = time.monotonic() + LIMIT_S
    while not path.exists() or len(told(path)) < num:
        assert time.monotonic() < deadline, f"not {num} lines in {path}"
        time.sleep(0.005)
    return told(path)


def test_lines_are_appended_in_order_to_a_file_of_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    for half in (range(500), range(500, 1_000)):
        writer = LineWriter(path)
        for number in half:
            writer.tell({"number": number})
        writer.close()
        writer.close()
    assert [each["number"] for each in told(path)] == list(range(1_000))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert all(each["time"].endswith("+00:00") for each in told(path))


def test_a_line_is_one_line_whatever_is_in_it() -> None:
    text = "a\nb\u2028\x1b[31m\ud800\x00é"
    line = line_of({"text": text})
    assert line.count(b"\n") == 1
    assert line.isascii()
    assert not set(line[:-1]) & set(range(32))
    assert json.loads(line)["text"] == text


def test_a_file_that_is_moved_away_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    writer = LineWriter(path)
    writer.tell({"number": 1})
    wait_told(path, 1)
    path.rename(tmp_path / "requests.jsonl.1")
    writer.tell({"number": 2})
    writer.close()
    assert [each["number"] for each in told(path)] == [2]
    assert [each["number"] for each in told(tmp_path / "requests.jsonl.1")] == [1]


def test_what_could_not_be_written_is_counted_in_the_file_once_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "logs"
    writer = LineWriter(folder / "requests.jsonl")
    for number in range(3):
        writer.tell({"number": number})
        time.sleep(0.05)
    folder.mkdir()
    writer.tell({"number": 3})
    writer.close()
    lost, line = told(folder / "requests.jsonl")
    assert (lost["event"], lost["lines"], line["number"]) == ("lost", 3, 3)
    assert len(caplog.messages) == 1
    assert "requests.jsonl can't be written: [Errno 2]" in caplog.messages[0]


@pytest.mark.parametrize("num_bytes", [0, 5], ids=["taken whole or not at all", "half a line taken"])
def test_after_a_full_disk_every_line_that_is_whole_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_bytes: int
) -> None:
    path, write, is_full = tmp_path / "requests.jsonl", os.write, threading.Event()

    def limited(fd: int, data: bytes) -> int:
        """Nothing goes behind the last bytes of a disk."""
        if not is_full.is_set():
            return write(fd, data)
        if num_bytes and os.fstat(fd).st_size == size_before:
            return write(fd, data[:num_bytes])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lines.os, "write", limited)
    writer = LineWriter(path)
    writer.tell({"number": 0})
    wait_told(path, 1)
    size_before = path.stat().st_size
    is_full.set()
    writer.tell({"number": 1})
    deadline = time.monotonic() + LIMIT_S
    while writer._num_lost == 0:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    is_full.clear()
    writer.tell({"number": 2})
    writer.close()
    found = path.read_text().splitlines()
    assert "" not in found
    whole = [json.loads(line) for line in found if line.endswith("}")]
    assert [each.get("number", each.get("lines")) for each in whole] == [0, 1, 2], (
        "second, how many were lost"
    )
    assert len(found) == 3 + bool(num_bytes)


def test_a_pipe_that_nobody_reads_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    monkeypatch.setattr(lines, "STDERR", writing)
    monkeypatch.setattr(lines, "MAX_WAITING_BYTES", 100_000)
    monkeypatch.setattr(lines, "CLOSING_S", 0.1)
    writer = LineWriter(None)
    started = time.monotonic()
    for number in range(10_000):
        writer.tell({"number": number})
    writer.close()
    assert time.monotonic() - started < 2.0
    data = b""

    def read() -> None:
        nonlocal data
        while piece := os.read(reading, 65_536):
            data += piece

    reader = threading.Thread(target=read)
    reader.start()
    monkeypatch.setattr(lines, "CLOSING_S", LIMIT_S)
    writer.close()
    os.close(writing)
    reader.join(LIMIT_S)
    os.close(reading)
    found = [json.loads(line) for line in data.splitlines()]
    numbers = [each["number"] for each in found if "number" in each]
    assert numbers == sorted(set(numbers))
    assert len(numbers) + sum(each["lines"] for each in found if "lines" in each) == 10_000


def test_nobody_waits_for_who_does_not_read_the_log_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    monkeypatch.setattr(lines, "STDERR", writing)
    monkeypatch.setattr(lines, "CLOSING_S", LIMIT_S)
    root, before = logging.getLogger(), logging.StreamHandler(sys.stderr)
    handlers = [*root.handlers, before]
    monkeypatch.setattr(root, "handlers", handlers)
    found: list[bytes] = []

    def read() -> None:
        while piece := os.read(reading, 65_536):
            found.append(piece)

    reader = threading.Thread(target=read)
    with opened_logs(Settings(request_log="off", audit_log=tmp_path / "audit.jsonl")):
        assert before not in root.handlers
        started = time.monotonic()
        for number in range(2_000):
            logging.getLogger("takeoff.test").warning("%d %s", number, "x" * 100)
        assert time.monotonic() - started < 2.0
        reader.start()
    assert root.handlers == handlers
    os.close(writing)
    reader.join(LIMIT_S)
    os.close(reading)
    told = b"".join(found).splitlines()
    assert [int(line.split()[-2]) for line in told] == list(range(2_000))
    assert told[0].endswith(b"WARNING takeoff.test: 0 " + b"x" * 100)


def test_a_file_that_can_not_be_written_is_refused_before_anything_else(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "requests.jsonl"
    with pytest.raises(SettingsError) as refused, opened_logs(Settings(request_log=path)):
        pass
    assert refused.value.message == f"{path} can't be written: No such file or directory"
    assert refused.value.param == "request_log"


def test_off_is_no_log_of_requests(tmp_path: Path) -> None:
    settings = Settings(request_log="off", keys_file=tmp_path / "keys.json")
    with opened_logs(settings) as logs:
        assert logs.requests is None
        assert logs.audit is not None
        logs.audit({"event": "reader_added"})
    assert told(tmp_path / "audit.jsonl")[0]["event"] == "reader_added"
