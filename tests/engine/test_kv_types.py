"""Every type of the KV cache that a reader may name, on real weights."""

from __future__ import annotations

import logging
import re
import typing
from pathlib import Path

import llama_cpp
import pytest
from tests.engine.real import RealEngine

from takeoff.errors import SettingsError
from takeoff.models.gguf import read_gguf
from takeoff.models.machine import Machine
from takeoff.models.plan import make_plan
from takeoff.request import SamplingParams
from takeoff.settings import ReaderSettings
from takeoff.settings.fields import KvType

MACHINE = Machine(cores=2, memory_total_bytes=8 << 30, memory_available_bytes=8 << 30)
KV_LINE = re.compile(r"llama_kv_cache: size = +([\d.]+) MiB")
GREEDY = SamplingParams(temperature=0.0, max_new_tokens=6, seed=0)


@pytest.fixture(scope="module")
def prompt(smollm2_path: Path) -> list[int]:
    llm = llama_cpp.Llama(str(smollm2_path), vocab_only=True, verbose=False)
    token_ids = llm.tokenize(b"The capital of France is", add_bos=True)
    llm.close()
    return list(token_ids)


@pytest.mark.parametrize("kv_type", typing.get_args(KvType))
def test_it_takes_the_bytes_that_were_planned_and_knows_the_capital(
    smollm2_path: Path, prompt: list[int], kv_type: KvType, caplog: pytest.LogCaptureFixture
) -> None:
    settings = ReaderSettings(kv_type=kv_type, max_slots=2, context=512)
    plan = make_plan(read_gguf(smollm2_path), settings, MACHINE)
    assert (plan.kv_type, plan.flash_attention) == (kv_type, True)
    with caplog.at_level(logging.DEBUG, "takeoff.engine.llama.library"):
        real = RealEngine(smollm2_path, n_slots=2, n_ctx_slot=512, kv_type=kv_type)
    try:
        told = sum(float(found[1]) for found in map(KV_LINE.search, caplog.messages) if found)
        assert plan.kv_bytes / 2**20 == pytest.approx(told, abs=0.006), "to llama.cpp's two decimals"
        real.complete(1, prompt, GREEDY)
        assert real.text(1).startswith(" Paris")
        real.complete(2, prompt, GREEDY)
        assert real.text(2) == real.text(1), "from a snapshot of such a cache"
    finally:
        real.close()


def test_a_quantised_cache_without_flash_attention_is_refused_by_name(smollm2_path: Path) -> None:
    model = read_gguf(smollm2_path)
    with pytest.raises(
        SettingsError, match="--kv-type q8_0 needs flash attention, and --deterministic rules"
    ):
        make_plan(model, ReaderSettings(kv_type="q8_0", deterministic=True), MACHINE)
    with pytest.raises(SettingsError, match="and --flash-attention off rules it out"):
        make_plan(model, ReaderSettings(kv_type="q4_0", flash_attention="off"), MACHINE)
    assert make_plan(model, ReaderSettings(kv_type="bf16", flash_attention="off"), MACHINE).kv_bytes > 0


def test_a_head_that_is_no_whole_number_of_blocks_is_refused(smollm2_path: Path) -> None:
    model = read_gguf(smollm2_path)
    model.metadata["llama.attention.key_length"] = 40
    with pytest.raises(SettingsError, match="comes in blocks of 32, and a head of this model has 40 keys"):
        make_plan(model, ReaderSettings(kv_type="q8_0"), MACHINE)
