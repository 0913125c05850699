"""A native build runs on processors like the one it was made on; another one is told so in a line.

The set-up runs this file as a script, before the package is installed: `list` prints what a build
made here may depend on, `write FOLDER` stamps a build, `folder` prints where llama_cpp is installed.
It never imports llama_cpp: on the wrong processor that import itself may die of SIGILL.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

STAMP_NAME = "takeoff_build.json"

# What `-march=native` lets the compiler use and ggml has kernels for, by their names in /proc/cpuinfo.
# Source: ggml/src/ggml-cpu/CMakeLists.txt of the llama.cpp we pin; -march of GCC 12 to 14.
_X86_NAMES = """
    sse4_2 avx f16c avx2 fma bmi2 abm bmi1 movbe popcnt avx_vnni avx_vnni_int8 gfni amx_tile amx_int8 amx_bf16
    avx512f avx512cd avx512vl avx512dq avx512bw avx512ifma avx512vbmi avx512_vbmi2 avx512_vnni avx512_bitalg
    avx512_vpopcntdq avx512_bf16 avx512_fp16
"""
_ARM_NAMES = "asimddp asimdhp fphp asimdrdm atomics bf16 i8mm sve sve2 svei8mm svebf16 sme dotprod"
GENERIC_X86 = frozenset(["sse4_2", "avx", "f16c", "avx2", "fma", "bmi2"])  # what GGML_NATIVE=OFF compiles for
RELEVANT = frozenset(_X86_NAMES.split()) | frozenset(_ARM_NAMES.split())


def read_cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The features of this processor that a native build may use; empty where they can't be read."""
    if cpuinfo.exists():
        return _features_of_cpuinfo(cpuinfo.read_text(errors="replace"))
    return _features_of_sysctl() if sys.platform == "darwin" else frozenset()


def _features_of_cpuinfo(text: str) -> frozenset[str]:
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return RELEVANT & frozenset(value.split())
    return frozenset()


def _features_of_sysctl() -> frozenset[str]:
    """macOS: Intel's features by their names there; on Apple silicon those that are 1."""
    listing = subprocess.run(["sysctl", "-a"], capture_output=True, text=True, check=False).stdout
    found: set[str] = set()
    for line in listing.splitlines():
        name, _, value = line.partition(":")
        if name in ("machdep.cpu.features", "machdep.cpu.leaf7_features"):
            found.update(word.lower().replace("avx1.0", "avx").replace(".", "_") for word in value.split())
        elif name.startswith("hw.optional.arm.FEAT_") and value.strip() == "1":
            found.add(name.rpartition("FEAT_")[2].lower())
    return RELEVANT & found


def build_features(cmake_args: str, present: frozenset[str]) -> frozenset[str]:
    """What a build made here uses: all that is present, or llama.cpp's generic set without GGML_NATIVE.

    An option of CMAKE_ARGS that names a family (GGML_AVX512_VNNI, GGML_AMX_TILE) brings that family back.
    With GGML_CPU_ALL_VARIANTS the build has kernels for every processor and chooses at run time.
    """
    options = cmake_args.upper()
    if any(f"GGML_CPU_ALL_VARIANTS={on}" in options for on in ("ON", "1", "TRUE", "YES")):
        return frozenset()
    if not any(f"GGML_NATIVE={off}" in options for off in ("OFF", "0", "FALSE", "NO")):
        return present
    families = [family for family in ("AVX512", "AVX_VNNI", "AMX") if family in options]
    named = {name for name in present if name.upper().startswith(tuple(families))}
    return (present & GENERIC_X86) | named


def write_build_stamp(directory: Path, cmake_args: str = "") -> None:
    """Keep in `directory`, beside a build made on this machine, what the build may depend on."""
    features = sorted(build_features(cmake_args, read_cpu_features()))
    stamp = {"machine": platform.machine(), "cpu_features": features, "cmake_args": cmake_args}
    (directory / STAMP_NAME).write_text(json.dumps(stamp, indent=1) + "\n")


def find_build() -> Path | None:
    """The folder of the installed llama_cpp, found without importing it; None when there is none."""
    spec = importlib.util.find_spec("llama_cpp")
    return Path(spec.origin).parent if spec and spec.origin else None


def check_build_cpu(directory: Path | None = None, present: frozenset[str] | None = None) -> None:
    """Refuse to run a build that was made for another processor.

    Args:
        directory: the folder of llama_cpp; found when not given. One without a stamp was not made by
            our set-up and is not judged.
        present: the features of this processor; read when not given.

    Raises:
        StartError: naming the features that this processor lacks, or a stamp that can't be read.
    """
    directory = directory or find_build()
    if directory is None or not (directory / STAMP_NAME).exists():
        return
    machine, features = _read_stamp(directory / STAMP_NAME)
    if machine != platform.machine():
        raise _refusal(f"llama.cpp was built for {machine}, and this machine is {platform.machine()}")
    missing = sorted(features - (read_cpu_features() if present is None else present))
    if missing:
        raise _refusal(f"llama.cpp was built for a processor with {', '.join(missing)}, which this one lacks")


def _read_stamp(path: Path) -> tuple[str, frozenset[str]]:
    try:
        stamp = json.loads(path.read_text())
        return str(stamp["machine"]), frozenset(map(str, stamp["cpu_features"]))
    except (ValueError, KeyError, TypeError) as error:
        raise _refusal(f"the record of the native build, {path}, is damaged") from error


def _refusal(fact: str) -> Exception:
    from takeoff.errors import StartError  # not above: the set-up runs this file before the package is there

    return StartError(fact, hint="run make setup on this machine")


def main() -> None:
    cmake_args = os.environ.get("CMAKE_ARGS", "")
    match sys.argv[1:]:
        case ["list"]:
            names = build_features(cmake_args, read_cpu_features()) | {platform.machine()}
            sys.stdout.write(" ".join(sorted(names)) + "\n")
        case ["write", folder]:
            write_build_stamp(Path(folder), cmake_args)
        case ["folder"]:
            sys.stdout.write(f"{find_build() or ''}\n")
        case _:
            sys.exit("usage: cpu_features.py list | write FOLDER | folder")


if __name__ == "__main__":
    main()
