"""The engine process: `python -m takeoff.engine.process FD`, FD being its end of a socket pair.

Four threads: one receives commands, one beats, one compiles constraints, the main one steps. Only the
main one touches the engine. When the socket closes the parent is gone, and so is this process, in the
middle of a call if need be.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from dataclasses import dataclass

from takeoff.engine.constraint import ConstraintCompiler, ConstraintState
from takeoff.engine.engine import Engine
from takeoff.engine.invariance import check_invariance
from takeoff.engine.llama.rows import Kernels
from takeoff.engine.spinning import bound_spinning
from takeoff.errors import TakeoffError
from takeoff.ipc.channel import Channel, ChannelClosed
from takeoff.ipc.messages import (
    Cancel,
    FromEngine,
    Heartbeat,
    Load,
    Loaded,
    LoadFailed,
    Progress,
    Step,
    Submit,
    ToEngine,
)
from takeoff.ipc.parent import Inbox, receive_first, run_child, start_beating
from takeoff.ipc.turns import Turns

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A constrained request that is ready for the scheduler."""

    submit: Submit
    constraint: ConstraintState


class EngineProcess:
    """Commands in, events out, one engine between."""

    def __init__(self, channel: Channel[ToEngine, FromEngine]) -> None:
        self._channel = channel
        self._to_compile: queue.SimpleQueue[Submit] = queue.SimpleQueue()
        self._compiling: set[int] = set()  # ids of requests whose grammar is not yet compiled

    def run(self) -> None:
        """Serve until the socket closes.

        Raises:
            ChannelClosed: the parent is gone.
        """
        load = receive_first(self._channel, Load)
        inbox: Inbox[ToEngine | _Compiled] = Inbox(self._channel)
        started = time.perf_counter()
        try:
            engine = self._make_engine(load)
        except TakeoffError as exc:
            self._channel.send(LoadFailed(exc.told))
            return
        start_beating(self._channel, lambda: _beat(engine))
        self._channel.send(self._loaded(engine, time.perf_counter() - started))
        threading.Thread(
            target=self._compile, args=(engine.kernels, inbox), name="compile", daemon=True
        ).start()
        turns = Turns(load.turns_fd)
        while True:
            self._apply_commands(engine, inbox)
            if engine.is_idle:
                inbox.wait()
                continue
            try:
                with turns.taken():
                    engine.step()
            except ChannelClosed:
                raise
            except Exception as exc:  # the root of the thread: whoever was in the step is told
                logger.exception("a step failed")
                engine.fail_running(f"a step of the engine failed: {exc}")

    def _make_engine(self, load: Load) -> Engine:
        from takeoff.engine.llama.context import LlamaContext

        kernels = LlamaContext(load, lambda share: self._channel.send(Progress(share)))
        if load.deterministic:
            check_invariance(kernels, [lora.name for lora in load.loras])
        return Engine(load, kernels, lambda events: self._channel.send(Step(events)))

    def _loaded(self, engine: Engine, load_s: float) -> Loaded:
        kernels = engine.kernels
        return Loaded(
            pid=os.getpid(),
            n_ctx_slot=kernels.n_ctx_slot,
            n_slots=kernels.n_slots,
            n_vocab=kernels.n_vocab,
            can_trim=kernels.can_trim,
            load_s=load_s,
        )

    def _apply_commands(self, engine: Engine, inbox: Inbox[ToEngine | _Compiled]) -> None:
        for command in inbox.take():
            match command:
                case Submit(grammar=str()) as submit:
                    self._compiling.add(submit.request_id)
                    self._to_compile.put(submit)
                case Submit() as submit:
                    engine.submit(submit)
                case _Compiled(submit=submit, constraint=constraint):
                    if submit.request_id in self._compiling:
                        self._compiling.remove(submit.request_id)
                        engine.submit(submit, constraint)
                case Cancel(request_id=request_id):
                    if request_id in self._compiling:
                        self._compiling.remove(request_id)  # the service has ended it already
                    engine.cancel(request_id)
                case Load():
                    raise ChannelClosed("an engine is loaded once")

    def _compile(self, kernels: Kernels, inbox: Inbox[ToEngine | _Compiled]) -> None:
        """Compile grammars beside the step loop: a large one takes longer than a gap may.

        The vocabulary is made ready at once: later, it would hold the running streams up.
        """
        compiler = ConstraintCompiler(kernels.constraint_tokenizer(), kernels.n_vocab)
        while True:
            submit = self._to_compile.get()
            assert submit.grammar is not None, "only constrained requests come here"
            inbox.put(_Compiled(submit, compiler.compile(submit.grammar)))


def _beat(engine: Engine) -> Heartbeat:
    counters = engine.counters.snapshot()
    steps = int(counters.get("decode_calls", 0) + counters.get("prefill_calls", 0))
    return Heartbeat(steps, engine.counters.call_running_s, engine.num_running, engine.num_waiting, counters)


def main() -> None:
    """Entry point of the child."""
    bound_spinning()
    run_child("engine", ToEngine, lambda channel: EngineProcess(channel).run())


if __name__ == "__main__":
    main()
