"""Real weights for every test that wants them, from the user's own model store."""

from __future__ import annotations

from pathlib import Path

import pytest

from takeoff.engine.spinning import bound_spinning
from takeoff.models.requantise import requantise
from takeoff.models.store import Store
from takeoff.models.stored import in_place
from takeoff.models.variants import Recipe, variant_model
from takeoff.settings import Settings


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cluster", action="store_true", help="run the clients' tests against a Ray cluster of this machine"
    )


def pytest_configure() -> None:
    """Engines in the tests' own process spin no longer than those in a process of their own."""
    bound_spinning()


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """SmolLM2-135M-Instruct, Q4_1: the default model."""
    return Store(Settings().store).pull("smollm2").path


@pytest.fixture(scope="session")
def gemma_path() -> Path:
    """gemma-3-270m, Q4_K_M: sliding windows, another vocabulary and no chat template."""
    return Store(Settings().store).pull("gemma-3-270m").path


@pytest.fixture(scope="session")
def gemma_q8_path(gemma_path: Path, pytestconfig: pytest.Config) -> Path:
    """The same in Q8_0, whose kernels give the same bits however a prompt is cut."""
    return _in_q8_0(gemma_path, pytestconfig)


@pytest.fixture(scope="session")
def smollm2_q8_path(smollm2_path: Path, pytestconfig: pytest.Config) -> Path:
    """The default model as `serve` runs it where Q4_1 is slow."""
    return _in_q8_0(smollm2_path, pytestconfig)


@pytest.fixture(scope="session")
def minilm_path() -> Path:
    """all-MiniLM-L6-v2, its weights in INT8: a folder of the HF layout."""
    return Store(Settings().store).pull("minilm").path


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """What `pytest.mark.anyio` runs coroutine tests on: the loop that the server has."""
    return "asyncio"


def _in_q8_0(path: Path, config: pytest.Config) -> Path:
    """A variant of a model: made in seconds, and kept with what pytest keeps from run to run."""
    assert config.cache is not None, "tests are run with pytest's cache"
    model, home = in_place(path), config.cache.mkdir("weights")
    variant = requantise(model, Recipe("Q8_0", "Q8_0"), home, threads=2)
    return variant_model(model, home, variant).path
