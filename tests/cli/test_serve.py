"""`takeoff serve` as a process with the real default model: how it starts, and every way it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from takeoff.errors import SettingsError
from takeoff.http.reach import check_reach, is_loopback
from takeoff.settings import Settings
from takeoff.settings.fields import RESULTS, SHOWN_ONLY

LIMIT_S = 120  # against hanging only
SMALL = ("--port=0", "--max-slots=2", "--context=512", "--prefix-cache-mb=16", "--standby=off")


# Free ports for the doors that a test does not name: it may run beside a server.
OTHER_DOORS = ("--takeoff-port", "0", "--management-port", "0", "--openai-port", "0")


class Server:
    """A running `takeoff serve`, with what it has said so far."""

    def __init__(self, *flags: str) -> None:
        environ = {name: text for name, text in os.environ.items() if not name.startswith("TAKEOFF_")}
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "from takeoff.cli.main import main; main()",
                "serve",
                *OTHER_DOORS,
                *flags,
            ],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environ | {"COLUMNS": "200", "NO_COLOR": "1"},
        )
        self.said = ""

    def wait_ready(self) -> str:
        """The URL of the front door."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line
            if line.startswith("ready at "):
                return line.split()[2]
        raise AssertionError(f"it ended before it was ready: {self.said}")

    def door(self, name: str) -> str:
        """The URL of one of the other doors; after `wait_ready`."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line
            words = line.split()
            if name in words:
                return f"http://{words[words.index(name) + 1]}"
        raise AssertionError(f"it has no {name}: {self.said}")

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def wait(self) -> int:
        """The exit code; what it said to the end is in `said`."""
        assert self.process.stderr is not None
        self.said += self.process.stderr.read()
        return self.process.wait(LIMIT_S)


@contextlib.contextmanager
def serving(*flags: str) -> Iterator[Server]:
    server = Server(*flags)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait(LIMIT_S)
        assert server.process.stderr is not None
        server.process.stderr.close()


def are_gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=10)
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_it_says_its_plan_and_its_door_and_ctrl_c_lets_a_stream_finish(smollm2_path: Path) -> None:
    with serving("--model", str(smollm2_path), *SMALL) as server:
        url = server.wait_ready()
        assert "2 slots of 512 tokens" in server.said
        children = server.children()
        assert len(children) == 2
        body = {"text": "List 3 things to do in London.", "generate_max_length": 24}
        whole = requests.post(f"{url}/generate", json=body, timeout=LIMIT_S).json()["message"]
        with requests.post(f"{url}/generate_stream", json=body, stream=True, timeout=LIMIT_S) as response:
            pieces = response.iter_content(chunk_size=None)
            streamed = next(pieces)
            server.process.send_signal(signal.SIGINT)
            streamed += b"".join(pieces)
        assert streamed.decode() == whole
        assert server.wait() == 0
        assert f"curl -N {url}/generate_stream" in server.said
        assert are_gone(children)


def test_a_second_signal_breaks_a_stream_off_visibly(smollm2_path: Path) -> None:
    with serving("--model", str(smollm2_path), *SMALL) as server:
        url = server.wait_ready()
        children = server.children()
        body = {"model": "primary", "prompt": "Once", "max_tokens": 400, "ignore_eos": True, "stream": True}
        with requests.post(f"{url}/v1/completions", json=body, stream=True, timeout=LIMIT_S) as response:
            pieces = response.iter_content(chunk_size=None)
            streamed = next(pieces)
            server.process.send_signal(signal.SIGTERM)
            assert server.process.stderr is not None
            server.said += (line := server.process.stderr.readline())
            while "once more stops at once" not in line and line:
                server.said += (line := server.process.stderr.readline())
            server.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(requests.exceptions.ChunkedEncodingError):
                streamed += b"".join(pieces)
        assert b'"finish_reason":"length"' not in streamed
        assert server.wait() == 0
        assert are_gone(children)


def test_no_process_outlives_a_killed_server_even_a_stopped_one(smollm2_path: Path) -> None:
    with serving("--model", str(smollm2_path), *SMALL) as server:
        server.wait_ready()
        children = server.children()
        if sys.platform == "linux":  # elsewhere a stopped process lives until it is continued
            for child in children:
                child.suspend()
        server.process.kill()
        assert are_gone(children)


def test_it_uses_under_one_percent_of_a_core_when_idle(smollm2_path: Path) -> None:
    with serving("--model", str(smollm2_path), *SMALL) as server:
        url = server.wait_ready()
        requests.post(f"{url}/generate", json={"text": "Hi", "generate_max_length": 2}, timeout=LIMIT_S)
        processes = [psutil.Process(server.process.pid), *server.children()]

        def cpu_s() -> float:
            return sum(sum(process.cpu_times()[:2]) for process in processes)

        time.sleep(1.0)  # threads that spin after a call come to rest
        before, started = cpu_s(), time.monotonic()
        time.sleep(5.0)
        assert cpu_s() - before < 0.01 * (time.monotonic() - started) + 0.02  # the clock's own grain


def test_a_port_in_use_is_an_error_and_leaves_no_process(smollm2_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with serving("--model", str(smollm2_path), "--port", port, "--max-slots", "1") as server:
            assert server.wait() == 1
            assert f"can't listen on 127.0.0.1 port {port}" in server.said
            assert "Traceback" not in server.said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--host", "0.0.0.0"), "0.0.0.0 can be reached from other machines, and no key is set"),
        (("--port", "70000"), "port: Input should be less than or equal to 65535, got '70000'"),
        (("--model", "no-such-file.gguf"), "no-such-file.gguf"),
        (("--tls-cert", "no.pem", "--tls-key", "no.key"), "no.pem can't be read: No such file or directory"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(flags: tuple[str, ...], message: str) -> None:
    with serving(*flags) as server:
        assert server.wait() == 1
        assert message in server.said
        assert server.said.startswith("error: ")
        assert "Traceback" not in server.said


def test_every_setting_is_a_flag() -> None:
    command = [sys.executable, "-c", "from takeoff.cli.main import main; main()", "serve", "--help"]
    page = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "200"}
    ).stdout
    not_flags = SHOWN_ONLY | RESULTS | {"allow_remote_images"}
    for name in Settings.model_fields.keys() - not_flags:
        assert f"--{name.replace('_', '-')} " in page
        assert f"TAKEOFF_{name.upper()}" in page


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("127.example.org", False),
        ("192.168.0.4", False),
    ],
)
def test_only_loopback_is_open_without_a_key(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    check_reach(Settings(host=host, api_key="secret"))
    check_reach(Settings(host=host, insecure=True))
    if loopback:
        check_reach(Settings(host=host))
    else:
        with pytest.raises(SettingsError, match="no key is set") as refused:
            check_reach(Settings(host=host))
        assert refused.value.hint is not None
