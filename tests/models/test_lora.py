"""Whatever an adapter's file says, reading it ends in an adapter that fits its model or in one ModelError."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.models.lora_files import write_lora

from takeoff.errors import ModelError
from takeoff.models.gguf import GgufFile, Tensor, read_gguf
from takeoff.models.lora import MAX_RANK, read_lora

WEIGHTS = {
    "token_embd.weight": (32, 100),
    "output.weight": (32, 100),
    "blk.0.attn_norm.weight": (32,),
    "blk.0.attn_q.weight": (32, 32),
    "blk.0.attn_k.weight": (32, 16),
    "blk.0.ffn_up_exps.weight": (32, 64, 8),
}
Q = "blk.0.attn_q.weight"


def base(architecture: str = "llama", **weights: tuple[int, ...]) -> GgufFile:
    """A model that has these matrices; its file is never opened."""
    tensors = tuple(Tensor(name, "F16", shape, 0, 0) for name, shape in (WEIGHTS | weights).items())
    metadata = {"general.architecture": architecture, "general.name": "the model"}
    return GgufFile(Path("m.gguf"), 0, metadata, {}, tensors)


def write(path: Path, tensors: dict[str, tuple[int, ...]], *, dtype: Any = np.float32, **facts: Any) -> Path:
    """An adapter with tensors of these shapes, given as the file has them: the inner dimension first."""
    values = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 4.0}
    values |= {key.replace("__", "."): value for key, value in facts.items() if key != "architecture"}
    writer = gguf.GGUFWriter(str(path), facts.get("architecture", "llama"))
    for key, value in values.items():
        match value:
            case np.float64():
                writer.add_float64(key, value)
            case float():
                writer.add_float32(key, value)
            case int():
                writer.add_uint32(key, value)
            case str():
                writer.add_string(key, value)
            case list():
                writer.add_array(key, value)
    for name, shape in tensors.items():
        writer.add_tensor(name, np.zeros(shape[::-1], dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def pair(name: str, a: tuple[int, ...], b: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{name}.lora_a": a, f"{name}.lora_b": b}


def test_the_facts_of_adapters_that_fit(tmp_path: Path) -> None:
    tensors = pair(Q, (32, 4), (4, 32)) | pair("blk.0.attn_k.weight", (32, 8), (8, 16))
    lora = read_lora(write(tmp_path / "a.gguf", tensors), base())
    assert (lora.rank, lora.num_bytes) == (8, 4 * (32 * 4 + 4 * 32 + 32 * 8 + 8 * 16))
    embedding = pair("token_embd.weight", (4, 100), (4, 32))
    assert read_lora(write(tmp_path / "b.gguf", embedding), base()).rank == 4
    experts = pair("blk.0.ffn_up_exps.weight", (32, 4, 8), (4, 64, 8))
    assert read_lora(write(tmp_path / "c.gguf", experts), base()).rank == 4


def test_an_adapter_of_the_real_model_fits_it_and_no_other(
    tmp_path: Path, smollm2_path: Path, gemma_path: Path
) -> None:
    path = write_lora(tmp_path / "a.gguf", smollm2_path, seed=1, rank=2, strength=0.1)
    lora = read_lora(path, read_gguf(smollm2_path))
    assert lora.rank == 2
    assert lora.num_bytes == 30 * 4 * 2 * (2 * (576 + 576) + (576 + 192) + 2 * (576 + 1536))
    with pytest.raises(ModelError, match=r"'llama'; an adapter of .* says 'gemma3'"):
        read_lora(path, read_gguf(gemma_path))


GOOD = pair(Q, (32, 4), (4, 32))


@pytest.mark.parametrize(
    ("tensors", "facts", "words"),
    [
        ({}, {}, "has no tensors"),
        (GOOD, {"architecture": "qwen2"}, "general.architecture = 'qwen2'"),
        (GOOD, {"general__type": "model"}, "general.type = 'model'"),
        (GOOD, {"adapter__type": "control_vector"}, "adapter.type = 'control_vector'"),
        (GOOD, {"adapter__type": 7}, "adapter.type = 7"),
        (GOOD, {"adapter__type": "x" * 9_000}, "adapter.type = 'x{400,500}…$"),
        (GOOD, {"adapter__lora__alpha": 4}, "adapter.lora.alpha = 4;"),
        (GOOD, {"adapter__lora__alpha": np.float64(4)}, "adapter.lora.alpha = 4.0; a finite float32"),
        (GOOD, {"adapter__lora__alpha": 0.0}, "adapter.lora.alpha = 0.0"),
        (GOOD, {"adapter__lora__alpha": float("nan")}, "adapter.lora.alpha = nan"),
        (GOOD, {"adapter__lora__alpha": None}, "adapter.lora.alpha = None"),
        (GOOD, {"adapter__alora__invocation_tokens": [1, 2]}, "is an activated LoRA"),
        (GOOD, {"dtype": np.int32}, f"'{Q}.lora_a' in I32, not in BF16, F16, F32, Q8_0"),
        (GOOD | {"blk.0.attn_norm.weight": (32,)}, {}, "'blk.0.attn_norm.weight', which belongs to no pair"),
        ({f"{Q}.lora_a": (32, 4)}, {}, f"only one of {Q}.lora_a and {Q}.lora_b"),
        (pair("blk.9.attn_q.weight", (32, 4), (4, 32)), {}, "'blk.9.attn_q.weight', which is no matrix"),
        (pair("blk.0.attn_norm.weight", (32, 4), (4, 1)), {}, "'blk.0.attn_norm.weight', which is no matrix"),
        (pair(Q, (31, 4), (4, 32)), {}, r"needs \(32, 4, 1, 1\) and \(4, 32, 1, 1\)"),
        (pair(Q, (32, 4), (4, 33)), {}, "shape"),
        (pair(Q, (32, 4), (5, 32)), {}, "shape"),
        (pair(Q, (4, 32), (32, 4)), {}, "shape"),
        (pair(Q, (32, 4, 3), (4, 32, 3)), {}, "shape"),
        (pair("blk.0.ffn_up_exps.weight", (32, 4), (4, 64)), {}, "shape"),
        (pair("token_embd.weight", (4, 100), (5, 32)), {}, "shape"),
        (pair("token_embd.weight", (32, 4), (4, 100)), {}, "shape"),
        (pair(Q, (32, MAX_RANK + 1), (MAX_RANK + 1, 32)), {}, f"rank of {MAX_RANK + 1}"),
    ],
)
def test_an_adapter_that_does_not_fit_is_told_what_is_wrong_with_it(
    tmp_path: Path, tensors: dict[str, tuple[int, ...]], facts: dict[str, Any], words: str
) -> None:
    path = write(tmp_path / "bad.gguf", tensors, **facts)
    with pytest.raises(ModelError, match=words) as error:
        read_lora(path, base())
    assert error.value.message.startswith("bad.gguf ")


def test_the_embedding_of_a_model_that_has_no_output_of_its_own_is_not_adapted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", pair("token_embd.weight", (4, 100), (4, 32)))
    model = base()
    tied = replace(model, tensors=tuple(each for each in model.tensors if each.name != "output.weight"))
    with pytest.raises(ModelError, match="uses as its output, too"):
        read_lora(path, tied)


def test_weights_that_llama_cpp_cannot_adapt_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", GOOD)
    model = base()
    nvfp4 = replace(model, tensors=tuple(replace(each, type_name="NVFP4") for each in model.tensors))
    with pytest.raises(ModelError, match="NVFP4 can't be adapted"):
        read_lora(path, nvfp4)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[: len(data) // 2], "ends at byte"),
        (lambda data: data[:-1], "ends at byte"),
        (lambda data: data[:8] + struct.pack("<Q", 2**60) + data[16:], f"{2**60} tensors"),
        (lambda data: data[:16] + struct.pack("<Q", 2**60) + data[24:], f"{2**60} metadata entries"),
        (lambda data: b"PK\x03\x04" + data, "a zip archive"),
        (lambda data: b"", "begins with b''"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage: Any, words: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(damage(write(path, GOOD).read_bytes()))
    with pytest.raises(ModelError, match=words):
        read_lora(path, base())


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 500), st.binary(min_size=1, max_size=9))
def test_any_mutation_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, new: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated-lora.gguf"
    data = write(path, GOOD).read_bytes()
    path.write_bytes(data[:at] + new + data[at + len(new) :])
    try:
        lora = read_lora(path, base())
    except ModelError:
        return
    assert lora.num_bytes <= len(data)
    assert lora.rank == 4
