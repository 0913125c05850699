"""Every kind of child, with real weights, tries what code hidden in a model file would."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.service.serving import make_load

from takeoff.ipc.channel import Channel
from takeoff.ipc.messages import (
    EncoderLoaded,
    FromEncoder,
    FromEngine,
    FromPreparer,
    Heartbeat,
    Load,
    Loaded,
    LoadEncoder,
    LoadVocabulary,
    Progress,
    VocabularyLoaded,
)
from takeoff.models.optimize.pace import Setup
from takeoff.request import Task
from takeoff.sandbox import landlock
from takeoff.sandbox.confine import InForce, linker_folders
from takeoff.sandbox.launch import command
from takeoff.sandbox.policy import Policy, child_environment, with_companions
from takeoff.sandbox.report import try_sandbox
from takeoff.sandbox.seccomp import MACHINES
from takeoff.service.policies import policy_of

HERE = Path(__file__).parent
LIMIT_S = 60.0  # against hanging only


@dataclass(frozen=True, slots=True)
class Probed:
    """A child at its work, and the line to the probe in it."""

    process: subprocess.Popen[bytes]
    line: socket.socket

    def tries(self, files: dict[str, str]) -> dict[str, str | None]:
        """Each attempt, with the name of its error."""
        with self.line.makefile("rw") as lines:
            lines.write(json.dumps(files) + "\n")
            lines.flush()
            answer = lines.readline()
        assert answer, f"the child ended with {self.process.wait(LIMIT_S)}"
        found: dict[str, str | None] = json.loads(answer)
        return found

    def statuses(self) -> list[dict[str, str]]:
        """What the kernel says of each of its threads."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        return [
            dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines())
            for task in tasks.iterdir()
        ]


@contextmanager
def probed(policy: Policy, module: str, *arguments: object, **pipes: Any) -> Iterator[Probed]:
    """A child of the launcher that runs `module`; integers among the arguments are descriptors it gets."""
    ours, theirs = socket.socketpair()
    ours.settimeout(LIMIT_S)
    kept = [argument for argument in arguments if isinstance(argument, int)]
    environ = child_environment(os.environ, policy)
    environ["PYTHONPATH"] = f"{HERE}:{environ.get('PYTHONPATH', '')}"
    process = subprocess.Popen(
        [*command("probe"), module, *map(str, (theirs.fileno(), *arguments))],
        pass_fds=(theirs.fileno(), *kept),
        env=environ,
        **pipes,
    )
    theirs.close()
    try:
        yield Probed(process, ours)
    finally:
        ours.close()
        process.kill()
        process.wait(LIMIT_S)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


@contextmanager
def loaded(load: Load | LoadEncoder | LoadVocabulary, module: str, incoming: Any) -> Iterator[Any]:
    """The child that `load` is for, and what it says when it is loaded."""
    ours, theirs = socket.socketpair()
    ours.settimeout(LIMIT_S)
    channel: Channel[Any, Any] = Channel(ours, incoming)
    with probed(policy_of(load, "auto"), module, theirs.fileno()) as child:
        theirs.close()
        channel.send(load)
        while isinstance(message := channel.receive(), Progress | Heartbeat):
            pass
        try:
            yield child, message
        finally:
            channel.close()


@pytest.fixture(scope="module")
def in_force() -> InForce:
    return try_sandbox().in_force


@pytest.fixture
def files(tmp_path: Path, smollm2_path: Path) -> dict[str, str]:
    for name in ("secret", "to rename", "to delete"):
        (tmp_path / name).write_text("of the user")
    neighbour = next(
        path for path in smollm2_path.parent.iterdir() if path.is_file() and path != smollm2_path
    )
    return {
        "secret": str(tmp_path / "secret"),
        "model": str(smollm2_path),
        "neighbour": str(neighbour),
    }


def expected(found: dict[str, str | None], in_force: InForce) -> dict[str, str | None]:
    """What this kernel lets the attempts come to."""
    by_kind = {
        "file": "EACCES" if in_force.landlock else None,
        "call": "EPERM" if in_force.seccomp else None,
        "still": None,
    }
    return {name: by_kind[name.partition(":")[0]] for name in found}


