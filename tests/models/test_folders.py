"""Models of several files in the store: whole or absent, each file hashed, described like the others."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from tests.models.hf_folder import external, tiny_graph, write_folder, write_modules
from tests.models.tiny_gguf import write_tiny_gguf
from tests.models.watching import Watching
from tests.models.wheels import use_only

from takeoff.errors import ModelError, PullError
from takeoff.models import disk
from takeoff.models import store as store_module
from takeoff.models.catalogue import CatalogueModel, find_in_catalogue
from takeoff.models.sources import FolderFile, PypiFolderSource, Wheel
from takeoff.models.store import Store
from takeoff.request import Task


@pytest.fixture
def original(tmp_path: Path) -> Path:
    folder = write_folder(tmp_path / "original")
    write_modules(folder, "Transformer", "Pooling", "Normalize")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def write_folder_wheel(packages: Path, package: str, original: Path, names: list[str]) -> Wheel:
    """A wheel that carries some files of a folder."""
    path = packages / f"{package}-1.0-py3-none-any.whl"
    info = f"{package}-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.write(original / name, f"{package}/model/{name}")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    data = path.read_bytes()
    return Wheel(package, "1.0", hashlib.sha256(data).hexdigest(), len(data), f"{package}/model")


def hashed(original: Path, name: str) -> FolderFile:
    data = (original / name).read_bytes()
    return FolderFile(name, len(data), hashlib.sha256(data).hexdigest())


@pytest.fixture
def model(tmp_path: Path, original: Path, monkeypatch: pytest.MonkeyPatch) -> CatalogueModel:
    """The catalogue's only model: a folder, out of two wheels."""
    packages = tmp_path / "packages"
    packages.mkdir()
    use_only(packages, monkeypatch)
    first = ["model.onnx"]
    second = ["tokenizer.json", "config.json", "modules.json", "1_Pooling/config.json"]
    parts = tuple(
        (
            write_folder_wheel(packages, package, original, names),
            tuple(hashed(original, name) for name in names),
        )
        for package, names in (("tinya", first), ("tinyb", second))
    )
    model = CatalogueModel(
        name="tiny",
        title="Tiny",
        source=PypiFolderSource(parts),
        file_name="tiny-folder",
        file_bytes=1,
        num_params=32,
        quantisation="F32",
        context_length=64,
        kv_bytes_per_token=0,
        licence="MIT",
        task=Task.EMBED,
    )
    monkeypatch.setattr(store_module, "find_in_catalogue", lambda name: model)
    return model


def test_a_folder_out_of_two_wheels_is_taken_whole_and_described(
    store: Store, model: CatalogueModel, original: Path
) -> None:
    watching = Watching()
    stored = store.pull("tiny", watching)
    assert stored.path == store.root / "models" / "tiny" / "tiny-folder"
    for file in disk.files_below(original):
        assert (stored.path / file.relative_to(original)).read_bytes() == file.read_bytes()
    assert (stored.task, stored.format, stored.architecture) == (Task.EMBED, "onnx", "bert")
    assert (stored.quantisation, stored.context_length, stored.num_params) == ("F32", 64, 32)
    assert stored.file_bytes == sum(file.stat().st_size for file in disk.files_below(original))
    assert (stored.sha256, stored.revision) == (model.source.sha256, "tinya==1.0+tinyb==1.0")
    assert [label for label, _ in watching.stages] == ["downloading tinya", "unpacking", "checking SHA-256"]
    left = sorted(path.name for path in stored.path.parent.iterdir())
    assert left == [".lock", "model.json", "tiny-folder"]
    assert store.list() == (stored,)
    assert store.pull("tiny") == stored


def test_the_hash_of_a_folder_is_that_of_what_sha256sum_prints(
    store: Store, model: CatalogueModel, original: Path
) -> None:
    stored = store.pull("tiny")
    names = sorted(file.relative_to(original).as_posix() for file in disk.files_below(original))
    lines = "".join(f"{hashlib.sha256((original / n).read_bytes()).hexdigest()}  {n}\n" for n in names)
    assert stored.sha256 == hashlib.sha256(lines.encode()).hexdigest()


