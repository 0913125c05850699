"""A machine that lets the server down: a full disk, a store that is not to be written, no descriptors left.

The disk is full for the processes alone: the kernel lets their files grow no more (RLIMIT_FSIZE).
"""

from __future__ import annotations

import json
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from tests.cli.test_serve import LIMIT_S, Server, serving
from tests.e2e.processes import child_of, completion, ended, metric, wait_until

from takeoff.keys.file import read_keys

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of other processes are set on Linux")

ENGINE = "takeoff.engine.process"
SMALL = ("--port", "0", "--max-slots", "2", "--context", "1024", "--prefix-cache-mb", "64")
WANT_S = 1.5
STORY = "Once upon a time there was a ship of old wood, and "


def chapter(number: int) -> str:
    """A few hundred tokens, which are worth a file."""
    return " ".join(f"Chapter {number}.{part} tells of the {part}th day." for part in range(30))


def listened_to(server: Server) -> list[str]:
    """What it has said, and says from now on, as it says it."""
    said = server.said.splitlines()

    def listen() -> None:
        assert server.process.stderr is not None
        said.extend(server.process.stderr)

    threading.Thread(target=listen, daemon=True).start()
    return said


def wait_said(said: list[str], words: str) -> None:
    wait_until(lambda: any(words in line for line in said), f"it says that {words}")


@contextmanager
def full_disk(*processes: psutil.Process) -> Iterator[None]:
    """No file of theirs grows."""
    before = [process.rlimit(psutil.RLIMIT_FSIZE) for process in processes]
    for process, (_, hard) in zip(processes, before, strict=True):
        process.rlimit(psutil.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        for process, limits in zip(processes, before, strict=True):
            process.rlimit(psutil.RLIMIT_FSIZE, limits)


def test_a_full_disk_loses_lines_and_prefixes_and_no_request(smollm2_path: Path, tmp_path: Path) -> None:
    log, prefixes = tmp_path / "requests.jsonl", tmp_path / "prefixes"
    files = (
        "--home",
        str(tmp_path),
        "--request-log",
        str(log),
        "--prefix-cache-disk-mb",
        "64",
        "--no-optimize",
    )
    with serving("--model", str(smollm2_path), *SMALL, *files) as server:
        url = server.wait_ready()
        said = listened_to(server)
        expected = completion(url, STORY, 40)
        engine = child_of(server, ENGINE)
        with full_disk(psutil.Process(server.process.pid), engine):
            for number in range(4):
                completion(url, chapter(number), 2)
            assert completion(url, STORY, 40) == expected
            wait_until(
                lambda: any("a prefix was not kept on disk" in line for line in said), "the engine says so"
            )
            wait_until(lambda: any("lines are lost" in line for line in said), "the front says so")
        assert engine.is_running()
        assert metric(url, "takeoff_prefix_disk_writes_total") == 0
        assert list(prefixes.rglob("*.part")) == [], "nothing half-written is left"
        completion(url, chapter(9), 2)
        wait_until(lambda: metric(url, "takeoff_prefix_disk_writes_total") == 1, "it writes again")
        assert ended(url)["length"] == 7
        server.process.terminate()
        assert server.process.wait(LIMIT_S) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    num_lost = sum(line["lines"] for line in lines if line["event"] == "lost")
    num_told = sum(line.get("path") == "/v1/completions" for line in lines)
    assert num_lost >= 4, "the fifth may come when there is room again"
    assert num_lost + num_told == 7, "each is told or counted as lost"


def test_a_change_of_keys_on_a_full_disk_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    command = [sys.executable, "-c", "from takeoff.cli.main import main; main()", "keys"]
    create = [*command, "create", "alice", "--keys-file", str(path)]
    subprocess.run(create, check=True, capture_output=True, timeout=LIMIT_S)
    before = path.read_bytes()
    limited = ["sh", "-c", 'ulimit -f 0 && exec "$@"', "sh", *command]
    for words in (["create", "bob"], ["revoke", "alice"], ["rotate", "alice"]):
        told = subprocess.run(
            [*limited, *words, "--keys-file", str(path)], capture_output=True, text=True, timeout=LIMIT_S
        )
        assert told.returncode == 1, told
        assert "can't be written: File too large" in told.stderr
        assert "Traceback" not in told.stderr
        assert path.read_bytes() == before
    assert [key.name for key in read_keys(path)] == ["alice"]


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nobody may write in it, nor below."""
    paths = [folder, *folder.rglob("*")]
    modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in paths}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    try:
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


WITHOUT_POWER = """
import ctypes, os, sys
CAP_DAC_OVERRIDE, PR_CAPBSET_DROP = 1, 24
if os.getuid() == 0:  # root may write everywhere, unless that is taken from it
    assert ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0) == 0
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def test_a_store_that_may_only_be_read_is_served_from(
    smollm2_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, wrapper = tmp_path / "store", tmp_path / "python"
    model = store / "models" / smollm2_path.parent.name
    model.mkdir(parents=True)
    for name in (smollm2_path.name, "model.json"):
        shutil.copy(smollm2_path.with_name(name), model / name)
    wrapper.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{WITHOUT_POWER}' \"$@\"\n")
    wrapper.chmod(0o755)
    with read_only(store):
        writing = [
            str(wrapper),
            "-c",
            "import pathlib, sys; pathlib.Path(sys.argv[1], 'a').touch()",
            str(model),
        ]
        denied = subprocess.run(writing, capture_output=True, text=True, timeout=LIMIT_S)
        assert "PermissionError" in denied.stderr
        monkeypatch.setattr(sys, "executable", str(wrapper))
        flags = ("--home", str(store), "--prefix-cache-disk-mb", "64", "--model", "smollm2")
        with serving(*SMALL, *flags) as server:
            url = server.wait_ready()
            said = listened_to(server)
            text = completion(url, STORY, 20)
            assert completion(url, STORY, 20) == text
            wait_said(said, "no prefixes are kept on disk")
            assert not any("Traceback" in line for line in said)
            assert ended(url)["length"] == 2


def test_an_engine_that_could_not_be_started_for_want_of_descriptors_is_started_when_there_are_some(
    smollm2_path: Path,
) -> None:
    with serving("--model", str(smollm2_path), *SMALL) as server:
        url = server.wait_ready()
        listened_to(server)
        expected = completion(url, STORY, 20)
        front = psutil.Process(server.process.pid)
        before = front.rlimit(psutil.RLIMIT_NOFILE)
        front.rlimit(psutil.RLIMIT_NOFILE, (front.num_fds() + 2, before[1]))
        child_of(server, ENGINE).send_signal(signal.SIGKILL)
        time.sleep(WANT_S)
        assert front.is_running()
        assert not [child for child in server.children() if ENGINE in child.cmdline()]
        front.rlimit(psutil.RLIMIT_NOFILE, before)
        assert completion(url, STORY, 20) == expected
