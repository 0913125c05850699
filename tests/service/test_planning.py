"""Readers that a stranger asks for: files come from the store, from below the folders, or not at all."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from tests.models.tiny_gguf import write_tiny_gguf
from tests.models.vision_files import write_projector

from takeoff.errors import ModelError
from takeoff.ipc.messages import Load
from takeoff.models.store import Store
from takeoff.service.planner import Planner
from takeoff.settings import ReaderSettings

PLENTY = 8_000_000_000  # bytes of memory


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Models that readers may be made of; beside it lies a file that is nobody's business."""
    inside = tmp_path / "models"
    inside.mkdir()
    write_tiny_gguf(inside / "tiny.gguf")
    write_projector(inside / "mmproj.gguf", n_embd=32)
    (tmp_path / "secret").write_text("sesame opens it")
    (inside / "link").symlink_to(tmp_path / "secret")
    return inside


def planner(folder: Path) -> Planner:
    return Planner(Store(folder.parent / "store"), [folder])


def test_a_model_and_its_projector_are_found_below_the_folders(folder: Path) -> None:
    launch = planner(folder)(ReaderSettings(model="tiny.gguf", mmproj=Path("mmproj.gguf")), PLENTY)
    assert isinstance(launch.load, Load)
    assert launch.load.projector_path == str(folder / "mmproj.gguf")


def test_numbers_that_json_does_not_have_are_told_as_text(folder: Path) -> None:
    path = folder / "tiny.gguf"
    epsilon = struct.pack("<f", 1e-5)
    assert path.read_bytes().count(epsilon) == 1
    path.write_bytes(path.read_bytes().replace(epsilon, struct.pack("<f", float("nan"))))
    config = planner(folder)(ReaderSettings(model="tiny.gguf"), PLENTY).config
    assert config["gguf"]["llama.attention.layer_norm_rms_epsilon"] == "nan"
    assert json.loads(json.dumps(config, allow_nan=False)) == config


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "link", "missing.gguf"])
@pytest.mark.parametrize("field", ["model", "mmproj", "lora"])
def test_no_other_file_is_read_and_none_is_told_of(folder: Path, field: str, name: str) -> None:
    settings = {
        "model": ReaderSettings(model=name),
        "mmproj": ReaderSettings(model="tiny.gguf", mmproj=Path(name)),
        "lora": ReaderSettings(model="tiny.gguf", loras={"one": name}),
    }[field]
    with pytest.raises(ModelError, match=r"there is no (model|file) .* below") as refusal:
        planner(folder)(settings, PLENTY)
    assert "sesame" not in refusal.value.told


def test_without_folders_no_file_can_be_named(folder: Path) -> None:
    planner = Planner(Store(folder.parent / "store"), [])
    with pytest.raises(ModelError, match="there is no model"):
        planner(ReaderSettings(model=str(folder / "tiny.gguf")), PLENTY)
