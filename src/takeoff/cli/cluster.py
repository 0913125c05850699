"""`takeoff cluster`: the same server on many machines, on a Ray cluster."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from takeoff.errors import ClusterError, SettingsError

if TYPE_CHECKING:
    from takeoff.settings import Settings

cluster_app = typer.Typer(help="Serve from many machines, on a Ray cluster.", no_args_is_help=True)

Address = Annotated[
    str | None,
    typer.Option(help="Ray cluster, as HOST:PORT or ray://HOST:PORT; default: one of this machine alone"),
]
Home = Annotated[Path | None, typer.Option(help="Folder of the model store, as `up` was told it")]
Json = Annotated[bool, typer.Option("--json", help="For programs, on stdout")]


@cluster_app.command()
def up(
    manifest: Annotated[Path, typer.Argument(help="YAML file of settings, readers and cluster_config")],
    address: Address = None,
) -> None:
    """Serve a manifest, or change what is served, with no failed request; the cluster goes on without us."""
    _check_extra()
    from takeoff.cli.console import talk
    from takeoff.http.reach import check_reach
    from takeoff.settings import load_settings
    from takeoff.settings.cluster import SECTION, read_cluster

    settings = load_settings({"manifest": str(manifest)})
    cluster = read_cluster(settings.manifest, settings.own_readers)
    check_reach(settings)
    _check_fit(settings)
    console = talk()
    if without_effect := [name for name in settings.without_effect if name != SECTION]:
        console.print(f"without effect here: {', '.join(without_effect)}", markup=False)
    with console.status("starting a Ray cluster of this machine"):
        at = _address(address, settings.store, starts=True)
    from takeoff.cluster.deploy import bring_up, connected

    with connected(at), console.status("") as status:

        def say(text: str) -> None:
            status.update(text)
            if not console.is_terminal:
                console.print(text, markup=False)

        states = bring_up(settings, cluster, say)
    for state in states:
        console.print(f"door {state['door']}: {_ports_told(settings.host, state['ports'])}", markup=False)
        for note in state["notes"]:
            console.print(note, markup=False)


@cluster_app.command()
def status(address: Address = None, home: Home = None, json: Json = False) -> None:
    """Say which doors, readers and replicas there are, and what they do."""
    _check_extra()
    from takeoff.cli.console import print_json, print_table

    at = _address(address, _store(home), starts=False)
    from takeoff.cluster.deploy import connected, door_states, reader_states

    with connected(at):
        doors, readers = door_states(), reader_states()
    if json:
        print_json({"doors": doors, "readers": readers})
        return
    rows = [
        ["door", state["door"], state["status"], _ports_told("", state["ports"]), str(state["open"])]
        for state in doors
    ]
    for state in doors[:1]:
        for reader_id, reader in state["readers"].items():
            rows.append(["reader", reader_id, reader["state"], reader["model"], ""])
            rows += [
                ["replica", each["id"], reader_id, each["node"], _open_at(doors, each["id"])]
                for each in reader["replicas"]
            ]
    print_table(("", "id", "state", "where", "open"), rows, right=("open",))


@cluster_app.command()
def down(address: Address = None, home: Home = None) -> None:
    """Let running requests finish and end everything of ours; a cluster of this machine alone ends, too."""
    _check_extra()
    from takeoff.cli.console import talk
    from takeoff.cluster import local

    store = _store(home)
    at = _address(address, store, starts=False)
    from takeoff.cluster.deploy import connected, take_down

    with connected(at), talk().status("draining"):
        take_down()
    own = local.remembered(store)
    if address is None and own is not None:
        local.stop(store, own)


@cluster_app.command()
def kuberay(
    manifest: Annotated[Path, typer.Argument(help="YAML file of settings, readers and cluster_config")],
    image: Annotated[str, typer.Option(help="Container image that has takeoff with its cluster extra")],
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Pods for readers; default: one for each replica, as many as there are"),
    ] = None,
    name: Annotated[str, typer.Option(help="Of the RayService and of what belongs to it")] = "takeoff",
    namespace: Annotated[str, typer.Option(help="Of Kubernetes")] = "default",
    memory: Annotated[str, typer.Option(help="Of each pod for readers, as Kubernetes writes it")] = "8Gi",
) -> None:
    """Print a manifest as YAML for `kubectl apply`, on a Kubernetes with KubeRay. Variables play no part."""
    from takeoff.cluster.kuberay import Pods, documents
    from takeoff.settings import load_settings
    from takeoff.settings.cluster import read_cluster

    settings = load_settings({"manifest": str(manifest)}, {})
    cluster = read_cluster(settings.manifest, settings.own_readers)
    _check_fit(settings)
    pods = Pods(image=image, memory=memory, workers=workers, name=name, namespace=namespace)
    sys.stdout.write(documents(settings, cluster, pods))


def _check_extra() -> None:
    if find_spec("ray") is None:
        raise ClusterError(
            "a cluster needs Ray Serve, which is not installed", hint="pip install 'takeoff-server[cluster]'"
        )


def _check_fit(settings: Settings) -> None:
    """Raises SettingsError: what one machine can do and a cluster can't."""
    if settings.make_key:
        raise SettingsError(
            "a cluster makes no key at its start", param="make_key", hint="takeoff keys create NAME"
        )
    on_demand = [name for name, reader in settings.readers.items() if reader.on_demand]
    if on_demand or settings.on_demand:
        raise SettingsError(
            f"a cluster loads {', '.join(on_demand) or 'its reader'} on demand by replicas from 0 on",
            param="on_demand",
            hint="leave on_demand out, and write cluster_config: {readers: {ID: {replicas: 0-1}}}",
        )


def _address(address: str | None, store: Path, *, starts: bool) -> str:
    from takeoff.cluster import local

    if address is not None:
        return address
    own = local.remembered(store)
    if own is None and starts:
        own = local.start(store, os.environ)
    os.environ.update(local.variables(store))  # before Ray is imported
    if own is None:
        raise ClusterError(
            "no cluster of this machine is up", hint="takeoff cluster up MANIFEST, or --address"
        )
    return own.address


def _store(home: Path | None) -> Path:
    from takeoff.settings import load_settings

    return load_settings({"home": None if home is None else str(home)}).store


def _ports_told(host: str, ports: dict[str, Any]) -> str:
    from takeoff.http.doors import TITLES

    return "   ".join(f"{TITLES[name]} {host}{':' if host else ''}{port}" for name, port in ports.items())


def _open_at(doors: list[dict[str, Any]], replica_id: str) -> str:
    """Requests of all doors at one replica."""
    return str(
        sum(
            each["open"]
            for state in doors
            for reader in state["readers"].values()
            for each in reader["replicas"]
            if each["id"] == replica_id
        )
    )
