"""`takeoff serve`: fetch the model, plan the memory, open the door, serve until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from takeoff.cli.options import takes_settings

if TYPE_CHECKING:
    from takeoff.http.doors import Doors
    from takeoff.keys.keyring import Keyring
    from takeoff.observe.lines import Logs
    from takeoff.service.launching import PlannedReader
    from takeoff.service.service import Service
    from takeoff.settings import Settings


@takes_settings
def serve(flags: dict[str, Any]) -> None:
    """Serve a model on this machine. Ctrl-C lets running streams finish; a second one does not."""
    import uvloop

    from takeoff.cli.key import with_key
    from takeoff.http.reach import check_reach
    from takeoff.http.tls import tls_context
    from takeoff.keys.keyring import Keyring
    from takeoff.observe.lines import opened_logs
    from takeoff.observe.logs import set_up_logs
    from takeoff.settings import load_settings

    settings = with_key(load_settings(flags))
    set_up_logs(settings.log_level)
    check_reach(settings)
    tls_context(settings)  # what is wrong with it is told before a model is loaded
    keys = Keyring(settings.api_key, settings.keys_path, must_exist=settings.keys_file is not None)
    with opened_logs(settings) as logs, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, plan_told(settings), keys, logs))


def plan_told(settings: Settings) -> list[PlannedReader]:
    """Fetch the models, plan the readers one beside the other, and say so. Raises as `plan_readers`."""
    from takeoff.cli.console import PullProgress, talk
    from takeoff.service.launching import plan_readers
    from takeoff.settings.values import DEFAULT_GROUP

    console = talk()
    readers = []
    for reader in plan_readers(settings, PullProgress):
        readers.append(reader)
        model, planned, group = reader.model, reader.planned, reader.settings.consumer_group
        group = "" if group == DEFAULT_GROUP else f", group {group}"
        group += ", loaded on demand" if reader.settings.on_demand else ""
        facts = f"{model.architecture} {model.quantisation}, {model.file_bytes / 1e6:,.0f} MB"
        console.print(f"{reader.reader_id}: {facts}, {planned.plan.n_threads} threads{group}", markup=False)
        console.print("\n".join(f"  {line}" for line in planned.plan.lines()), markup=False)
    return readers


async def _serve(settings: Settings, planned: list[PlannedReader], keys: Keyring, logs: Logs) -> None:
    """From the start of the processes to their end.

    Raises:
        StartError: the port is taken, or no model can be loaded; no process is left.
    """
    from takeoff.service.launching import launched

    with _caught_signals() as signals:
        async with launched(settings, planned) as service:
            # Imported while the engine loads: half a second that nobody has to wait for.
            from takeoff.http.doors import Doors

            doors = Doors(settings)
            serving = asyncio.create_task(doors.serve(service, keys, logs), name="doors")
            stopping = asyncio.create_task(signals.first.wait(), name="signal")
            loading = asyncio.create_task(service.wait_ready(), name="loading")
            await asyncio.wait({serving, stopping, loading}, return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                loading.result()
                _print_welcome(settings, planned, doors, service)
                await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            for task in (stopping, loading):
                task.cancel()
            await _close(settings, service, signals)
            await doors.close()
            await serving


async def _close(settings: Settings, service: Service, signals: _Signals) -> None:
    """Let what runs finish, unless a second signal comes; then end it."""
    from takeoff.cli.console import talk

    num_open = service.tally.num_open
    if num_open:
        limit = f"at most {settings.drain_timeout_s:g} s; once more stops at once"
        talk().print(f"stopping when {num_open} open requests are done ({limit})", markup=False)
    draining = asyncio.create_task(service.drain(settings.drain_timeout_s), name="drain")
    hurried = asyncio.create_task(signals.second.wait(), name="second signal")
    await asyncio.wait({draining, hurried}, return_when=asyncio.FIRST_COMPLETED)
    for task in (draining, hurried):
        task.cancel()
    await service.stop()


class _Signals:
    """SIGINT and SIGTERM: the first asks us to finish, the second to stop at once."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()

    def receive(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


@contextlib.contextmanager
def _caught_signals() -> Iterator[_Signals]:
    signals = _Signals()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, signals.receive)
    try:
        yield signals
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _print_welcome(settings: Settings, planned: list[PlannedReader], doors: Doors, service: Service) -> None:
    """The doors, a line to try the server with, and what to serve next."""
    from takeoff.cli.console import talk
    from takeoff.http.doors import FRONT, TITLES

    console = talk()
    host = _host_to_call(settings.host)
    url = f"http{'s' if settings.tls_cert else ''}://{host}:{doors.ports[FRONT]}"
    key = "" if not settings.asks_for_keys else ' -H "Authorization: Bearer $TAKEOFF_API_KEY"'
    body = '{"text":"List 3 things to do in London."}'
    if settings.sandbox == "off":
        console.print("model files are read without a sandbox (--sandbox off)", markup=False)
    else:
        sandbox = next((reader.sandbox for reader in service.readers() if reader.has_served), None)
        in_force = "" if sandbox is None else f": {sandbox.sentence}"
        console.print(f"model files are read in a sandbox{in_force}", markup=False)
    for note in doors.notes:
        console.print(note, markup=False)
    if settings.without_effect:
        console.print(f"without effect here: {', '.join(settings.without_effect)}", markup=False)
    console.print(f"ready at [bold]{url}[/]   /demos/chat  /demos/playground  /docs")
    others = [f"{TITLES[name]} {host}:{port}" for name, port in doors.ports.items() if name != FRONT]
    if others:
        console.print("  " + "   ".join(others), markup=False)
    console.print(
        f"  curl -N {url}/generate_stream{key} -H 'Content-Type: application/json' -d '{body}'", markup=False
    )
    for line in _advice(planned):
        console.print(line, markup=False)


def _host_to_call(host: str) -> str:
    """A name under which a server bound to `host` is reached from this machine."""
    if host in ("0.0.0.0", "::"):  # noqa: S104  (compared, not bound)
        return "localhost"
    return f"[{host}]" if ":" in host else host


def _advice(planned: list[PlannedReader]) -> list[str]:
    """That the default model is a small one, and the largest of the catalogue that fits here."""
    from takeoff.models.catalogue import CATALOGUE, DEFAULT_MODEL, largest_that_fits

    first = planned[0]
    if len(planned) > 1 or first.model.name != DEFAULT_MODEL:
        return []
    lines = [f"{first.model.name} is a {first.model.num_params / 1e6:.0f}M model, to try the server with."]
    larger = largest_that_fits(CATALOGUE, first.planned.plan.available_bytes)
    if larger is not None and larger.name != first.model.name:
        lines.append(f"The largest of the catalogue that fits here: takeoff serve --model {larger.name}")
    return lines
