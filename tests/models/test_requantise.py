"""Real weights, requantised by llama.cpp in its own process."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from tests.models.watching import Watching

from takeoff.errors import ModelError, PullError
from takeoff.models import disk
from takeoff.models.gguf import read_gguf
from takeoff.models.requantise import most_bytes, requantise
from takeoff.models.store import Store
from takeoff.models.stored import in_place
from takeoff.models.variants import (
    Recipe,
    find_variant,
    list_variants,
    model_place,
    variant_model,
    variants_folder,
)


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def model(smollm2_path, home):
    """The default model in a store of its own."""
    return Store(home).pull(smollm2_path.as_uri())


def types_of(path: Path) -> dict[str, str]:
    return {tensor.name: tensor.type_name for tensor in read_gguf(path).tensors}


def test_a_variant_is_made_once_checked_and_found_again(model, home):
    watching = Watching()
    variant = requantise(model, Recipe("Q8_0", "Q8_0", pure=True), home, 2, watching)

    served = variant_model(model, home, variant)
    assert served.path == model.path.parent / "variants" / f"{model.path.stem}.Q8_0.gguf"
    assert (served.name, served.quantisation) == (model.name, "Q8_0")
    assert served.file_bytes == served.path.stat().st_size == variant.file_bytes
    assert served.file_bytes <= most_bytes(read_gguf(model.path), variant.recipe)
    assert served.sha256 == hashlib.sha256(served.path.read_bytes()).hexdigest()
    matrices = {kind for name, kind in types_of(served.path).items() if "norm" not in name}
    assert matrices == {"Q8_0"}
    assert [label for label, _ in watching.stages] == [f"making Q8_0 of {model.name}", "hashing"]
    assert max(watching.reports) == variant.file_bytes
    assert len(watching.reports) > 100, "told of every tensor"

    made = served.path.stat().st_mtime_ns
    assert requantise(model, variant.recipe, home, 2) == variant
    assert served.path.stat().st_mtime_ns == made, "found, not made again"
    assert list_variants(model_place(model, home)) == (variant,)
    assert find_variant(model, home, variant.file) == variant
    assert find_variant(replace(model, sha256="0" * 64), home, variant.file) is None, "other weights"

    assert Store(home).list() == (model,), "a variant is no model of its own"
    served.path.write_bytes(served.path.read_bytes()[:-1])
    assert find_variant(model, home, variant.file) is None, "no longer whole"


def test_types_by_tensor_and_a_file_in_place(smollm2_path, home):
    model = in_place(smollm2_path)
    recipe = Recipe("mixed", "Q8_0", tensor_types=((r"^blk\.0\.ffn_down", "Q4_1"), ("ffn_down", "Q4_0")))
    variant = requantise(model, recipe, home, 2)
    served = variant_model(model, home, variant)
    types = types_of(served.path)
    assert served.path.is_relative_to(home / "in-place")
    assert types["blk.0.ffn_down.weight"] == "Q4_1"
    assert types["blk.1.ffn_down.weight"] == "Q4_0"
    assert types["blk.1.ffn_up.weight"] == "Q8_0"
    before, after = smollm2_path.read_bytes(), served.path.read_bytes()
    name = "blk.0.ffn_down.weight"
    assert tensor_bytes(smollm2_path, before, name) == tensor_bytes(served.path, after, name), "copied"


def tensor_bytes(path: Path, data: bytes, name: str) -> bytes:
    gguf = read_gguf(path)
    start = len(data) - max(tensor.offset + tensor.num_bytes for tensor in gguf.tensors)
    start -= start % -32
    found = next(tensor for tensor in gguf.tensors if tensor.name == name)
    return data[start + found.offset :][: found.num_bytes]


def test_what_llama_cpp_refuses_leaves_nothing_and_is_told(model, home):
    recipe = Recipe("tiny", "Q8_0", tensor_types=((r"^blk\.0\.ffn_down", "IQ2_XXS"),))
    with pytest.raises(ModelError, match=r"llama\.cpp could not make tiny of .*importance matrix"):
        requantise(model, recipe, home, 2)
    assert {path.name for path in variants_folder(model_place(model, home)).iterdir()} == {".lock"}


def test_a_disk_without_room_and_a_type_that_is_none_are_refused(model, home, monkeypatch):
    monkeypatch.setattr(disk, "_free_bytes", lambda _folder: 100 << 20)
    with pytest.raises(PullError, match=r"needs \d+ MB in .*variants, 105 MB are free"):
        requantise(model, Recipe("Q8_0", "Q8_0"), home, 2)
    with pytest.raises(ModelError, match="no weight format Q8_9"):
        Recipe("Q8_9", "Q8_9")
    with pytest.raises(ModelError, match="can't be the name"):
        Recipe("../Q8_0", "Q8_0")
