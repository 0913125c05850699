"""What is written to disk and read from it, against fake kernels; the threads are real."""

from __future__ import annotations

import errno
import queue
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.engine.fake_kernels import FakeKernels, expected_completion, load_for
from tests.engine.test_engine import prompt_of

from takeoff.engine import snapshot_folder
from takeoff.engine.disk_tier import Opened, Read, Written, hash_files
from takeoff.engine.engine import Engine
from takeoff.engine.prefix_cache import Scope
from takeoff.engine.snapshot_file import SnapshotFile
from takeoff.ipc.messages import Submit
from takeoff.request import SamplingParams, TokenEvent

GREEDY = SamplingParams(temperature=0.0, max_new_tokens=8, seed=1)


class Server:
    """An engine with a disk tier, as the engine process drives it."""

    def __init__(
        self, folder: Path, *, disk_bytes: int = 1 << 20, can_trim: bool = True, build: str = "1"
    ) -> None:
        model = folder / "model.gguf"
        model.write_bytes(b"weights")
        self.kernels = FakeKernels(can_trim=can_trim)
        load = load_for(
            self.kernels,
            model_path=str(model),
            cache_bytes=1 << 20,
            disk_cache_bytes=disk_bytes,
            disk_cache_folder=str(folder / "prefixes"),
        )
        self.events: list[TokenEvent] = []
        self.engine = Engine(load, self.kernels, self.events.extend)
        self.kernels.calls.clear()
        self._inbox: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.engine.prefixes.open_disk(load, build, hash_files(load), self._inbox.put)
        assert not self._inbox.empty(), "the first request finds what is there"
        self.settle(lambda: isinstance(self.last, Opened))

    def settle(self, is_done: Callable[[], bool]) -> None:
        while True:
            self.last = self._inbox.get(timeout=30)
            if isinstance(self.last, Opened | Written | Read):
                self.engine.prefixes.settle(self.last)
            if is_done():
                return

    def counter(self, name: str) -> float:
        return self.engine.counters.snapshot().get(name, 0.0)

    def complete(self, prompt: list[int], tenant: str = "", writes: bool = False) -> tuple[list[int], int]:
        """The completion, and how many tokens of the prompt were cached."""
        if self.engine.prefixes.fetch(Scope(tenant), prompt, "read"):
            self.settle(lambda: self.last == "read")
        self.events.clear()
        self.engine.submit(Submit(1, prompt, GREEDY, tenant))
        while not self.engine.is_idle:
            self.engine.step()
        if writes:
            self.settle(lambda: isinstance(self.last, Written))
        return [token_id for event in self.events for token_id in event.token_ids], self.events[
            0
        ].cached_tokens


def files(folder: Path) -> list[Path]:
    return sorted((folder / "prefixes").rglob("*.prefix"))


def test_the_next_server_goes_on_from_what_the_last_one_wrote(tmp_path: Path) -> None:
    prompt = prompt_of(300)
    first = Server(tmp_path).complete(prompt, writes=True)
    assert first == (expected_completion(prompt, 8), 0)
    second = Server(tmp_path)
    assert second.complete(prompt) == (expected_completion(prompt, 8), 299)
    longer = prompt[:200] + prompt_of(90, seed=9)
    assert second.complete(longer) == (expected_completion(longer, 8), 200)
    assert (second.counter("disk_reads"), second.counter("disk_damaged")) == (1, 0)
    assert second.counter("disk_bytes") == sum(path.stat().st_size for path in files(tmp_path))


def test_a_model_that_cannot_be_trimmed_goes_on_from_a_whole_snapshot(tmp_path: Path) -> None:
    common = prompt_of(300)
    prompts = [common + prompt_of(20, seed=seed) for seed in (1, 2, 3)]
    first = Server(tmp_path, can_trim=False)
    first.complete(prompts[0], writes=True)
    first.complete(prompts[1], writes=True)
    assert Server(tmp_path, can_trim=False).complete(prompts[2]) == (expected_completion(prompts[2], 8), 300)


def test_another_tenant_or_build_does_not_read_it(tmp_path: Path) -> None:
    prompt = prompt_of(300)
    Server(tmp_path).complete(prompt, tenant="a", writes=True)
    other = Server(tmp_path)
    assert other.complete(prompt, tenant="b", writes=True) == (expected_completion(prompt, 8), 0)
    assert other.complete(prompt, tenant="a")[1] == 299
    newer = Server(tmp_path, build="2")
    assert files(tmp_path) == []
    assert newer.complete(prompt, tenant="a")[1] == 0


