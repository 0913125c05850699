"""A reader: a loaded model with its settings, in processes of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from takeoff.ipc.messages import EncoderLoaded, Heartbeat, Load, Loaded, LoadEncoder
from takeoff.request import Task
from takeoff.sandbox.confine import InForce
from takeoff.sandbox.policy import Mode
from takeoff.service.changes import Changes
from takeoff.service.engine_watch import Death, EngineCalls, FromAny, ToAny
from takeoff.service.engines import Engine, MakeEngine
from takeoff.service.launch import Launch
from takeoff.service.pace import Pace
from takeoff.service.preparer import Preparer, Preparers
from takeoff.service.quarantine import Quarantine
from takeoff.service.replicas import ReplicaFacts
from takeoff.settings import ReaderSettings

TRIAL_TIMEOUT_S = 1.0  # for a constraint to be compiled
HOPELESS_LOADS = 2  # that engines refused one after the other; a spare is tried in the second

logger = logging.getLogger(__name__)


class ReaderState(StrEnum):
    LOADING = "loading"
    LIVE = "live"
    DRAINING = "draining"  # takes nothing new, finishes what it has
    UNLOADING = "unloading"  # the same, to be loaded again when it is asked for
    UNLOADED = "unloaded"  # no process: it is loaded when it is asked for
    FAILED = "failed"  # it never loaded: it will not be tried again
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ReaderCalls:
    """What a reader tells of itself, in the event loop."""

    on_message: Callable[[Reader, FromAny], None]
    on_loaded: Callable[[Reader], None]  # an engine is up: its first, or another
    on_death: Callable[[Reader, Death], None]  # its engine died
    on_unloaded: Callable[[Reader], None]  # it has no process any more
    on_preparer_restart: Callable[[], None]


class Reader:
    """One model behind one group. Loads from `start`; told to stop by `stop`."""

    def __init__(
        self,
        reader_id: str,
        settings: ReaderSettings,
        calls: ReaderCalls,
        changes: Changes,
        make_engine: MakeEngine,
    ) -> None:
        """`changes` is told whenever its state changes, or its last request ends."""
        self.reader_id = reader_id
        self.settings = settings
        self.state = ReaderState.LOADING
        self.error: str | None = None  # why the last engine ended, or why it never started
        self.launch: Launch | None = None
        self.preparers: Preparers | None = None  # of a reader that generates
        self.num_open = 0  # requests that it serves now, or prepares
        self.is_awaited = False  # it loads for requests that wait
        self.quarantine = Quarantine()  # says which of them its engine is given
        self.pace = Pace()  # at which its engine computes
        self.beat: Heartbeat | None = None  # the last of its engine
        self._calls = calls
        self._changes = changes
        self._make_engine = make_engine
        self._engine: Engine | None = None
        self._refused_loads = 0  # since an engine was loaded

    @property
    def group(self) -> str:
        return self.settings.consumer_group

    @property
    def is_live(self) -> bool:
        return self.state is ReaderState.LIVE

    @property
    def is_serving(self) -> bool:
        """Whether it takes what was begun while it was live."""
        return self.state in (ReaderState.LIVE, ReaderState.DRAINING, ReaderState.UNLOADING)

    @property
    def has_served(self) -> bool:
        """Whether it was live once: then a new engine is on its way whenever one dies."""
        return self._engine is not None and self._engine.loaded is not None

    @property
    def is_coming(self) -> bool:
        """Whether requests wait for it: it is on its way back, or comes when it is asked for."""
        is_back = self.state is ReaderState.LOADING and self.has_served
        return self.is_awaited or is_back or self.state in (ReaderState.UNLOADING, ReaderState.UNLOADED)

    @property
    def num_bytes(self) -> int:
        """Memory that its plan counts with, loaded or not."""
        return 0 if self.launch is None else self.launch.num_bytes

    @property
    def is_hopeless(self) -> bool:
        """Whether no engine is to be expected soon: again and again they say that they can't load it."""
        return self.state is ReaderState.FAILED or self._refused_loads >= HOPELESS_LOADS

    @property
    def model_name(self) -> str:
        """Before it is launched what was asked for; of a URL not its query, which may be a secret."""
        return self.settings.public_model if self.launch is None else self.launch.model_name

    @property
    def quantisation(self) -> str | None:
        """Format of the weights that it serves; None before it is launched, and of a model in ONNX."""
        told = None if self.launch is None else self.launch.config.get("quantization")
        return told if isinstance(told, str) else None

    @property
    def device(self) -> str:
        """Where it computes; before it is launched what was asked for."""
        if self.launch is None:
            return self.settings.device
        load = self.launch.load
        return "cuda" if isinstance(load, Load) and load.n_gpu_layers else "cpu"

    @property
    def task(self) -> Task:
        return Task.GENERATE if self.launch is None else self.launch.task

    @property
    def progress(self) -> float:
        return 0.0 if self._engine is None else self._engine.progress

    @property
    def num_restarts(self) -> int:
        return 0 if self._engine is None else self._engine.num_restarts

    @property
    def last_heartbeat_at(self) -> float:
        """Seconds since the epoch; 0 before the first."""
        return 0.0 if self._engine is None else self._engine.last_heartbeat_at

    @property
    def engine_pid(self) -> int | None:
        return None if self._engine is None else self._engine.pid

    @property
    def standby_pid(self) -> int | None:
        """Of the engine that waits to take over, once it is ready."""
        return None if self._engine is None else self._engine.standby_pid

    @property
    def pids(self) -> list[int]:
        pids = [self.engine_pid, None if self.preparers is None else self.preparers.short.pid]
        return [pid for pid in pids if pid is not None]

    @property
    def replicas(self) -> list[ReplicaFacts]:
        """Of a reader whose engines are on other machines, those that are up."""
        return [] if self._engine is None else self._engine.replicas

    @property
    def num_replicas(self) -> int:
        """Engines that its requests are shared among."""
        return max(len(self.replicas), 1)

    @property
    def loaded(self) -> Loaded:
        """What the engine of a generating reader said of itself; only once it has served."""
        assert self._engine is not None
        assert isinstance(self._engine.loaded, Loaded)
        return self._engine.loaded

    @property
    def encoder(self) -> EncoderLoaded:
        """What the engine of an encoding reader said of itself; only once it has served."""
        assert self._engine is not None
        assert isinstance(self._engine.loaded, EncoderLoaded)
        return self._engine.loaded

    @property
    def sandbox(self) -> InForce:
        """What of it was in force in the last engine that loaded; only once it has served."""
        return self.loaded.sandbox if self.task is Task.GENERATE else self.encoder.sandbox

    @property
    def load(self) -> Load:
        """What the engine of a generating reader is told; only once it was launched."""
        assert self.launch is not None
        assert isinstance(self.launch.load, Load)
        return self.launch.load

    @property
    def n_ctx_slot(self) -> int:
        """Tokens of one sequence: as planned, or less if the kernels gave less."""
        planned = self.load.n_ctx_slot
        return min(planned, self.loaded.n_ctx_slot) if self.has_served else planned

    @property
    def max_tokens(self) -> int:
        """Of one sequence, prompt and completion, or of one text that is encoded; only once it has served."""
        return self.n_ctx_slot if self.task is Task.GENERATE else self.encoder.max_tokens

    @property
    def load_share(self) -> float:
        """Open requests for each that it computes at once."""
        if self.launch is None:
            return 0.0
        load = self.launch.load
        at_once = load.n_slots if isinstance(load, Load) else load.max_batch_size
        return self.num_open / (at_once * self.num_replicas)

    def start(
        self,
        launch: Launch,
        preparer: Sequence[str],
        environ: dict[str, str],
        prepare_timeout_s: float,
        sandbox: Mode,
    ) -> None:
        """Start the processes; returns at once, the model loads in the background.

        `preparer` is the program of the preparers; one that is given prepared requests has none.
        """
        self.launch = launch
        is_generating = launch.task is Task.GENERATE
        calls = EngineCalls(
            on_message=lambda message: self._calls.on_message(self, message),
            on_loaded=self._loaded,
            on_death=self._died,
            next_load=self._next_load,
        )
        self._engine = self._make_engine(self.reader_id, launch, calls, environ)
        if is_generating and preparer:
            short, large, trial = (
                Preparer(
                    preparer,
                    str(launch.vocabulary_path),
                    timeout_s=timeout_s,
                    environ=environ,
                    on_restart=self._calls.on_preparer_restart,
                    tries_constraints=tries_constraints,
                    sandbox=sandbox,
                )
                for timeout_s, tries_constraints in (
                    (prepare_timeout_s, False),
                    (prepare_timeout_s, False),
                    (TRIAL_TIMEOUT_S, True),
                )
            )
            self.preparers = Preparers(short, large, trial)
            self.preparers.start()
        self._engine.start()

    def fail(self, error: str) -> None:
        """It can't even be started."""
        self.error = error
        self.become(ReaderState.FAILED)

    def open_one(self) -> None:
        """It serves one more request."""
        self.num_open += 1

    def close_one(self) -> None:
        """One of its requests has ended."""
        self.num_open -= 1
        if self.num_open == 0:
            self._changes.tell()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """It is not ended meanwhile: a request is being prepared for it."""
        self.open_one()
        try:
            yield
        finally:
            self.close_one()

    def send(self, message: ToAny) -> None:
        """Send to the engine; if it has just died, the message is lost, and `on_death` tells."""
        if self._engine is not None:
            self._engine.send(message)

    async def stop(self) -> None:
        """End the processes. Idempotent."""
        parts: list[Awaitable[None]] = []
        if self._engine is not None:
            parts.append(self._engine.stop())
        if self.preparers is not None:
            parts.append(self.preparers.stop())
        await asyncio.gather(*parts)
        if self.state is not ReaderState.FAILED:
            self.become(ReaderState.STOPPED)

    async def unload(self) -> None:
        """End the processes of one that `start` may start again."""
        await self.stop()
        self.become(ReaderState.UNLOADED)

    def become(self, state: ReaderState) -> None:
        self.state = state
        self._changes.tell()

    def _loaded(self) -> None:
        self.error = None
        self._refused_loads = 0
        if self.state is ReaderState.LOADING:
            self.become(ReaderState.LIVE)
        self._calls.on_loaded(self)

    def _died(self, death: Death, is_restarted: bool) -> None:
        self.error = death.error
        self._refused_loads += death.is_refusal
        if self.state not in (ReaderState.DRAINING, ReaderState.UNLOADING):
            self.become(ReaderState.LOADING if is_restarted else ReaderState.FAILED)
        self._calls.on_death(self, death)

    def _next_load(self, was_loaded: bool) -> Load | LoadEncoder:
        """What the next engine is told: to load the spare, if the weights of the last one are lost."""
        assert self.launch is not None
        spare = self.launch.spare
        loss = None if spare is None else spare.loss(was_loaded=was_loaded)
        if spare is not None and loss is not None:
            logger.warning("%s: %s", self.reader_id, loss)
            self.launch = spare.launch
        return self.launch.load
