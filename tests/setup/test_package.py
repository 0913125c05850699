"""The wheel and the sdist, each installed into an empty environment: by pip and by uv."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests
from tests.setup.shell import ROOT

LIMIT_S = 300  # against hanging only


def run(*command: str | Path, **environ: str) -> str:
    """The output of a command that must succeed."""
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=LIMIT_S, check=False, env=os.environ | environ
    )
    assert ran.returncode == 0, f"{command}: {ran.stdout}{ran.stderr}"
    return ran.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel and an sdist of this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-d", folder)
    return folder


@pytest.fixture(scope="module")
def native_wheel() -> Path:
    """llama-cpp-python as the set-up has built it for this machine."""
    script = f'source "{ROOT}/setup.sh"; remember_cmake_args; native_folder'
    folder = Path(run("bash", "-c", script).strip())
    (wheel,) = folder.glob("llama_cpp_python-*.whl")
    return wheel


@pytest.fixture(scope="module")
def constraints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The locked versions, without the hashes: those of the native part are of its source."""
    pins = re.findall(r"^(\S+==[^\\\n]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    path = tmp_path_factory.mktemp("constraints") / "constraints.txt"
    path.write_text("\n".join(pins) + "\n")
    return path


@pytest.fixture(scope="module")
def installed(
    built: Path, native_wheel: Path, constraints: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of the programs of an environment in which pip installed the wheel."""
    folder = tmp_path_factory.mktemp("by_pip")
    run(sys.executable, "-m", "venv", folder)
    (wheel,) = built.glob("*.whl")
    pip = (folder / "bin" / "python", "-m", "pip")
    run(*pip, "install", "-q", "--no-compile", "-c", constraints, native_wheel, wheel)
    run(*pip, "check")
    return folder / "bin"


def test_wheel_and_sdist_hold_the_pages_the_licence_and_nothing_of_the_tests(built: Path) -> None:
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    names = zipfile.ZipFile(wheel).namelist()
    sources = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src/takeoff").rglob("*")}
    wanted = {name for name in sources if "__pycache__" not in name and (ROOT / "src" / name).is_file()}
    assert wanted <= set(names)
    assert {"takeoff/http/web/chat.html", "takeoff/http/web/vendor/swagger-ui/LICENSE"} <= wanted
    assert any(name.endswith("licenses/LICENSE") for name in names)
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"src/{name}" for name in wanted} | {"LICENSE", "README.md"} <= packed
    assert not [name for name in [*names, *packed] if name.startswith("tests")]


@pytest.fixture(scope="module")
def served(installed: Path, smollm2_path: Path) -> Iterator[str]:
    """The address of a server that the installed command runs."""
    environ = {name: text for name, text in os.environ.items() if not name.startswith("TAKEOFF_")}
    flags = ("--model", smollm2_path, "--max-slots", "1", "--context", "256", "--prefix-cache-mb", "0")
    doors = [text for name in ("port", "takeoff-port", "management-port") for text in (f"--{name}", "0")]
    process = subprocess.Popen(
        [installed / "takeoff", "serve", *flags, *doors, "--openai-port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        env=environ | {"COLUMNS": "200", "NO_COLOR": "1"},
    )
    assert process.stderr is not None
    try:
        said = ""
        for line in process.stderr:
            said += line
            if line.startswith("ready at "):
                yield line.split()[2]
                break
        else:
            pytest.fail(f"it ended before it was ready: {said}")
    finally:
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait(LIMIT_S)
        process.stderr.close()
        psutil.wait_procs(children, timeout=10)


def test_the_wheel_that_pip_installed_helps_and_lists_models(installed: Path) -> None:
    told = run(installed / "takeoff", "--help")
    assert "Turn this machine into a private LLM server" in told
    where = run(installed / "python", "-c", "import takeoff; print(takeoff.__file__)")
    assert str(installed.parent) in where


def test_the_wheel_that_pip_installed_serves_text_and_pages(served: str) -> None:
    body = {"text": "hi", "generate_max_length": 16}
    answer = requests.post(f"{served}/generate", json=body, timeout=LIMIT_S)
    assert answer.json()["message"].endswith("How can I assist you today?")
    for page in ("/demos/chat", "/demos/playground", "/docs"):
        shown = requests.get(f"{served}{page}", timeout=LIMIT_S)
        assert shown.status_code == 200
        assert "<html" in shown.text


def test_uv_installs_the_sdist(built: Path, native_wheel: Path, constraints: Path, tmp_path: Path) -> None:
    uv = Path(run(ROOT / "setup.sh", "client", "uv").strip()) / "bin" / "uv"
    (sdist,) = built.glob("*.tar.gz")
    environment = tmp_path / "by_uv"
    run(uv, "venv", "-q", "--python", sys.executable, environment)
    python = environment / "bin" / "python"
    run(uv, "pip", "install", "-q", "--python", python, "-c", constraints, native_wheel, sdist)
    assert "Turn this machine into a private LLM server" in run(environment / "bin" / "takeoff", "--help")
