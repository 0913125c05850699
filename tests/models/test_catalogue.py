import pytest

from takeoff.models.catalogue import CATALOGUE, DEFAULT_MODEL, find_in_catalogue, largest_that_fits
from takeoff.models.sources import check_store_name
from takeoff.settings import Settings


def test_names_are_unique_and_fit_the_store():
    names = [model.name for model in CATALOGUE]
    assert len(set(names)) == len(names)
    for name in names:
        check_store_name(name)
        assert find_in_catalogue(name.upper()).name == name


def test_the_default_of_serve_is_the_default_of_pull():
    assert Settings().model == DEFAULT_MODEL
    assert find_in_catalogue(DEFAULT_MODEL).file_bytes == 98_362_432


def test_at_least_four_larger_models_are_permissive():
    larger = [m for m in CATALOGUE if 0.5e9 < m.num_params <= 8.2e9 and m.licence == "Apache-2.0"]
    assert [m.name for m in larger] == ["qwen3-0.6b", "smollm2-1.7b", "qwen3-1.7b", "qwen3-4b", "qwen3-8b"]


def test_a_model_with_terms_of_its_own_says_so():
    assert "Gemma Terms of Use" in find_in_catalogue("gemma-3-270m").terms


@pytest.mark.parametrize(
    ("memory_gb", "name"),
    [(0.5, None), (1, "gemma-3-270m"), (4, "qwen3-1.7b"), (6, "qwen3-4b"), (64, "qwen3-8b")],
)
def test_the_largest_model_that_fits_is_found(memory_gb, name):
    found = largest_that_fits(CATALOGUE, int(memory_gb * 1e9))
    assert (found.name if found else None) == name


def test_decode_is_limited_by_reading_the_weights_once_per_token():
    model = find_in_catalogue("qwen3-8b")
    assert model.decode_tokens_per_s(model.file_bytes * 20.0) == 20.0
