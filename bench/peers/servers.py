"""How each server of a comparison is started at its best setting: what a user of it would type."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

START_TIMEOUT_S = 180.0


@dataclass(frozen=True, slots=True)
class Setup:
    """What the servers are to serve. `hf_model` is the same model as `model`, as hf_model.py writes it."""

    model: Path  # a GGUF file
    hf_model: Path
    peers: Path  # the folder with what the install scripts made
    slots: int
    context: int  # tokens of one sequence
    cores: int = field(default_factory=lambda: os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Start:
    """A command, what it needs in its environment, and the path that answers 200 when it is ready."""

    command: Sequence[str]
    ready: str
    environ: Mapping[str, str] = field(default_factory=dict)
    key: str = ""  # that opens it

    def __str__(self) -> str:
        """As one would type it."""
        return " ".join(
            [*(f"{name}={value}" for name, value in self.environ.items()), shlex.join(self.command)]
        )


def takeoff(setup: Setup, port: int, flags: tuple[str, ...] = (), key: str = "") -> Start:
    doors = ("--takeoff-port", "off", "--management-port", "off", "--openai-port", "off")
    slots = ("--max-slots", str(setup.slots), "--context", str(setup.context))
    program = (sys.executable, "-c", "from takeoff.cli.main import main; main()", "serve")
    model = ("--model", str(setup.model), "--port", str(port), *doors, "--log-level", "warning")
    return Start([*program, *model, *slots, *flags], "/healthz", key=key)


def llama_server(setup: Setup, port: int) -> Start:
    """One KV stream a slot and flash attention: each was faster than its contrary. The page of metrics shows
    when it is idle again.
    """
    program = setup.peers / "llama-server/build/bin/llama-server"
    slots = ("-np", str(setup.slots), "-c", str(setup.slots * setup.context), "--no-kv-unified")
    speed = ("-t", str(setup.cores), "-fa", "on")
    return Start(
        [str(program), "-m", str(setup.model), *_address(port), *slots, *speed, "--metrics"], "/health"
    )


def llama_cpp_python(setup: Setup, port: int) -> Start:
    """It computes one request at a time; by default a new one would break off the one before."""
    program = (str(setup.peers / "llama-cpp-python/bin/python"), "-m", "llama_cpp.server")
    speed = ("--n_threads", str(setup.cores), "--n_threads_batch", str(setup.cores), "--flash_attn", "true")
    patience = ("--n_ctx", str(setup.context), "--interrupt_requests", "false")
    return Start([*program, "--model", str(setup.model), *_address(port), *speed, *patience], "/v1/models")


def vllm(setup: Setup, port: int) -> Start:
    """In bfloat16, on all cores: by default it leaves one to its own front."""
    program = (str(setup.peers / "vllm/bin/python"), "-m", "vllm.entrypoints.openai.api_server")
    slots = ("--max-num-seqs", str(setup.slots), "--max-model-len", str(setup.context))
    environ = {
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{setup.cores - 1}",
        "VLLM_CPU_KVCACHE_SPACE": "4",
        "VLLM_HOST_IP": "127.0.0.1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    model = ("--model", str(setup.hf_model), "--dtype", "bfloat16", "--enable-prefix-caching")
    return Start([*program, *model, *_address(port), *slots], "/health", environ)


def openvino(setup: Setup, port: int) -> Start:
    """The library's continuous batching behind openvino_server.py."""
    program = (str(setup.peers / "openvino/bin/python"), str(Path(__file__).with_name("openvino_server.py")))
    return Start(
        [*program, "--model", str(setup.model), "--port", str(port), "--slots", str(setup.slots)],
        "/v1/models",
    )


PEERS: Mapping[str, Callable[[Setup, int], Start]] = {
    "llama-server": llama_server,
    "vllm": vllm,
    "llama-cpp-python": llama_cpp_python,
    "openvino": openvino,
}


def _address(port: int) -> tuple[str, ...]:
    return ("--host", "127.0.0.1", "--port", str(port))


@dataclass(frozen=True, slots=True)
class Running:
    """A server that has said it is ready."""

    name: str
    url: str
    pid: int

    def idle_share(self, seconds: float = 1.0) -> float:
        """What all its processes take of a core while nobody asks it anything."""
        before = self._cpu_s()
        time.sleep(seconds)
        return (self._cpu_s() - before) / seconds

    def _cpu_s(self) -> float:
        root = psutil.Process(self.pid)
        times = [each.cpu_times() for each in [root, *root.children(recursive=True)]]
        return sum(each.user + each.system for each in times)


@contextlib.contextmanager
def running(name: str, start: Callable[[int], Start], log: Path) -> Iterator[Running]:
    """Start a server on a free port, say how, and stop it at the end; what it says goes to `log`.

    Raises:
        SystemExit: it ended or was not ready in time.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    how = start(port)
    print(f"{name}: {how}", file=sys.stderr)
    with log.open("w") as said:
        process = subprocess.Popen(
            list(how.command), stdout=said, stderr=said, env=os.environ | dict(how.environ)
        )
        try:
            _await(f"http://127.0.0.1:{port}{how.ready}", how.key, process, log)
            yield Running(name, f"http://127.0.0.1:{port}", process.pid)
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await(url: str, key: str, process: subprocess.Popen[bytes], log: Path) -> None:
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {key}"} if key else {})
    until = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < until:
        try:
            with urllib.request.urlopen(request, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise SystemExit(f"not ready; its log {log} ends:\n" + log.read_text(errors="replace")[-2_000:])
