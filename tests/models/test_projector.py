"""Projector files: what is read of a good one, and what is said of those that are not."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
from tests.models.tiny_gguf import write_tiny_gguf
from tests.models.vision_files import write_projector

from takeoff.errors import ModelError
from takeoff.models.gguf import GgufFile, read_gguf
from takeoff.models.projector import read_projector


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> GgufFile:
    path = tmp_path_factory.mktemp("base") / "tiny.gguf"
    write_tiny_gguf(path)
    return read_gguf(path)


def write_head(path: Path, **changes: object) -> Path:
    """The head of a projector, with some values changed or, where None, left out."""
    values: dict[str, object] = {
        "projector_type": "mlp",
        "has_vision_encoder": True,
        "vision.image_size": 56,
        "vision.patch_size": 7,
        "vision.embedding_length": 64,
        "vision.feed_forward_length": 128,
        "vision.block_count": 2,
        "vision.projection_dim": 32,
        "vision.attention.head_count": 2,
        "vision.image_mean": [0.5, 0.5, 0.5],
        "vision.image_std": [0.5, 0.5, 0.5],
    } | {name.replace("__", "."): value for name, value in changes.items()}
    writer = gguf.GGUFWriter(str(path), "clip")
    for name, value in values.items():
        key = f"clip.{name}"
        match value:
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case str():
                writer.add_string(key, value)
            case list():
                writer.add_array(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_a_projector_that_fits_tells_its_size(tmp_path: Path, base: GgufFile) -> None:
    path = write_projector(tmp_path / "mmproj.gguf", n_embd=base.n_embd)
    projector = read_projector(path, base)
    assert projector.kind == "mlp"
    assert projector.num_bytes == read_gguf(path).tensor_bytes > 300_000
    assert projector.compute_bytes == 4 * 64 * (4 * 64 + 2 * 128 + 2 * 64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"has_vision_encoder": None}, "has no part for images"),
        ({"has_vision_encoder": False}, "has no part for images"),
        ({"projector_type": None}, "says clip.projector_type = None"),
        ({"vision__projection_dim": 48}, "makes vectors of 48 numbers; tiny takes 32"),
        ({"vision__image_size": 0}, "image_size = 0; 1 to 16384 is possible"),
        ({"vision__image_size": 2**31}, "image_size = 2147483648"),
        ({"vision__patch_size": 57}, "patch_size = 57; 1 to 56 is possible"),
        ({"vision__attention__head_count": 0}, "head_count = 0"),
        ({"vision__block_count": 2**32 - 1}, "block_count = 4294967295"),
        ({"vision__image_mean": [0.5]}, "three numbers are needed"),
        ({"vision__image_std": None}, "three numbers are needed"),
    ],
)
def test_a_head_that_makes_no_sense_is_refused_by_name(
    tmp_path: Path, base: GgufFile, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelError, match=message) as refusal:
        read_projector(write_head(tmp_path / "mmproj.gguf", **changes), base)
    assert "mmproj" in refusal.value.told


def test_a_language_model_is_no_projector(base: GgufFile) -> None:
    with pytest.raises(ModelError, match="is no projector"):
        read_projector(base.path, base)


def test_half_a_file_is_refused(tmp_path: Path, base: GgufFile) -> None:
    path = write_projector(tmp_path / "mmproj.gguf", n_embd=base.n_embd)
    half = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(half)
    with pytest.raises(ModelError, match="ends at byte"):
        read_projector(path, base)