def assert_confined(child: Probed, files: dict[str, str], in_force: InForce) -> None:
    found = child.tries(files)
    assert len(found) == 37
    assert found == expected(found, in_force)
    statuses = child.statuses()
    assert {status["NoNewPrivs"] for status in statuses} == {"1"}
    assert {status["Seccomp"] for status in statuses} == {"2" if in_force.seccomp else "0"}
    assert Path(files["secret"]).read_text() == "of the user"


def test_what_is_told_of_this_kernel_is_true(in_force: InForce) -> None:
    try:
        version = landlock.abi()
    except OSError:
        version = 0
    has_filters = Path("/proc/sys/kernel/seccomp/actions_avail").exists() and platform.machine() in MACHINES
    assert in_force == InForce(True, True, version, has_filters, True)


def test_nothing_forbids_it_where_the_sandbox_is_off(files: dict[str, str]) -> None:
    with probed(Policy(mode="off"), "idle") as child:
        found = child.tries(files)
    for name in ("file: of the system", "file: of the user", "file: a new one", "file: deletion"):
        assert found[name] is None
    for name in ("a Unix socket", "a subprocess", "fork", "a signal to the parent", "mode of a file"):
        assert found[f"call: {name}"] is None


def test_an_engine_opens_its_model_and_its_prefixes_and_nothing_else(
    tmp_path: Path, files: dict[str, str], in_force: InForce
) -> None:
    prefixes = tmp_path / "store" / "prefixes"
    load = msgspec.structs.replace(
        make_load(256),
        model_path=files["model"],
        cache_bytes=16 << 20,
        disk_cache_bytes=16 << 20,
        disk_cache_folder=str(prefixes),
    )
    with loaded(load, "takeoff.engine.process", FromEngine) as (child, message):
        assert isinstance(message, Loaded)
        assert message.n_vocab == 49_152
        assert message.sandbox == in_force
        assert_confined(child, files, in_force)
        assert (prefixes / "key").stat().st_size == 32
        assert child.tries({**files, "secret": str(prefixes / "key")})["file: a new one"] is None


def test_an_encoder_opens_its_folder_and_nothing_else(
    files: dict[str, str], minilm_path: Path, in_force: InForce
) -> None:
    load = LoadEncoder(str(minilm_path), Task.EMBED, 2, 4, 0.0, None)
    model = next(minilm_path.rglob("*.onnx"))
    with loaded(load, "takeoff.engine.encoder.process", FromEncoder) as (child, message):
        assert isinstance(message, EncoderLoaded)
        assert message.num_dimensions == 384
        assert message.sandbox == in_force
        assert_confined(child, {**files, "model": str(model)}, in_force)


def test_a_preparer_opens_its_model_and_nothing_else(files: dict[str, str], in_force: InForce) -> None:
    load = LoadVocabulary(files["model"], tries_constraints=True)
    with loaded(load, "takeoff.prepare.process", FromPreparer) as (child, message):
        assert isinstance(message, VocabularyLoaded)
        assert_confined(child, files, in_force)


def test_a_process_that_is_timed_opens_its_model_and_nothing_else(
    files: dict[str, str], in_force: InForce
) -> None:
    setup = Setup(files["model"], 1, 32, 32, flash_attention=True, kv_type="f16", threads=1)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    policy = Policy(tuple(with_companions(files["model"])))
    with probed(policy, "takeoff.engine.timing", msgspec.json.encode(setup).decode(), **pipes) as child:
        assert child.process.stdout is not None
        ready = child.process.stdout.readline()
        assert ready == b"ready\n", f"it ended with {child.process.wait(LIMIT_S)}"
        assert_confined(child, files, in_force)


def test_only_an_engine_with_layers_on_a_gpu_may_use_one(in_force: InForce) -> None:
    """The devices are not on every machine; what the drivers read beside them is."""
    load = msgspec.structs.replace(make_load(), model_path="/no/model.gguf")
    found = {}
    for layers in (0, 1, -1):
        with probed(policy_of(msgspec.structs.replace(load, n_gpu_layers=layers), "auto"), "idle") as child:
            tried = child.tries(dict.fromkeys(("secret", "model", "neighbour"), "/proc/version"))
        found[layers] = tried["file: beside the model"]
    assert found == {0: "EACCES" if in_force.landlock else None, 1: None, -1: None}


