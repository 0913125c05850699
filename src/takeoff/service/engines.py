"""Where a reader's engine is had: a process on this machine, unless somebody knows of another place."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from takeoff.ipc.messages import EncoderLoaded, Loaded
from takeoff.request import Task
from takeoff.sandbox.launch import command
from takeoff.sandbox.policy import Mode
from takeoff.service.engine_watch import EngineCalls, EngineWatch, ToAny
from takeoff.service.huge_pages import asking_for_huge_pages
from takeoff.service.launch import Launch
from takeoff.service.replicas import ReplicaFacts


class Engine(Protocol):
    """What a reader needs of its engine; `EngineWatch` documents it."""

    @property
    def loaded(self) -> Loaded | EncoderLoaded | None: ...
    @property
    def progress(self) -> float: ...
    @property
    def num_restarts(self) -> int: ...
    @property
    def last_heartbeat_at(self) -> float: ...
    @property
    def pid(self) -> int | None: ...
    @property
    def standby_pid(self) -> int | None: ...
    @property
    def replicas(self) -> list[ReplicaFacts]: ...
    def start(self) -> None: ...
    def send(self, message: ToAny) -> None: ...
    async def stop(self) -> None: ...


# Of a reader's id, its launch, whom to tell, and variables of its environment.
MakeEngine = Callable[[str, Launch, EngineCalls, Mapping[str, str]], Engine]


@dataclass(frozen=True, slots=True)
class Commands:
    """The programs of the child processes."""

    engine: Sequence[str] = command("takeoff.engine.process")
    encoder: Sequence[str] = command("takeoff.engine.encoder.process")
    preparer: Sequence[str] = command("takeoff.prepare.process")  # none: every request comes prepared


def processes(commands: Commands, sandbox: Mode) -> MakeEngine:
    """Engines that are processes of this machine."""

    def make(name: str, launch: Launch, calls: EngineCalls, environ: Mapping[str, str]) -> Engine:
        return EngineWatch(
            name,
            launch.load,
            commands.engine if launch.task is Task.GENERATE else commands.encoder,
            calls,
            environ={**environ, **asking_for_huge_pages(os.environ)},
            sandbox=sandbox,
        )

    return make
