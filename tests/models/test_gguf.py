"""Whatever a model file says, reading it ends in facts or in one ModelError."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from takeoff.errors import ModelError
from takeoff.models.gguf import GgufFile, read_gguf
from takeoff.request import Task


def small_file() -> bytes:
    """One F32 tensor of 8 elements and a few facts, by hand."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 3)
    head += text("general.architecture") + struct.pack("<I", 8) + text("llama")
    head += text("llama.context_length") + struct.pack("<II", 4, 128)
    head += text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")
    head += text("weight") + struct.pack("<IQIQ", 1, 8, 0, 0)
    return head + bytes(-len(head) % 32) + bytes(32)


SMALL = small_file()


def write(folder: Path, data: bytes) -> Path:
    path = folder / "model.gguf"
    path.write_bytes(data)
    return path


def read(data: bytes, folder: Path) -> object:
    return read_gguf(write(folder, data))


def test_the_facts_of_a_small_file(tmp_path: Path) -> None:
    path = tmp_path / "small.gguf"
    path.write_bytes(SMALL)
    model = read_gguf(path)
    assert (model.architecture, model.context_length, model.n_vocab) == ("llama", 128, 2)
    assert (model.n_params, model.tensor_bytes, model.quantisation) == (8, 32, "F32")


def test_the_facts_of_the_real_models(smollm2_path: Path, gemma_path: Path) -> None:
    smollm2, gemma = read_gguf(smollm2_path), read_gguf(gemma_path)
    assert (smollm2.architecture, smollm2.quantisation, smollm2.context_length) == ("llama", "Q4_1", 8192)
    assert (smollm2.n_layers, smollm2.n_kv_heads, smollm2.n_vocab) == (30, 3, 49_152)
    assert smollm2.n_params == 134_515_008
    assert (gemma.architecture, gemma.quantisation, gemma.sliding_window) == ("gemma3", "Q4_K_M", 512)
    assert (gemma.n_vocab, gemma.has_chat_template) == (262_144, False)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "begins with b''"),
        (b"PK\x03\x04rest", "a zip archive"),
        (SMALL[: len(SMALL) // 2], "ends at byte"),
        (SMALL[:-1], "ends at byte"),
        (SMALL[:8] + struct.pack("<Q", 2**60) + SMALL[16:], f"{2**60} tensors"),
        (SMALL[:16] + struct.pack("<Q", 2**60) + SMALL[24:], f"{2**60} metadata entries"),
        (SMALL[:4] + struct.pack("<I", 9) + SMALL[8:], "version 9"),
        (SMALL[:4] + struct.pack(">I", 3) + SMALL[8:], "big-endian"),
    ],
)
def test_a_damaged_file_is_told_what_is_wrong_with_it(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(ModelError, match=words.replace("(", r"\(")) as error:
        read(data, tmp_path)
    assert "model.gguf" in error.value.message


@pytest.mark.parametrize(
    ("metadata", "task"),
    [
        ({"general.architecture": "llama"}, Task.GENERATE),
        ({"general.architecture": "bert"}, Task.EMBED),
        ({"general.architecture": "qwen3", "qwen3.pooling_type": 3}, Task.EMBED),
        ({"general.architecture": "qwen3", "qwen3.pooling_type": 0}, Task.GENERATE),
        ({"general.architecture": "bert", "bert.pooling_type": 4}, Task.CLASSIFY),
    ],
)
def test_the_header_tells_what_a_model_does(metadata: dict[str, object], task: Task) -> None:
    assert GgufFile(Path("m.gguf"), 1, metadata, {}, ()).task is task


@pytest.mark.parametrize("said", [[7], {}, "7", 7.0, None])
def test_a_file_type_that_is_no_number_leaves_it_to_the_weights(tmp_path: Path, said: object) -> None:
    model = read_gguf(write(tmp_path, SMALL))
    assert replace(model, metadata={"general.file_type": said}).quantisation == "F32"


def test_a_model_without_weights_is_refused(tmp_path: Path) -> None:
    model = replace(read_gguf(write(tmp_path, SMALL)), tensors=())
    with pytest.raises(ModelError, match=r"^model\.gguf has no tensors$"):
        _ = model.quantisation


def test_what_a_file_says_of_itself_is_cut_in_its_error(tmp_path: Path) -> None:
    key = b"k" * 60_000
    entry = struct.pack("<Q", len(key)) + key + struct.pack("<I", 99)
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + entry
    with pytest.raises(ModelError, match="has a value of unknown type 99 at 'kkk") as error:
        read(head, tmp_path)
    assert len(error.value.message) < 600


def test_what_is_not_a_regular_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        read_gguf(tmp_path)
    with pytest.raises(ModelError, match="No such file"):
        read_gguf(tmp_path / "missing.gguf")


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(SMALL) - 1), st.binary(min_size=1, max_size=9), st.integers(0, len(SMALL)))
def test_any_mutation_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, new: bytes, length: int
) -> None:
    data = (SMALL[:at] + new + SMALL[at + len(new) :])[:length]
    path = tmp_path_factory.getbasetemp() / "mutated.gguf"
    path.write_bytes(data)
    try:
        model = read_gguf(path)
    except ModelError:
        return
    assert model.tensor_bytes <= len(data)
