"""A native build runs on processors like the one it was made on; another one is told in a line.

Run as a script by the set-up: `list` prints this processor's features, one a line; `stamp-path`
prints where they are kept beside the build. Never imports llama_cpp: on the wrong processor that
import itself may die of SIGILL.
"""

from __future__ import annotations

import importlib.util
import platform
import sys
from pathlib import Path

STAMP_NAME = "takeoff_cpu_features.txt"

# The flags of /proc/cpuinfo that ggml compiles for (ggml/src/ggml-cpu/CMakeLists.txt).
RELEVANT = frozenset(
    ["sse4_2", "avx", "f16c", "avx2", "fma", "bmi2", "avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw", "avx512_vbmi", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16", "asimddp", "i8mm", "sve", "sve2", "sme", "fphp", "asimdhp"]
)


def read_cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The features of this processor that a native build may use; empty where they can't be read."""
    if not cpuinfo.exists():
        return frozenset()
    for line in cpuinfo.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return RELEVANT & frozenset(value.split())
    return frozenset()


def this_machine() -> frozenset[str]:
    """The architecture and the features: what a build made here may depend on."""
    return read_cpu_features() | {platform.machine()}


def stamp_path() -> Path | None:
    """Where the features are kept beside the installed build; None when there is no build."""
    spec = importlib.util.find_spec("llama_cpp")
    return Path(spec.origin).parent / STAMP_NAME if spec and spec.origin else None


def missing_features(stamp: Path, present: frozenset[str]) -> list[str]:
    """What the build at `stamp` was made with and a machine with `present` lacks."""
    return sorted(frozenset(stamp.read_text().split()) - present) if stamp.exists() else []


def check_build_cpu() -> None:
    """Refuse to run a build that was made for another processor.

    Raises:
        StartError: naming the features that this one lacks.
    """
    from takeoff.errors import StartError  # not above: the set-up runs this file before the package is there

    stamp = stamp_path()
    missing = missing_features(stamp, this_machine()) if stamp else []
    if missing:
        raise StartError(
            f"llama.cpp was built for a processor with {', '.join(missing)}, which this one lacks",
            hint="run make setup on this machine",
        )


def main() -> None:
    match sys.argv[1:]:
        case ["list"]:
            sys.stdout.write("".join(f"{name}\n" for name in sorted(this_machine())))
        case ["stamp-path"]:
            sys.stdout.write(f"{stamp_path() or ''}\n")
        case _:
            sys.exit("usage: cpu_features.py list | stamp-path")


if __name__ == "__main__":
    main()
