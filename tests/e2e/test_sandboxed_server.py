"""The children of a real server, as the kernel shows them from outside."""

from __future__ import annotations

import itertools
import signal
from pathlib import Path

import psutil
import pytest
import requests
from tests.cli.test_serve import LIMIT_S, SMALL, serving
from tests.e2e.processes import Stream, child_of, completion, metric, wait_until

from takeoff.models.own_kernels import find_own_kernels
from takeoff.sandbox.report import Report, try_sandbox

MODULES = {"takeoff.engine.process", "takeoff.prepare.process"}
LICENSE = (Path(__file__).parents[2] / "LICENSE").read_text()


@pytest.fixture(scope="module")
def report() -> Report:
    return try_sandbox()


@pytest.fixture(scope="module")
def mode(report: Report) -> str:
    """As strict as this kernel lets it be."""
    return "auto" if report.missing else "require"


def status(child: psutil.Process) -> dict[str, str]:
    lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines)


def open_files(child: psutil.Process) -> list[str]:
    return [str(entry.readlink()) for entry in Path(f"/proc/{child.pid}/fd").iterdir()]


def test_its_engine_and_preparer_are_confined_and_serve(
    smollm2_path: Path, report: Report, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET_OF_THE_SHELL", "secret")
    with serving("--model", str(smollm2_path), *SMALL, "--sandbox", mode) as server:
        url = server.wait_ready()
        assert f"model files are read in a sandbox: {report.in_force.sentence}\n" in server.said
        assert len(completion(url, "Once upon a time", 16)) > 16
        children = server.children()
        assert {child.cmdline()[-2] for child in children} == MODULES
        if (ours := find_own_kernels()) is not None:
            mapped = child_of(server, "takeoff.engine.process").memory_maps()
            assert str(ours.resolve()) in {each.path for each in mapped}
        for child in children:
            told = status(child)
            assert told["NoNewPrivs"] == "1"
            if report.in_force.seccomp:
                assert told["Seccomp"] == "2"
            assert not {"A_SECRET_OF_THE_SHELL", "HOME", "PATH"} & child.environ().keys()
            assert sum(name.startswith("socket:") for name in open_files(child)) == 1
            assert str(smollm2_path) not in open_files(child)
            assert (
                "Max core file size        0                    0"
                in Path(f"/proc/{child.pid}/limits").read_text()
            )


def test_a_killed_engine_is_followed_by_another_in_a_sandbox_that_reads_and_writes_prefixes(
    smollm2_path: Path, mode: str, report: Report, tmp_path: Path
) -> None:
    flags = ("--port", "0", "--max-slots", "2", "--context", "2048", "--deterministic", "--sandbox", mode)
    kept = ("--home", str(tmp_path), "--prefix-cache-mb", "128", "--prefix-cache-disk-mb", "256")
    prompt = LICENSE[:3_600]  # 700 tokens
    with serving("--model", str(smollm2_path), *flags, *kept) as server:
        url = server.wait_ready()
        whole = completion(url, prompt, 60)
        numbers = itertools.count()

        def is_written() -> bool:
            """What is computed before the folder was looked through is not; longer ones begin alike."""
            completion(url, f"{prompt} {next(numbers)}", 1)
            return metric(url, "takeoff_prefix_disk_writes_total") > 0

        wait_until(is_written, "a prefix was written")
        stream = Stream(url, prompt, 60)
        stream.next_piece()
        child_of(server, "takeoff.engine.process").kill()
        assert stream.rest() == whole
        assert (stream.error, stream.is_whole, stream.num_tokens) == (None, True, 60)
        assert metric(url, "takeoff_engine_restarts_total") == 1
        child_of(server, "takeoff.engine.process").kill()
        wait_until(lambda: metric(url, "takeoff_engine_restarts_total") == 2, "another was idle")
        assert requests.get(f"{url}/healthz", {"wait": 60}, timeout=LIMIT_S).status_code == 200
        child_of(server, "takeoff.engine.process").send_signal(signal.SIGABRT)
        wait_until(
            lambda: metric(url, "takeoff_engine_restarts_total") == 3, "it crashed before it was of use"
        )
        assert completion(url, prompt, 60) == whole
        reads = metric(url, "takeoff_prefix_disk_reads_total")
        assert reads > 0, "the next began with an empty cache, and read it"
        told = status(child_of(server, "takeoff.engine.process"))
        assert told["NoNewPrivs"] == "1"
        assert told["Seccomp"] == ("2" if report.in_force.seccomp else "0")


def test_a_killed_encoder_is_followed_by_another_in_a_sandbox(minilm_path: Path, mode: str) -> None:
    with serving("--model", str(minilm_path), "--port", "0", "--sandbox", mode) as server:
        url = server.wait_ready()
        assert "model files are read in a sandbox: " in server.said
        assert "onnxruntime" not in server.said, "it complains of nothing"
        first = embedding(url)
        child_of(server, "takeoff.engine.encoder.process").kill()
        wait_until(lambda: metric(url, "takeoff_engine_restarts_total") == 1, "its death was noticed")
        assert embedding(url) == first
        assert status(child_of(server, "takeoff.engine.encoder.process"))["NoNewPrivs"] == "1"


def embedding(url: str) -> list[float]:
    """Of a sentence, in 384 numbers."""
    answer = requests.post(f"{url}/v1/embeddings", json={"input": "A river."}, timeout=LIMIT_S)
    assert answer.status_code == 200, answer.text
    (numbers,) = [each["embedding"] for each in answer.json()["data"]]
    assert len(numbers) == 384
    return list(numbers)


def test_off_means_off_and_is_said(smollm2_path: Path) -> None:
    with serving("--model", str(smollm2_path), *SMALL, "--sandbox", "off") as server:
        server.wait_ready()
        assert "model files are read without a sandbox (--sandbox off)\n" in server.said
        assert {status(child)["NoNewPrivs"] for child in server.children()} == {"0"}
