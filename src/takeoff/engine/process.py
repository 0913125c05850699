"""The engine process: `python -m takeoff.engine.process FD`, FD being its end of a socket pair.

Threads: one receives commands, one beats, one compiles constraints, one reads images, two read and write
prefixes on disk, the main one steps. Only the main one touches the engine. When the socket closes the
parent is gone, and so is this process, in the middle of a call if need be.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from takeoff.engine.constraint import ConstraintCompiler, ConstraintState
from takeoff.engine.disk_tier import DiskNews, FileHashes, Opened, Read, Written, hash_files
from takeoff.engine.engine import Engine
from takeoff.engine.images import ImageReader, Prompt
from takeoff.engine.invariance import check_invariance
from takeoff.engine.llama.rows import Kernels
from takeoff.engine.prefix_cache import Scope
from takeoff.engine.spinning import bound_spinning
from takeoff.engine.standing_back import stand_back
from takeoff.errors import InvalidRequest, PromptTooLong, TakeoffError
from takeoff.ipc.beacon import Beacon, Lane, open_beacon
from takeoff.ipc.channel import Channel, ChannelClosed
from takeoff.ipc.messages import (
    Cancel,
    FromEngine,
    Heartbeat,
    ImagesRead,
    Load,
    Loaded,
    LoadFailed,
    Progress,
    StandsBy,
    Step,
    Submit,
    TakeOver,
    ToEngine,
)
from takeoff.ipc.parent import Inbox, receive_first, run_child, start_beating
from takeoff.ipc.turns import Turns
from takeoff.request import FinishReason, TokenEvent
from takeoff.sandbox.confine import measure

if TYPE_CHECKING:
    from takeoff.engine.llama.model import LlamaModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Job:
    """A request that needs work before the scheduler can take it."""

    submit: Submit
    prompt: Prompt | None = None  # once its images are read
    constraint: ConstraintState | None = None  # once its grammar is compiled
    is_fetched: bool = False  # once what the disk has of its prompt was read


@dataclass(frozen=True, slots=True)
class _Ready:
    """What an engine needs beside memory for its sequences."""

    model: LlamaModel
    hashes: Future[FileHashes] | None  # only with prefixes on disk


class EngineProcess:
    """Commands in, events out, one engine between."""

    def __init__(self, channel: Channel[ToEngine, FromEngine]) -> None:
        self._channel = channel
        self._to_compile: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._to_read: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._beacon = Beacon()
        self._in_work: set[int] = set()  # ids of requests whose grammar or images are not ready

    def run(self) -> None:
        """Serve until the socket closes.

        A step that fails ends the process: nobody knows what the slots hold, and another engine does the work
        again, all but that of the request which it failed of.

        Raises:
            ChannelClosed: the parent is gone.
        """
        load = receive_first(self._channel, Load)
        started = time.perf_counter()
        try:
            ready = self._make_ready(load)
            if load.stands_by:
                self._stand_by(ready)
                started = time.perf_counter()
            self._beacon = open_beacon(load.beacon_fd)
            inbox: Inbox[ToEngine | _Job | DiskNews] = Inbox(self._channel)
            engine = self._make_engine(load, ready, inbox)
            reader = self._make_reader(load, engine.kernels)
        except TakeoffError as exc:
            self._channel.send(LoadFailed(exc.told))
            return
        start_beating(self._channel, self._beacon, lambda: _beat(engine))
        self._channel.send(self._loaded(engine, time.perf_counter() - started))
        self._start(self._compile, engine.kernels, inbox)
        if reader is not None:
            self._start(self._read_images, reader, engine.kernels.n_ctx_slot, inbox)
        turns = Turns(load.turns_fd)
        while True:
            self._apply_commands(engine, inbox)
            if engine.is_idle:
                inbox.wait()
                continue
            with turns.taken():
                engine.step(lambda: self._apply_commands(engine, inbox))

    def _make_ready(self, load: Load) -> _Ready:
        """All that takes little memory: libraries, weights, which are only mapped, and the vocabulary."""
        import takeoff.engine.llama.kernels  # noqa: F401  (not when it takes over)
        from takeoff.engine.llama.model import LlamaModel

        hashes = hash_files(load) if load.disk_cache_bytes and load.disk_cache_folder else None

        def tell(share: float) -> None:
            if not load.stands_by:
                self._channel.send(Progress(share))

        return _Ready(LlamaModel(load, tell), hashes)

    def _stand_by(self, ready: _Ready) -> None:
        """Return when the other engine is gone.

        Raises:
            ChannelClosed: so is the parent.
        """
        ready.model.constraint_tokenizer()
        self._channel.send(StandsBy())
        receive_first(self._channel, TakeOver)

    def _make_engine(self, load: Load, ready: _Ready, inbox: Inbox[ToEngine | _Job | DiskNews]) -> Engine:
        from takeoff.engine.llama.kernels import make_kernels
        from takeoff.engine.llama.library import engine_build

        load, kernels = make_kernels(load, ready.model)
        if load.deterministic and not load.is_checked:
            on_gpu = load.n_gpu_layers > 0
            check_invariance(kernels, [lora.name for lora in load.loras], on_gpu=on_gpu)
        engine = Engine(load, kernels, lambda events: self._channel.send(Step(events)), beacon=self._beacon)
        if ready.hashes is not None:
            engine.prefixes.open_disk(load, engine_build(), ready.hashes, inbox.put)
        return engine

    def _make_reader(self, load: Load, kernels: Kernels) -> ImageReader | None:
        if load.projector_path is None:
            return None
        # Half of the threads: the steps of the others go on meanwhile, on the same cores.
        n_threads = max(1, load.n_threads_prefill // 2)
        return ImageReader(kernels.open_projector(load.projector_path, n_threads=n_threads))

    def _start(self, work: Callable[..., None], *args: object) -> None:
        threading.Thread(target=work, args=args, name=work.__name__, daemon=True).start()

    def _loaded(self, engine: Engine, load_s: float) -> Loaded:
        kernels = engine.kernels
        return Loaded(
            pid=os.getpid(),
            n_ctx_slot=kernels.n_ctx_slot,
            n_slots=kernels.n_slots,
            n_vocab=kernels.n_vocab,
            can_trim=kernels.can_trim,
            load_s=load_s,
            sandbox=measure(),
        )

    def _apply_commands(self, engine: Engine, inbox: Inbox[ToEngine | _Job | DiskNews]) -> None:
        for command in inbox.take():
            match command:
                case Submit() as submit:
                    self._in_work.add(submit.request_id)
                    self._go_on(engine, _Job(submit))
                case _Job() as job:
                    self._go_on(engine, job)
                case Opened() | Written() | Read() as news:
                    engine.prefixes.settle(news)
                case Cancel(request_id=request_id):
                    self._in_work.discard(request_id)  # the service has ended it already
                    engine.cancel(request_id)
                case Load() | TakeOver():
                    raise ChannelClosed("an engine is loaded once")

    def _go_on(self, engine: Engine, job: _Job) -> None:
        """Give a request to the thread whose work it needs next, at last to the engine."""
        submit = job.submit
        if submit.request_id not in self._in_work:
            return
        if submit.images and job.prompt is None:
            self._to_read.put(job)
        elif submit.grammar is not None and job.constraint is None:
            self._to_compile.put(job)
        elif job.is_fetched or not self._fetch(engine, job):
            self._in_work.remove(submit.request_id)
            engine.submit(submit, job.constraint, job.prompt)

    def _fetch(self, engine: Engine, job: _Job) -> bool:
        """Have the beginning of a prompt read from disk, if that is worth it; the job comes back then."""
        submit = job.submit
        if submit.sampling.prompt_logprobs:
            return False  # computes all of it
        prompt = job.prompt.token_ids if job.prompt else submit.prompt_token_ids
        token_ids = [*prompt, *submit.emitted_token_ids]
        then = replace(job, is_fetched=True)
        return engine.prefixes.fetch(Scope(submit.tenant, submit.lora), token_ids, then)

    def _compile(self, kernels: Kernels, inbox: Inbox[ToEngine | _Job | DiskNews]) -> None:
        """Compile grammars beside the step loop: a large one takes longer than a gap may.

        The vocabulary is made ready at once: later, it would hold the running streams up.
        """
        stand_back()
        compiler = ConstraintCompiler(kernels.constraint_tokenizer(), kernels.n_vocab)
        while True:
            job = self._to_compile.get()
            submit = job.submit
            if submit.request_id not in self._in_work:  # it has ended: those behind it need not wait
                continue
            assert submit.grammar is not None, "only constrained requests come here"
            with self._beacon.at_work([submit.request_id], Lane.COMPILE):
                constraint = compiler.compile(submit.grammar, submit.tenant)
            inbox.put(replace(job, constraint=constraint))

    def _read_images(
        self, reader: ImageReader, n_ctx_slot: int, inbox: Inbox[ToEngine | _Job | DiskNews]
    ) -> None:
        """Read images beside the step loop: one takes as long as many steps."""
        stand_back()
        while True:
            job = self._to_read.get()
            if job.submit.request_id in self._in_work:
                with self._beacon.at_work([job.submit.request_id], Lane.IMAGES):
                    self._read_image(reader, n_ctx_slot, inbox, job)

    def _read_image(
        self, reader: ImageReader, n_ctx_slot: int, inbox: Inbox[ToEngine | _Job | DiskNews], job: _Job
    ) -> None:
        submit = job.submit
        request_id = submit.request_id
        try:
            prompt = reader.place(submit.prompt_token_ids, submit.images, submit.tenant)
            if len(prompt.token_ids) >= n_ctx_slot:
                raise PromptTooLong.beyond(len(prompt.token_ids), n_ctx_slot)
        except InvalidRequest as exc:
            self._channel.send(ImagesRead(request_id, 0, exc.told))
            inbox.put(Cancel(request_id))
        except Exception as exc:  # a library that reads strangers' files: whoever sent the image is told
            logger.exception("reading an image failed")
            error = f"the image could not be read: {exc}"
            failed = TokenEvent(request_id=request_id, finish_reason=FinishReason.FAILED, error=error)
            self._channel.send(Step([failed]))
            inbox.put(Cancel(request_id))
        else:
            num_tokens = len(prompt.token_ids) - len(submit.prompt_token_ids)
            self._channel.send(ImagesRead(request_id, num_tokens))
            inbox.put(replace(job, prompt=prompt))


def _beat(engine: Engine) -> Heartbeat:
    counters = engine.counters.snapshot()
    steps = int(sum(counters.get(f"{kind}_calls", 0) for kind in ("decode", "verify", "prefill")))
    return Heartbeat(steps, engine.counters.call_running_s, engine.num_running, engine.num_waiting, counters)


def main() -> None:
    """Entry point of the child."""
    bound_spinning()
    run_child("engine", ToEngine, lambda channel: EngineProcess(channel).run())


if __name__ == "__main__":
    main()