def test_no_file_tells_the_name_of_a_tenant(tmp_path: Path) -> None:
    Server(tmp_path).complete(prompt_of(300), tenant="Mallory & Sons", writes=True)
    (file,) = files(tmp_path)
    assert b"Mallory" not in file.read_bytes()


def test_a_damaged_file_is_counted_deleted_and_computed_anew(tmp_path: Path) -> None:
    prompt = prompt_of(300)
    Server(tmp_path).complete(prompt, writes=True)
    server = Server(tmp_path)
    (file,) = files(tmp_path)
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)
    assert server.complete(prompt, writes=True) == (expected_completion(prompt, 8), 0)
    assert (server.counter("disk_damaged"), server.counter("disk_reads")) == (1, 0)
    (fresh,) = files(tmp_path)
    assert fresh != file
    assert Server(tmp_path).complete(prompt)[1] == 299


def test_a_file_that_another_server_deleted_is_a_miss(tmp_path: Path) -> None:
    prompt = prompt_of(300)
    Server(tmp_path).complete(prompt, writes=True)
    server = Server(tmp_path)
    files(tmp_path)[0].unlink()
    assert server.complete(prompt) == (expected_completion(prompt, 8), 0)
    assert (server.counter("disk_damaged"), server.counter("disk_reads")) == (0, 0)


def test_whoever_deletes_the_folder_of_a_running_server_costs_it_no_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing more is kept on disk, and what could not be written is let go of in RAM, each time."""
    server = Server(tmp_path)
    server.complete(prompt_of(300), writes=True)
    shutil.rmtree(tmp_path / "prefixes")
    for seed in range(1, 8):
        server.complete(prompt_of(300, seed=seed), writes=True)
    assert (server.counter("disk_writes"), server.counter("disk_bytes")) == (1, 0)
    assert len(caplog.messages) == 7
    assert all("a prefix was not kept on disk: [Errno 2]" in message for message in caplog.messages)
    assert server.complete(prompt_of(300)) == (expected_completion(prompt_of(300), 8), 299), "RAM has it"


def test_a_full_disk_costs_files_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(folder: Path, *_: object) -> SnapshotFile:
        raise OSError(errno.ENOSPC, "No space left on device")

    server = Server(tmp_path)
    server.complete(prompt_of(300), writes=True)
    with monkeypatch.context() as patched:
        patched.setattr(snapshot_folder, "write_snapshot", full)
        for seed in range(1, 8):
            prompt = prompt_of(300, seed=seed)
            assert server.complete(prompt, writes=True) == (expected_completion(prompt, 8), 0)
    assert len(caplog.messages) == 7
    assert server.counter("disk_writes") == 1
    server.complete(prompt_of(300, seed=8), writes=True)
    assert server.counter("disk_writes") == 2


def test_requests_that_want_what_is_being_read_wait_for_it(tmp_path: Path) -> None:
    prompt = prompt_of(300)
    Server(tmp_path).complete(prompt, writes=True)
    server = Server(tmp_path)
    fetch = server.engine.prefixes.fetch
    assert fetch(Scope(""), prompt, "first")
    assert fetch(Scope(""), prompt, "second")
    told: list[object] = []

    def is_done() -> bool:
        told.append(server.last)
        return server.last == "second"

    server.settle(is_done)
    assert isinstance(told[0], Read)
    assert told[1:] == ["first", "second"]
    assert not fetch(Scope(""), prompt, "third"), "now it is in RAM"


def test_short_prompts_and_small_gains_are_not_written(tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.complete(prompt_of(110))
    prompt = prompt_of(300, seed=1)
    answer, _ = server.complete(prompt, writes=True)
    server.complete([*prompt, *answer, *prompt_of(100, seed=2)])
    assert server.counter("disk_writes") == 1
    answer, _ = server.complete([*prompt, *answer, *prompt_of(140, seed=3)], writes=True)
    assert server.counter("disk_writes") == 2
    assert len(files(tmp_path)) == 1, "the longer one stands in for the shorter"


def test_more_is_written_only_when_it_is_due(tmp_path: Path) -> None:
    """A budget of three files is used up at once; the fourth waits for its turn, 1 MB a second."""
    server = Server(tmp_path, disk_bytes=20_000)
    for seed in range(3):
        server.complete(prompt_of(300, seed=seed), writes=True)
    server.engine.prefixes._disk._due_at += 3_600  # type: ignore[union-attr]  # the clock has not run since
    server.complete(prompt_of(300, seed=3))
    assert server.counter("disk_writes") == 3
    assert server.counter("disk_bytes") <= 20_000
