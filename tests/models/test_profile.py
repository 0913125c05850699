"""A profile counts for the weights, machine and build that it was made with, and for no others."""

import json

import msgspec
import pytest
from tests.models.tiny_gguf import write_tiny_gguf

from takeoff.models.machine import Machine
from takeoff.models.profile import (
    Figures,
    Profile,
    Speed,
    engine_build,
    find_profile,
    forget_profile,
    read_fingerprint,
    save_profile,
)
from takeoff.models.store import Store
from takeoff.models.stored import in_place
from takeoff.models.variants import (
    Recipe,
    Variant,
    model_place,
    record_variant,
    source_key,
    variants_folder,
)

MACHINE = Machine(cores=2, memory_total_bytes=8 << 30, memory_available_bytes=4 << 30)
HERE = read_fingerprint(MACHINE)


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def model(tmp_path, home):
    write_tiny_gguf(tmp_path / "tiny.gguf")
    return Store(home).pull((tmp_path / "tiny.gguf").as_uri())


def make_profile(model, **values):
    figures = Figures(speeds=(Speed(1, 100.0, 110.0), Speed(8, 200.0, 400.0)), kl=0.004, perplexity_ratio=1.0)
    facts = {"source": source_key(model), "fingerprint": HERE, "goal": "throughput", "sentence": "faster"}
    return Profile(**facts | {"figures": figures} | values)


def found(model, home, fingerprint=HERE):
    notes = []
    return find_profile(model, home, fingerprint, notes.append), notes


def test_a_profile_comes_back_as_it_was_saved(model, home):
    assert found(model, home) == (None, [])
    profile = make_profile(model, threads=2, ubatch=256, flash_attention="on", kv_type="q8_0")
    save_profile(model, home, profile)
    profiled, notes = found(model, home)
    assert notes == []
    assert profiled.model == model
    assert msgspec.structs.replace(profiled.profile, made_at="") == profile
    assert profiled.profile.made_at.startswith("20")
    assert profiled.profile.settings == {
        "threads": 2,
        "ubatch": 256,
        "flash_attention": "on",
        "kv_type": "q8_0",
    }
    forget_profile(model, home)
    assert found(model, home) == (None, [])
    assert Store(home).list() == (model,)


@pytest.mark.parametrize(
    ("fingerprint", "why"),
    [
        ({"cores": 4}, "it was made with 2 cores and 8 GiB, and here are 4 and 8"),
        ({"memory_gib": 64}, "it was made with 2 cores and 8 GiB, and here are 2 and 64"),
        ({"cpu_features": ("avx2",)}, "it was made on another processor"),
        ({"engine_build": "llama-cpp-python 9"}, "it was made with another build of the engine"),
    ],
)
def test_a_profile_of_another_machine_is_told_and_not_used(model, home, fingerprint, why):
    save_profile(model, home, make_profile(model, threads=2))
    elsewhere = msgspec.structs.replace(HERE, **fingerprint)
    assert found(model, home, elsewhere) == (None, [f"the profile of {model.name} is not used: {why}"])


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-20],
        lambda text: text.replace('"threads": 2', '"threads": 0'),
        lambda text: text.replace('"threads": 2', '"threads": "two"'),
        lambda text: text.replace('"goal"', '"gaol"'),
        lambda text: text.replace('"flash_attention": "on"', '"flash_attention": "yes"'),
        lambda _text: "[]",
        lambda _text: "\0" * 300_000,
    ],
)
def test_a_damaged_profile_is_told_and_not_used(model, home, damage):
    save_profile(model, home, make_profile(model, threads=2, flash_attention="on"))
    path = model_place(model, home) / "profile.json"
    damaged = damage(path.read_text())
    assert damaged != path.read_text()
    path.write_text(damaged)
    profile, notes = found(model, home)
    assert profile is None
    assert len(notes) == 1
    assert notes[0].startswith(f"the profile of {model.name} is not used: it is damaged (")


def test_weights_must_be_there_and_whole(model, home):
    folder = variants_folder(model_place(model, home))
    folder.mkdir()
    data = write_tiny_gguf(folder / "same.gguf")
    recipe = Recipe("F32", "F32")
    record_variant(folder, Variant("same.gguf", recipe, source_key(model), "same" * 4, len(data), "F32", ""))

    def notes_of(weights, sha256):
        save_profile(model, home, make_profile(model, weights=weights, weights_sha256=sha256))
        profiled, notes = found(model, home)
        if profiled is not None:
            assert profiled.model.path == folder / weights
            assert profiled.model.name == model.name
        return [note.removeprefix(f"the profile of {model.name} is not used: ") for note in notes]

    assert notes_of("same.gguf", "samesamesamesame") == []
    assert notes_of("same.gguf", "0" * 64) == ["its weights, same.gguf, are gone or others"]
    assert notes_of("none.gguf", "0" * 64) == ["its weights, none.gguf, are gone or others"]
    assert notes_of("../../model.json", "0" * 64) == ["its weights, ../../model.json, are gone or others"]
    (folder / "same.gguf").write_bytes(data[:-1])
    assert notes_of("same.gguf", "samesamesamesame") == ["its weights, same.gguf, are gone or others"]


def test_a_file_in_place_has_its_profile_until_it_changes(tmp_path, home):
    path = tmp_path / "mine.gguf"
    write_tiny_gguf(path)
    model = in_place(path)
    save_profile(model, home, make_profile(model, threads=1))
    assert found(in_place(path), home)[0].profile.threads == 1
    assert json.loads((model_place(model, home) / "profile.json").read_text())["threads"] == 1
    write_tiny_gguf(path, 32_768)
    assert found(in_place(path), home) == (
        None,
        ["the profile of mine is not used: it was made for other weights of that name"],
    )


def test_the_build_is_told_by_its_version_and_stamp(tmp_path):
    assert engine_build().startswith("llama-cpp-python ")
    assert engine_build() == HERE.engine_build
