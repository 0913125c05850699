"""Runs the Dockerfile's instructions one by one in chroots, where no Docker daemon can run.

    python packaging/rehearse.py build FOLDER         needs root and debootstrap; makes FOLDER/0, FOLDER/1
    python packaging/rehearse.py run FOLDER [ARG...]  the last stage's entry point, as its user

It knows the instructions that our Dockerfile has and refuses any other. The base image is what
debootstrap makes of the suite: larger than the image of that name, as it keeps manuals and locales.
A chroot has the host's network and processes: it shows that the steps work, not how Docker isolates.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

CONTEXT = Path(__file__).parents[1]
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class Stage:
    """One FROM and what follows it."""

    root: Path
    environ: dict[str, str] = field(default_factory=lambda: {"PATH": PATH, "HOME": "/root"})
    folder: str = "/"
    user: str = "0"
    entrypoint: list[str] = field(default_factory=list)

    def chroot(self, command: list[str], **environ: str) -> list[str]:
        """The command line that runs `command` inside."""
        words = [f"{name}={value}" for name, value in (self.environ | environ).items()]
        user, _, group = self.user.partition(":")
        spec = f"--userspec={user}:{group or '0'}"
        inside = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', self.folder, *command]
        return ["chroot", spec, str(self.root), "/usr/bin/env", "-i", *words, *inside]


def instructions(text: str) -> list[tuple[str, str]]:
    """Name and argument of each instruction, with continued lines joined."""
    lines = re.sub(r"\\\n", " ", text).splitlines()
    words = [line.split(maxsplit=1) for line in lines if line.strip() and not line.startswith("#")]
    return [(name, argument) for name, argument in words]


def build(folder: Path) -> None:
    """Follow the Dockerfile; a stage's root is FOLDER/0, FOLDER/1, ..."""
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    for name, argument in instructions((CONTEXT / "Dockerfile").read_text()):
        print(f"--- {name} {argument}", flush=True)
        if name == "FROM":
            stage = _from(argument, folder, stages)
            continue
        assert stage is not None, "an instruction before the first FROM"
        match name:
            case "RUN":
                # What this machine needs to reach its package index; no part of the image.
                pip = {key: value for key, value in os.environ.items() if key.startswith("PIP_")}
                pip |= {"PIP_CERT": "/run/certificates.crt", "DEBIAN_FRONTEND": "noninteractive"}
                subprocess.run(stage.chroot(["/bin/sh", "-ec", argument], **pip), check=True)
            case "COPY":
                _copy(argument, stage, stages)
            case "WORKDIR":
                stage.folder = argument
                (stage.root / argument.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "ENV":
                stage.environ |= {
                    key: value.replace("$PATH", PATH)
                    for key, value in (word.split("=", 1) for word in argument.split())
                }
            case "USER":
                stage.user = argument
            case "ENTRYPOINT":
                stage.entrypoint = json.loads(argument)
            case "EXPOSE":
                pass
            case _:
                sys.exit(f"rehearse.py doesn't know {name}")
    assert stage is not None, "the Dockerfile has no FROM"
    last = stage.__dict__ | {"root": str(stage.root)}
    (folder / "last.json").write_text(json.dumps(last, indent=1) + "\n")


def _from(argument: str, folder: Path, stages: dict[str, Stage]) -> Stage:
    match = re.fullmatch(r"debian:(\w+)-slim(?: AS (\w+))?", argument)
    assert match is not None, f"not a Debian image: {argument}"
    suite, name = match.groups()
    base = folder / f"debian-{suite}"
    if not base.exists():
        partial = folder / f"debian-{suite}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        subprocess.run(["debootstrap", "--variant=minbase", suite, str(partial)], check=True)
        partial.rename(base)
    root = folder / str(len(stages))
    shutil.rmtree(root, ignore_errors=True)
    subprocess.run(["cp", "-a", str(base), str(root)], check=True)
    shutil.copy(CERTIFICATES, root / "run/certificates.crt")
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    stage = stages[name or str(len(stages))] = Stage(root)
    return stage


def _copy(argument: str, stage: Stage, stages: dict[str, Stage]) -> None:
    *sources, target = argument.split()
    origin = CONTEXT
    if sources[0].startswith("--from="):
        origin = stages[sources.pop(0).removeprefix("--from=")].root
    to = stage.root / os.path.normpath(f"{stage.folder}/{target}").lstrip("/")
    for source in sources:
        path = origin / source.lstrip("/")
        if path.is_dir():
            shutil.copytree(path, to, symlinks=True, dirs_exist_ok=True)
        else:
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, to / path.name if target.endswith("/") else to)


def run(folder: Path, arguments: list[str]) -> None:
    """Become the container's process."""
    told = json.loads((folder / "last.json").read_text())
    stage = Stage(**told | {"root": Path(told["root"])})
    given = {key: value for key, value in os.environ.items() if key.startswith(("TAKEOFF_", "PIP_"))}
    given["PIP_CERT"] = "/run/certificates.crt"
    command = stage.chroot([*stage.entrypoint, *arguments], **given)
    mounts = 'for name in proc sys; do mount --rbind "/$name" "$0/$name"; done; exec "$@"'  # end with it
    os.execvp("unshare", ["unshare", "--mount", "/bin/sh", "-ec", mounts, str(stage.root), *command])


def main() -> None:
    match sys.argv[1:]:
        case ["build", folder]:
            build(Path(folder).resolve())
        case ["run", folder, *arguments]:
            run(Path(folder).resolve(), arguments)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