def test_a_gpus_driver_may_name_threads_and_open_a_socket_that_nobody_can_call(
    files: dict[str, str], in_force: InForce
) -> None:
    """What CUDA does when it starts, and does not start without."""
    name = {**files, "secret": "/proc/self/comm"}
    with probed(Policy(gpu=True), "idle") as child:
        assert child.tries(name)["file: another, to write"] is None
        found = child.tries(files)
    assert found["call: a Unix socket"] is None
    given = {"call: a Unix socket": None, "call: a listening socket": found["call: a listening socket"]}
    beside = {"file: of the parent": None}  # what a driver reads is readable
    assert found == expected(found, in_force) | given | beside | {
        "still: the model": "EACCES" if in_force.landlock else None,
        "file: the model, to write": "EACCES" if in_force.landlock else None,
    }
    with probed(Policy(), "idle") as child:
        refused = "EACCES" if in_force.landlock else None
        assert child.tries(name)["file: another, to write"] == refused


def test_the_linkers_folders_are_those_of_its_lists(tmp_path: Path) -> None:
    lists = tmp_path / "ld.so.conf.d"
    lists.mkdir()
    (tmp_path / "ld.so.conf").write_text("include /etc/ld.so.conf.d/*.conf\n/opt/first\n")
    (lists / "cuda.conf").write_text("# of CUDA\n/usr/local/cuda/lib64 \n")
    (lists / "notes.txt").write_text("/\n")
    assert list(linker_folders(tmp_path)) == ["/opt/first", "/usr/local/cuda/lib64"]
    assert list(linker_folders(tmp_path / "none")) == []


def test_a_child_that_must_have_all_ends_where_a_part_is_missing(files: dict[str, str]) -> None:
    """A second sandbox inside the first: there the filter forbids what the parts are made of."""
    again = child_environment(os.environ, Policy(mode="require"))
    script = (
        "import sys; from takeoff.sandbox.confine import confine; from takeoff.sandbox.policy import Policy\n"
        "confine(Policy())\n"
        "sys.argv = ['launch', 'idle']\n"
        "from takeoff.sandbox.launch import main; main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], env=again, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("idle does not run without its sandbox: ")


def test_a_child_is_told_little_of_our_environment() -> None:
    ours = {
        "TAKEOFF_API_KEY": "secret",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "HOME": "/home/user",
        "PATH": "/bin",
        "LD_PRELOAD": "/tmp/x.so",
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "3",
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    }
    policy = Policy(("/model.gguf",), ("/prefixes",), gpu=True, mode="require")
    told = child_environment(ours, policy)
    kept = {"LANG", "OMP_NUM_THREADS", "GLIBC_TUNABLES"}
    assert told.keys() == kept | {"ORT_DISABLE_TELEMETRY", "TAKEOFF_CHILD_POLICY"}
    assert Policy.from_json(told["TAKEOFF_CHILD_POLICY"]) == policy


def test_a_gpu_is_hidden_from_a_child_that_has_nothing_on_it() -> None:
    ours = {"CUDA_VISIBLE_DEVICES": "2,3"}
    assert child_environment(ours, Policy(gpu=True))["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert child_environment(ours, Policy())["CUDA_VISIBLE_DEVICES"] == ""


def test_a_library_that_would_tell_its_maker_keeps_no_database_for_it(tmp_path: Path) -> None:
    """Without a sandbox, where nothing but the variable forbids it."""
    environ = child_environment(os.environ, Policy(mode="off")) | {"HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", "import onnxruntime"], check=True, timeout=LIMIT_S, env=environ)
    assert list(tmp_path.rglob("*")) == []


def test_the_parts_of_a_model_and_a_hubs_cache_are_its_companions(tmp_path: Path) -> None:
    for name in ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "other-00001-of-00002.gguf"):
        (tmp_path / name).touch()
    first = str(tmp_path / "m-00001-of-00002.gguf")
    assert set(with_companions(first)) == {first, str(tmp_path / "m-00002-of-00002.gguf")}
    snapshot = tmp_path / "hub" / "snapshots" / "1234"
    snapshot.mkdir(parents=True)
    assert list(with_companions(str(snapshot))) == [str(snapshot), str(tmp_path / "hub" / "blobs")]
