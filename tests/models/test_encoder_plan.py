"""The plan of an encoder: what it is told, what it takes, and the refusals with their numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.models.hf_folder import write_folder, write_json

from takeoff.errors import PlanError
from takeoff.models.encoder import EncoderModel, read_encoder
from takeoff.models.encoder_plan import batch_tokens, make_encoder_plan
from takeoff.models.machine import Machine
from takeoff.settings import ReaderSettings

GB = 10**9


def plan(model: EncoderModel, *, memory: float = 8 * GB, **settings: Any) -> Any:
    return make_encoder_plan(model, ReaderSettings(**settings), Machine(4, int(memory), int(memory)))


@pytest.fixture
def model(tmp_path: Path) -> EncoderModel:
    write_folder(tmp_path, max_position_embeddings=512)
    write_json(tmp_path / "sentence_bert_config.json", {"max_seq_length": 256})
    return read_encoder(tmp_path)


def test_the_plan_of_a_small_model_by_hand(model: EncoderModel) -> None:
    made = plan(model)
    assert (made.n_threads, made.max_batch_size, made.max_tokens) == (4, 32, 256)
    assert made.weights_bytes == model.file_bytes
    tokens = 4 * 128
    assert made.compute_bytes == 4 * tokens * (8 * 4 + 2 * 8) + 8 * 1 * tokens * 256
    assert any("32 texts at once" in line for line in made.lines())


def test_what_was_named_is_kept(model: EncoderModel) -> None:
    made = plan(model, max_slots=5, context=512, threads=1)
    assert (made.n_threads, made.max_batch_size, made.max_tokens) == (1, 5, 512)


def test_memory_is_planned_for_a_text_longer_than_what_several_share_a_call_of(model: EncoderModel) -> None:
    assert batch_tokens(3) == 384
    made = plan(model, context=512, threads=3)
    assert made.compute_bytes == 4 * 512 * (8 * 4 + 2 * 8) + 8 * 1 * 512 * 512


def test_more_positions_than_there_are_is_refused(model: EncoderModel) -> None:
    with pytest.raises(PlanError, match="--context 513 is more than the 512 tokens") as refused:
        plan(model, context=513)
    assert refused.value.hint == "--context 512"


def test_too_little_memory_is_refused_with_both_numbers(model: EncoderModel) -> None:
    with pytest.raises(PlanError, match=r"needs \d+ MB, and there are 100 MB"):
        plan(model, memory=0.1 * GB)
    with pytest.raises(PlanError, match="and there are 50 MB"):
        plan(model, memory_gb=0.05)