def test_one_file_of_another_hash_leaves_nothing(
    store: Store, model: CatalogueModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first, files), second = model.source.parts
    wrong = replace(model, source=PypiFolderSource(((first, (replace(files[0], sha256="0" * 64),)), second)))
    monkeypatch.setattr(store_module, "find_in_catalogue", lambda name: wrong)
    with pytest.raises(PullError, match=f"expected {wrong.source.sha256}"):
        store.pull("tiny")
    assert store.list() == ()
    assert [path.name for path in (store.root / "models" / "tiny").iterdir()] == [".lock"]


def test_a_folder_that_is_no_model_leaves_nothing(
    store: Store, model: CatalogueModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_the_network = replace(model, source=PypiFolderSource(model.source.parts[:1]))
    monkeypatch.setattr(store_module, "find_in_catalogue", lambda name: only_the_network)
    with pytest.raises(ModelError, match=r"has no tokenizer\.json"):
        store.pull("tiny")
    assert [path.name for path in (store.root / "models" / "tiny").iterdir()] == [".lock"]


def test_a_folder_that_lost_or_gained_a_file_is_pulled_again(store: Store, model: CatalogueModel) -> None:
    stored = store.pull("tiny")
    (stored.path / "config.json").unlink()
    assert store.list() == ()
    assert store.pull("tiny") == replace(stored, pulled_at=store.list()[0].pulled_at)
    (stored.path / "2_Dense").mkdir()
    (stored.path / "2_Dense" / "config.json").write_text("{}")
    assert store.list() == ()
    assert len(disk.files_below(store.pull("tiny").path)) == 5
    os.truncate(stored.path / "model.onnx", 10)
    assert store.list() == ()


def test_what_a_killed_pull_left_of_a_folder_does_not_hinder_the_next(
    store: Store, model: CatalogueModel
) -> None:
    left = store.root / "models" / "tiny" / "tiny-folder.part" / "2_Dense"
    left.mkdir(parents=True)
    (left / "config.json").write_text("{}")
    assert len(disk.files_below(store.pull("tiny").path)) == 5


def test_a_folder_is_used_in_place(store: Store, original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = store.pull(str(original))
    assert (stored.name, stored.path, stored.task, stored.format) == ("original", original, "embed", "onnx")
    assert (stored.sha256, store.list()) == (None, ())
    monkeypatch.chdir(original.parent)
    assert store.pull("original").path == original


def test_a_folder_with_weights_elsewhere_is_refused(store: Store, original: Path) -> None:
    outside = tiny_graph(weight=external("/etc/passwd"))
    (original / "model.onnx").write_bytes(outside.SerializeToString())
    with pytest.raises(ModelError, match="keeps weights in '/etc/passwd'"):
        store.pull(str(original))


def test_an_entry_of_an_older_release_is_still_a_model(store: Store, tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "tiny.gguf")
    stored = store.pull((tmp_path / "tiny.gguf").as_uri())
    path = stored.path.parent / "model.json"
    entry = json.loads(path.read_text())
    for name in ("task", "format", "files"):
        del entry[name]
    path.write_text(json.dumps(entry))
    assert store.list() == (stored,)
    assert (stored.task, stored.format) == (Task.GENERATE, "gguf")


def test_the_catalogues_minilm_is_what_it_says(minilm_path: Path) -> None:
    stored = next(model for model in Store(minilm_path.parents[2]).list() if model.name == "minilm")
    known = find_in_catalogue("minilm")
    assert known is not None
    assert (stored.path, stored.sha256) == (minilm_path, known.source.sha256)
    assert (stored.task, stored.format, stored.architecture) == (known.task, "onnx", "bert")
    assert (stored.quantisation, stored.context_length) == (known.quantisation, known.context_length)
    assert (stored.num_params, stored.file_bytes) == (known.num_params, known.file_bytes)
