"""A server is stopped and started again: what it had computed is read from disk, if it is still true."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from tests.cli.test_serve import LIMIT_S, Server, serving
from tests.e2e.processes import child_of, metric, wait_until

LICENSE = (Path(__file__).parents[2] / "LICENSE").read_text()
SHARED = LICENSE[:3_600]  # 700 tokens

BEYOND_WINDOW = LICENSE[:2_900]  # of 512 tokens


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@contextmanager
def server_of(model: Path, home: Path) -> Iterator[tuple[Server, str]]:
    """It and its URL; at the end it is told to stop, and does."""
    flags = ("--port", "0", "--max-slots", "2", "--context", "2048", "--prefix-cache-mb", "128")
    kept = ("--home", str(home), "--prefix-cache-disk-mb", "512")
    with serving("--model", str(model), *flags, *kept) as server:
        yield server, server.wait_ready()
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0


def ask(url: str, tail: str, shared: str = SHARED) -> tuple[str, int, int]:
    """The text, the tokens of the prompt, and how many of them were cached."""
    body = {"prompt": shared + tail, "max_tokens": 16, "temperature": 0, "ignore_eos": True}
    answer = requests.post(f"{url}/v1/completions", json=body, timeout=LIMIT_S)
    assert answer.status_code == 200, answer.text
    usage = answer.json()["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return answer.json()["choices"][0]["text"], usage["prompt_tokens"], cached


def wait_written(url: str, count: int) -> None:
    """The heartbeat tells of it, twice a second."""
    wait_until(lambda: metric(url, "takeoff_prefix_disk_writes_total") == count, f"{count} were written")


def test_the_same_prompt_is_not_computed_again_after_a_restart(smollm2_path: Path, home: Path) -> None:
    with server_of(smollm2_path, home) as (_, url):
        text, num_tokens, cached = ask(url, "")
        assert num_tokens > 690
        assert cached == 0
        wait_written(url, 1)
    with server_of(smollm2_path, home) as (server, url):
        assert ask(url, "") == (text, num_tokens, num_tokens - 1)
        wait_until(lambda: metric(url, "takeoff_prefix_disk_reads_total") == 1, "it was read")
        child_of(server, "takeoff.engine.process").kill()
        wait_until(lambda: metric(url, "takeoff_engine_restarts_total") == 1, "its death was noticed")
        assert ask(url, "") == (text, num_tokens, num_tokens - 1), "the next engine reads it, too"
        other, _, cached = ask(url, " In short:")
        assert cached >= num_tokens - 1
        assert other != text
    (file,) = home.rglob("*.prefix")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with server_of(smollm2_path, home) as (_, url):
        assert ask(url, "") == (text, num_tokens, 0)
        wait_until(lambda: metric(url, "takeoff_prefix_disk_damaged_total") == 1, "the damage was counted")
        assert not file.exists()


def test_a_model_with_a_sliding_window_goes_on_beyond_it_after_a_restart(
    gemma_path: Path, home: Path
) -> None:
    tails = [" In short:", " That is:", " To sum up:"]
    with server_of(gemma_path, home) as (_, url):
        for tail in tails[:2]:
            ask(url, tail, BEYOND_WINDOW)
        wait_written(url, 2)
        text, _, warm = ask(url, tails[2], BEYOND_WINDOW)
        assert warm > 520, "the second prompt left a snapshot where it parted from the first"
    with server_of(gemma_path, home) as (_, url):
        again, _, cached = ask(url, tails[2], BEYOND_WINDOW)
        assert (again, cached) == (text, warm)
