"""What a search makes and deletes, with real weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from takeoff.models.machine import read_machine
from takeoff.models.optimize.lab import Lab
from takeoff.models.profile import Profile, read_fingerprint, save_profile
from takeoff.models.requantise import requantise
from takeoff.models.store import Store
from takeoff.models.stored import StoredModel
from takeoff.models.variants import (
    Recipe,
    discard_other_variants,
    list_variants,
    model_place,
    source_key,
)
from takeoff.settings import load_settings

KEPT, TRIED = Recipe("opt-Q8_0", "Q8_0"), Recipe("opt-Q4_0", "Q4_0")


@pytest.fixture
def model(smollm2_path: Path, tmp_path: Path) -> StoredModel:
    """The default model in a store of its own."""
    return Store(tmp_path).pull(smollm2_path.as_uri())


def recipes(model: StoredModel, home: Path) -> list[Recipe]:
    return [variant.recipe for variant in list_variants(model_place(model, home))]


def test_what_serve_uses_outlives_a_search_that_ends_early(model: StoredModel, tmp_path: Path) -> None:
    machine = read_machine()
    variant = requantise(model, KEPT, tmp_path, machine.cores)
    profile = Profile(
        source_key(model), read_fingerprint(machine), "throughput", "as it was", weights=variant.file
    )
    save_profile(model, tmp_path, profile)
    with Lab(model, tmp_path, load_settings({"home": tmp_path}), machine, (1,)) as lab:
        for recipe in (KEPT, TRIED):
            assert lab.weights(recipe).path.is_file()
        assert set(recipes(model, tmp_path)) == {KEPT, TRIED}
        lab.drop_all_but(None)
    assert recipes(model, tmp_path) == [KEPT]
    discard_other_variants(model_place(model, tmp_path), None)
    assert recipes(model, tmp_path) == []
