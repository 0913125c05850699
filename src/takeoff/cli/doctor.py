"""`takeoff doctor`: what this machine gives a server, and what it lacks."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from takeoff.errors import StartError

if TYPE_CHECKING:
    from takeoff.settings import Settings

State = Literal["ok", "without", "failed"]  # without: a server runs, and has less

_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line."""

    what: str
    state: State
    detail: str


def doctor(
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
    home: Annotated[Path | None, typer.Option(help="Folder of the model store  [env: TAKEOFF_HOME]")] = None,
) -> None:
    """Look at this machine: processor, memory, kernels, store, ports, and the sandbox of model files.

    Ends with 1 if something would keep `takeoff serve` from running.
    """
    from takeoff.cli.console import print_json, print_table
    from takeoff.settings import load_settings

    findings = list(look(load_settings({"home": home})))
    if json_output:
        print_json([asdict(finding) for finding in findings])
    else:
        print_table(("what", "state", "detail"), [(each.what, each.state, each.detail) for each in findings])
    if any(finding.state == "failed" for finding in findings):
        raise typer.Exit(1)


def look(settings: Settings) -> Iterator[Finding]:
    """Everything, in the order of the table."""
    yield from _machine()
    yield from _kernels()
    yield _store(settings.store)
    yield from _sandbox()
    yield from _ports(settings)


def _machine() -> Iterator[Finding]:
    from takeoff.models.cpu_features import read_cpu_features
    from takeoff.models.machine import logical_cores, read_machine

    machine = read_machine()
    yield Finding("kernel", "ok", f"{platform.system()} {platform.release()}, {platform.machine()}")
    yield Finding("cores", "ok", f"{machine.cores} to compute with, {logical_cores()} threads of hardware")
    features = " ".join(sorted(read_cpu_features()))
    yield Finding("processor", "ok" if features else "without", features or "its features can't be read")
    total, free = machine.memory_total_bytes / 1e9, machine.memory_available_bytes / 1e9
    yield Finding("memory", "ok", f"{free:.1f} GB free of {total:.1f}")
    yield _huge_pages()
    yield _gpu()


def _gpu() -> Finding:
    from takeoff.models.gpu import find_gpu, why_unusable

    gpu, unusable = find_gpu(), why_unusable()
    if gpu is None:
        return Finding("GPU", "without", "none")
    detail = f"{gpu.name}, {gpu.free_bytes / 1e9:.1f} GB free"
    if unusable is not None:
        return Finding("GPU", "without", f"{detail}; {unusable}: CMAKE_ARGS=-DGGML_CUDA=on ./setup.sh")
    return Finding("GPU", "ok", detail)


def _huge_pages() -> Finding:
    try:
        modes = _HUGE_PAGES.read_text().split()
    except OSError:
        return Finding("huge pages", "without", "this kernel has none")
    mode = next((mode.strip("[]") for mode in modes if mode.startswith("[")), "never")
    return Finding("huge pages", "without" if mode == "never" else "ok", mode)


def _kernels() -> Iterator[Finding]:
    from takeoff.models.cpu_features import check_build_cpu

    try:
        check_build_cpu()
    except StartError as exc:
        yield Finding("llama.cpp", "failed", exc.told)
        return
    import importlib.metadata

    from takeoff.engine.llama.backends import has_ours
    from takeoff.engine.llama.library import start_library

    start_library()
    yield Finding("llama.cpp", "ok", f"llama-cpp-python {importlib.metadata.version('llama-cpp-python')}")
    ours = has_ours()
    detail = "products and attention of our own" if ours else "llama.cpp's own only: make setup builds ours"
    yield Finding("native kernels", "ok" if ours else "without", detail)


def _store(root: Path) -> Finding:
    import shutil

    from takeoff.models.store import Store

    existing = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        return Finding("store", "failed", f"{root} can't be written; set TAKEOFF_HOME")
    free = shutil.disk_usage(existing).free
    return Finding("store", "ok", f"{root}: {len(Store(root).list())} models, {free / 1e9:.1f} GB free")


def _sandbox() -> Iterator[Finding]:
    import subprocess

    from takeoff.sandbox.report import try_sandbox

    try:
        report = try_sandbox()
    except (OSError, subprocess.SubprocessError) as exc:
        yield Finding("sandbox", "without", f"a child could not be started: {exc}")
        return
    for part, is_there in report.in_force.parts.items():
        detail = report.missing.get(part, "in force")
        if part == "Landlock" and is_there:
            detail = f"in force, version {report.in_force.landlock}"
        yield Finding(f"sandbox: {part}", "ok" if is_there else "without", detail)


def _ports(settings: Settings) -> Iterator[Finding]:
    from takeoff.http.doors import TITLES
    from takeoff.http.server import listen

    for name, title in TITLES.items():
        port = getattr(settings, name)
        if port is None:
            continue
        try:
            listen(settings.host, port).close()
        except StartError as exc:
            yield Finding(f"port: {title}", "without", exc.message)
        else:
            yield Finding(f"port: {title}", "ok", f"{port} is free")
