"""Real weights for every test that wants them, from the user's own model store."""

from __future__ import annotations

from pathlib import Path

import pytest

from takeoff.engine.spinning import bound_spinning
from takeoff.models.requantise import requantise
from takeoff.models.store import Store
from takeoff.models.variants import Recipe, variant_model
from takeoff.settings import Settings


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
def gemma_q8_path() -> Path:
    """The same in Q8_0, whose kernels give the same bits however a prompt is cut. Made once, in seconds."""
    return _in_q8_0("gemma-3-270m")


@pytest.fixture(scope="session")
def smollm2_q8_path() -> Path:
    """The default model as `serve` runs it where Q4_1 is slow."""
    return _in_q8_0("smollm2")


@pytest.fixture(scope="session")
def minilm_path() -> Path:
    """all-MiniLM-L6-v2, its weights in INT8: a folder of the HF layout."""
    return Store(Settings().store).pull("minilm").path


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """What `pytest.mark.anyio` runs coroutine tests on: the loop that the server has."""
    return "asyncio"


def _in_q8_0(name: str) -> Path:
    """A variant in the user's own store, made once, in seconds."""
    home = Settings().store
    model = Store(home).pull(name)
    variant = requantise(model, Recipe("for-tests-Q8_0", "Q8_0"), home, threads=2)
    return variant_model(model, home, variant).path
