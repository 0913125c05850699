"""The faster format that a server runs on is deleted or overwritten, and then its engine dies."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from tests.cli.test_serve import LIMIT_S, SMALL, Server, serving
from tests.e2e.processes import child_of, completion, wait_until
from tests.e2e.test_profiled_start import PROMPT, llama_cpps_own

from takeoff.models.machine import read_machine
from takeoff.models.profile import Profile, read_fingerprint, save_profile
from takeoff.models.requantise import requantise
from takeoff.models.store import Store
from takeoff.models.variants import Recipe, source_key, variant_model


@pytest.fixture
def home(smollm2_path: Path, tmp_path: Path) -> Path:
    """A store whose default model runs by a profile, in Q8_0."""
    made = shutil.ignore_patterns("variants", "profile.json")
    shutil.copytree(smollm2_path.parent, tmp_path / "models" / "smollm2", ignore=made)
    model = Store(tmp_path).pull("smollm2")
    variant = requantise(model, Recipe("Q8_0", "Q8_0"), tmp_path, threads=2)
    profile = Profile(
        source_key(model),
        read_fingerprint(read_machine()),
        "throughput",
        "twice as fast",
        weights=variant_model(model, tmp_path, variant).path.name,
        weights_sha256=variant.sha256,
    )
    save_profile(model, tmp_path, profile)
    return tmp_path


def overwrite(path: Path) -> None:
    """In the middle, where the weights are: it would load, and talk nonsense."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(os.urandom(1 << 20))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def kill_engine(server: Server) -> None:
    engine = child_of(server, "takeoff.engine.process")
    engine.kill()
    wait_until(lambda: not engine.is_running(), "the engine died")


def quantisation(url: str) -> str:
    return str(requests.get(f"{url}/v1/models/smollm2", timeout=LIMIT_S).json()["quantization"])


@pytest.mark.parametrize(
    ("lose", "what"), [(Path.unlink, "is gone"), (overwrite, "was changed"), (cut, "was changed")]
)
def test_the_next_request_is_answered_with_the_models_own_file(
    home: Path, lose: Callable[[Path], None], what: str
) -> None:
    source = next((home / "models" / "smollm2").glob("*.gguf"))
    variant = next((home / "models" / "smollm2" / "variants").glob("*.gguf"))
    with serving("--home", str(home), *SMALL, "--standby=on") as server:
        url = server.wait_ready()
        fast = completion(url, PROMPT, 16)
        assert quantisation(url) == "Q8_0"
        kill_engine(server)
        assert completion(url, PROMPT, 16) == fast, "as long as it is whole the variant is loaded again"
        assert quantisation(url) == "Q8_0"
        lose(variant)
        kill_engine(server)
        child_of(server, "takeoff.prepare.process").kill()
        assert completion(url, PROMPT, 16) == llama_cpps_own(source)
        assert quantisation(url) == "Q4_1"
        server.process.terminate()
        assert server.wait() == 0
    (line,) = (line for line in server.said.splitlines() if str(variant) in line)
    told = f"smollm2: {variant} {what}: smollm2 goes on with {source}. "
    assert line.endswith(f"{told}`takeoff optimize smollm2` makes it again; then restart the server")
