"""From settings to a running service: what the command line and the Python door have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from takeoff.errors import StartError
from takeoff.ipc.messages import Load
from takeoff.models.cpu_features import check_build_cpu
from takeoff.models.machine import read_machine
from takeoff.models.progress import Progress
from takeoff.models.store import Store, StoredModel
from takeoff.observe.metrics import Metrics
from takeoff.sandbox.report import Report, try_sandbox
from takeoff.service.planner import Planner
from takeoff.service.planning import Planned
from takeoff.service.profiling import plan_profiled
from takeoff.service.service import Service
from takeoff.settings import ReaderSettings, Settings

OPEN_PER_PLACE = 2  # as many requests wait as are computed: then no place is ever empty

# Of a service that takes whatever it is given: others have decided what to let in.
ADMITS_ALL: Mapping[str, Any] = MappingProxyType({"max_requests": 65_536, "max_queued_tokens": 1_000_000_000})

# Limits against strangers, a log that people read, a second engine that waits: for a service with doors.
_OWN_USE = {
    **ADMITS_ALL,
    "max_user_batch_size": 1_000_000,
    "max_prompt_string_bytes": 1_073_741_824,
    "max_body_bytes": 1_073_741_824,
    "log_level": "warning",
    "standby": "off",
}


@dataclass(frozen=True, slots=True)
class PlannedReader:
    """A reader that is ready to be launched."""

    reader_id: str
    settings: ReaderSettings
    model: StoredModel
    planned: Planned

    @property
    def num_open(self) -> int:
        """How many requests to keep open at once, for one who has many."""
        load = self.planned.launch.load
        return OPEN_PER_PLACE * (load.n_slots if isinstance(load, Load) else load.max_batch_size)


def for_own_use(settings: Settings) -> Settings:
    """Settings of a service that only this process can reach; what was named stays, but a key has no use."""
    unnamed = {name: value for name, value in _OWN_USE.items() if name not in settings.named}
    return settings.model_copy(update={**unnamed, "api_key": None})


def plan_readers(
    settings: Settings, watch: Callable[[], AbstractContextManager[Progress]]
) -> Iterator[PlannedReader]:
    """Fetch the models and plan the readers one beside the other, by their profiles.

    Those of `on_demand` come last: each is planned beside the others, as if it were the only one.

    Blocks while it downloads, and while it makes a faster format of a model that has no profile yet.

    Each pull is told to a progress of its own, which `watch` makes.

    Raises:
        StartError: the processor can't run this build's kernels, or the sandbox that must be is not.
        PullError, ModelError, PlanError: the first reader that can't be had.
    """
    check_build_cpu()
    if settings.sandbox == "require":
        check_sandbox(try_sandbox())
    machine = read_machine()
    if settings.memory_limit_gb is not None:
        limit = int(settings.memory_limit_gb * 1e9)
        machine = replace(machine, memory_available_bytes=min(limit, machine.memory_available_bytes))
    named = (settings.readers or {"": settings}).items()
    for name, reader_settings in sorted(named, key=lambda each: each[1].on_demand):
        with watch() as progress:
            store = Store(settings.store, reader_settings.access_token)
            model = store.pull(reader_settings.model, progress)
            plan = plan_profiled(model, reader_settings, machine, settings.store, progress.note, progress)
        if not reader_settings.on_demand:
            machine = machine.without(plan.planned.plan.total_bytes, plan.planned.plan.gpu_bytes)
        yield PlannedReader(name or model.name, reader_settings, plan.model, plan.planned)


def check_sandbox(report: Report) -> None:
    """Raises StartError: a part of the sandbox is missing on this kernel."""
    if report.missing:
        parts = "; ".join(f"{part}: {why}" for part, why in report.missing.items())
        raise StartError(f"the sandbox is not whole: {parts}", hint="--sandbox auto takes what there is")


@asynccontextmanager
async def launched(settings: Settings, planned: Iterable[PlannedReader]) -> AsyncIterator[Service]:
    """A service whose readers begin to load; leaving the block ends every process."""
    service = Service(settings, Metrics(), Planner(Store(settings.store), settings.repository_path))
    try:
        for each in planned:
            service.launch(each.reader_id, each.settings, each.planned.launch)
        yield service
    finally:
        await service.stop()
