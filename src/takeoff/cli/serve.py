"""`takeoff serve`: fetch the model, plan the memory, open the door, serve until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from takeoff.cli.options import takes_settings
from takeoff.errors import SettingsError

if TYPE_CHECKING:
    from takeoff.http.server import DoorServer
    from takeoff.ipc.messages import Load
    from takeoff.models.plan import Plan
    from takeoff.models.store import StoredModel
    from takeoff.service.service import Service
    from takeoff.settings import Settings

DOOR_CLOSING_S = 2.0  # for responses that have ended to reach their clients


@takes_settings
def serve(flags: dict[str, Any]) -> None:
    """Serve a model on this machine. Ctrl-C lets running streams finish; a second one does not."""
    import uvloop

    from takeoff.cli.console import PullProgress, talk
    from takeoff.models.cpu_features import check_build_cpu
    from takeoff.models.gguf import read_gguf
    from takeoff.models.machine import read_machine
    from takeoff.models.plan import make_plan
    from takeoff.models.store import Store
    from takeoff.observe.logs import set_up_logs
    from takeoff.settings import load_settings

    settings = load_settings(flags)
    set_up_logs(settings.log_level)
    check_reach(settings)
    check_build_cpu()
    with PullProgress() as progress:
        model = Store(settings.store).pull(settings.model, progress)
    plan = make_plan(read_gguf(model.path), settings, read_machine())
    console = talk()
    facts = f"{model.architecture} {model.quantisation}, {model.file_bytes / 1e6:,.0f} MB"
    console.print(f"{model.name}: {facts}, {plan.n_threads} threads", markup=False)
    console.print("\n".join(f"  {line}" for line in plan.lines()), markup=False)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, model, plan))


def check_reach(settings: Settings) -> None:
    """Refuse to be open to a network without a key.

    Raises:
        SettingsError: the address is not a loopback one, there is no key, and nobody insisted.
    """
    if settings.api_key is None and not settings.insecure and not is_loopback(settings.host):
        raise SettingsError(
            f"{settings.host} can be reached from other machines, and no key is set",
            param="host",
            hint="set TAKEOFF_API_KEY, or --insecure to serve everyone who can connect",
        )


def is_loopback(host: str) -> bool:
    """Whether a server bound to `host` is for this machine alone; of an unknown name we say no."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


async def _serve(settings: Settings, model: StoredModel, plan: Plan) -> None:
    """From the start of the processes to their end.

    Raises:
        StartError: the port is taken, or the model can't be loaded; no process is left.
    """
    from takeoff.observe.metrics import Metrics
    from takeoff.service.service import ServedModel, Service

    served = ServedModel(model.name, model.path)
    service = Service(settings, served, _load_message(settings, model, plan), Metrics())
    with _caught_signals() as signals:
        await service.start()
        try:
            # Imported while the engine loads: half a second that nobody has to wait for.
            from takeoff.http.app import make_app
            from takeoff.http.server import DoorServer

            door = DoorServer(make_app(service, settings), settings)
            port = door.bind()
            serving = asyncio.create_task(door.serve(), name="door")
            stopping = asyncio.create_task(signals.first.wait(), name="signal")
            loading = asyncio.create_task(service.wait_ready(), name="loading")
            await asyncio.wait({serving, stopping, loading}, return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                loading.result()
                _print_welcome(settings, model, plan, port)
                await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            for task in (stopping, loading):
                task.cancel()
            await _close(settings, service, door, serving, signals)
        finally:
            await service.stop()


async def _close(
    settings: Settings, service: Service, door: DoorServer, serving: asyncio.Task[None], signals: _Signals
) -> None:
    """Let what runs finish, unless a second signal comes; then close the door."""
    from takeoff.cli.console import talk

    num_open = service.overview()["open_requests"]
    if num_open:
        limit = f"at most {settings.drain_timeout_s:g} s; once more stops at once"
        talk().print(f"stopping when {num_open} open requests are done ({limit})", markup=False)
    draining = asyncio.create_task(service.drain(settings.drain_timeout_s), name="drain")
    hurried = asyncio.create_task(signals.second.wait(), name="second signal")
    await asyncio.wait({draining, hurried}, return_when=asyncio.FIRST_COMPLETED)
    for task in (draining, hurried):
        task.cancel()
    await service.stop()
    door.stop()
    done, _ = await asyncio.wait({serving}, timeout=DOOR_CLOSING_S)
    if not done:
        door.cut()
    await serving


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


def _load_message(settings: Settings, model: StoredModel, plan: Plan) -> Load:
    """The plan in the engine's words."""
    from takeoff.ipc.messages import Load

    return Load(
        model_path=str(model.path),
        n_slots=plan.n_slots,
        n_ctx_slot=plan.n_ctx_slot,
        n_batch=plan.n_batch,
        n_ubatch=plan.n_ubatch,
        n_threads=plan.n_threads,
        n_threads_prefill=plan.n_threads_prefill,
        n_gpu_layers=plan.n_gpu_layers,
        flash_attention=plan.flash_attention,
        deterministic=settings.deterministic,
        cache_bytes=plan.cache_bytes,
        itl_slo_ms=settings.itl_slo_ms,
    )


def _print_welcome(settings: Settings, model: StoredModel, plan: Plan, port: int) -> None:
    """The door, a line to try it with, and what to serve next."""
    from takeoff.cli.console import talk

    console = talk()
    url = f"http://{_host_to_call(settings.host)}:{port}"
    key = "" if settings.api_key is None else ' -H "Authorization: Bearer $TAKEOFF_API_KEY"'
    body = '{"text":"List 3 things to do in London."}'
    console.print(f"ready at [bold]{url}[/]   /demos/chat  /demos/playground  /docs")
    console.print(
        f"  curl -N {url}/generate_stream{key} -H 'Content-Type: application/json' -d '{body}'", markup=False
    )
    for line in _advice(model, plan):
        console.print(line, markup=False)


def _host_to_call(host: str) -> str:
    """A name under which a server bound to `host` is reached from this machine."""
    if host in ("0.0.0.0", "::"):  # noqa: S104  (compared, not bound)
        return "localhost"
    return f"[{host}]" if ":" in host else host


def _advice(model: StoredModel, plan: Plan) -> list[str]:
    """That the default model is a small one, and the largest of the catalogue that fits here."""
    from takeoff.models.catalogue import CATALOGUE, DEFAULT_MODEL, largest_that_fits

    if model.name != DEFAULT_MODEL:
        return []
    lines = [f"{model.name} is a {model.num_params / 1e6:.0f}M model, to try the server with."]
    larger = largest_that_fits(CATALOGUE, plan.available_bytes)
    if larger is not None and larger.name != model.name:
        lines.append(f"The largest of the catalogue that fits here: takeoff serve --model {larger.name}")
    return lines
