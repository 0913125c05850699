"""The memory plan: pure arithmetic over a model's shape, the settings and the machine."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from takeoff.errors import PlanError, SettingsError
from takeoff.models.gguf import GgufFile, Tensor
from takeoff.models.gpu import HOST_BYTES
from takeoff.models.machine import Machine
from takeoff.models.plan import make_plan
from takeoff.settings import Settings

GB = 10**9


def model(
    *, layers: int = 30, width: int = 576, heads: int = 9, kv_heads: int = 3, size: int = 97_000_000
) -> GgufFile:
    """A Llama of this shape; the defaults are SmolLM2-135M's."""
    metadata = {
        "general.architecture": "llama",
        "general.name": "m",
        "llama.context_length": 8192,
        "llama.block_count": layers,
        "llama.embedding_length": width,
        "llama.feed_forward_length": 1536,
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": kv_heads,
    }
    weights = (Tensor("token_embd.weight", "Q4_1", (width, 49_152), 0, size),)
    return GgufFile(Path("m.gguf"), size, metadata, {"tokenizer.ggml.tokens": 49_152}, weights)


def machine(memory: float, *, gpu: float | None = None) -> Machine:
    return Machine(4, int(memory), int(memory), None if gpu is None else int(gpu))


def test_the_plan_of_the_default_model_by_hand() -> None:
    plan = make_plan(model(), Settings(max_slots=32, context=2048), machine(24 * GB))
    assert (plan.n_slots, plan.n_ctx_slot, plan.n_threads) == (32, 2048, 4)
    assert plan.kv_bytes == 32 * 2048 * 30 * 3 * (64 + 64) * 2
    assert plan.weights_bytes == 97_000_000
    assert plan.fits
    assert any("32 slots of 2048 tokens" in line for line in plan.lines())


def test_little_memory_takes_length_first_then_slots_and_context_last() -> None:
    roomy = make_plan(model(), Settings(), machine(24 * GB))
    plain = make_plan(model(), Settings(), machine(8 * GB))
    tight = make_plan(model(), Settings(), machine(4 * GB))
    tighter = make_plan(model(), Settings(), machine(3 * GB))
    least = make_plan(model(), Settings(), machine(1.8 * GB))
    assert roomy.slots == ((16, 4096), (4, 8192))
    assert plain.slots == ((16, 2048), (4, 8192))
    assert tight.slots == ((16, 1024), (2, 8192))
    assert tighter.slots == ((8, 1024), (1, 8192))
    assert least.slots == ((1, 2048),)
    assert roomy.total_bytes <= roomy.available_bytes / 4
    assert all(plan.total_bytes <= plan.available_bytes / 2 for plan in (plain, tight))
    assert least.fits


def test_what_was_named_is_kept_or_refused_with_the_numbers_and_a_setting_that_fits() -> None:
    with pytest.raises(PlanError) as refused:
        make_plan(model(), Settings(max_slots=64, context=8192), machine(1.5 * GB))
    assert "64 slots of 8192 tokens" in refused.value.message
    assert "1,500 MB" in refused.value.message
    assert "--max-slots" in str(refused.value.hint)


def test_by_default_a_request_may_be_as_long_as_the_model_can_at_no_more_memory() -> None:
    plan = make_plan(model(), Settings(), machine(8 * GB))
    alike = make_plan(model(), Settings(long_slots=0), machine(8 * GB))
    assert (plan.n_slots, plan.n_ctx_slot) == (16, 8192)
    assert (alike.n_slots, alike.n_ctx_slot) == (16, 4096)
    assert plan.kv_bytes == alike.kv_bytes == 16 * 4096 * 30 * 3 * (64 + 64) * 2
    assert plan.total_bytes < 1.02 * alike.total_bytes
    assert any("16 slots of 2048 tokens, 4 of 8192" in line for line in plan.lines())
    assert plan.cache_bytes + plan.parking_bytes == alike.cache_bytes + alike.parking_bytes == 512 << 20
    assert plan.parking_bytes == 128 << 20


def test_with_memory_to_spare_no_text_waits_that_would_not_if_all_slots_were_alike() -> None:
    """16 of 4,096 tokens, as without longer ones, and these beside them: for half as much cache again."""
    plan = make_plan(model(), Settings(), machine(24 * GB))
    alike = make_plan(model(), Settings(long_slots=0), machine(24 * GB))
    assert plan.slots == (*alike.slots, (4, 8192))
    assert plan.kv_bytes == 1.5 * alike.kv_bytes
    assert round(plan.total_bytes / 1e6) == 3_295
    all_long = make_plan(model(), Settings(context=8192), machine(24 * GB))
    assert plan.kv_bytes == 0.75 * all_long.kv_bytes
    long_context = model()
    long_context.metadata["llama.context_length"] = 131_072
    assert make_plan(long_context, Settings(), machine(24 * GB)).slots == ((16, 4096), (1, 32_768))
    assert make_plan(model(), Settings(max_slots=4), machine(24 * GB)).slots == ((4, 4096), (1, 8192))
    assert make_plan(model(), Settings(memory_gb=3.2), machine(24 * GB)).slots == plan.slots
    assert make_plan(model(), Settings(memory_gb=3.1), machine(24 * GB)).slots == ((16, 2048), (4, 8192))


def test_slots_that_would_all_fit_are_all_as_long_as_was_asked() -> None:
    assert make_plan(model(), Settings(context=8192), machine(24 * GB)).slots == ((16, 8192),)
    assert make_plan(model(), Settings(context=8192), machine(4 * GB)).slots == ((16, 1024), (2, 8192))
    assert make_plan(model(), Settings(context=2048), machine(4 * GB)).slots == ((16, 2048),)


def test_long_slots_are_as_many_as_was_said_beside_the_short_ones() -> None:
    wanted = Settings(max_slots=64, long_slots=2, memory_gb=3)
    assert make_plan(model(), wanted, machine(24 * GB)).slots == ((64, 1024), (2, 8192))
    less = Settings(max_slots=64, long_slots=2, memory_gb=2.1)
    assert make_plan(model(), less, machine(24 * GB)).slots == ((64, 512), (2, 8192))
    with pytest.raises(PlanError, match="64 slots of 2048 tokens, 2 of 8192 needs"):
        make_plan(model(), Settings(max_slots=64, long_slots=2, memory_gb=1), machine(24 * GB))


def test_a_context_of_each_length_has_buffers_of_its_own() -> None:
    plan = make_plan(model(), Settings(long_slots=4, max_slots=16), machine(24 * GB))
    both = [4 * 512 * (4 * 576 + 2 * 1536) + 2 * size * 512 + 2 * 4 * 20 * 49_152 for _, size in plan.slots]
    assert plan.compute_bytes == sum(both)


def test_a_model_that_keeps_more_than_keys_and_values_has_slots_of_one_length() -> None:
    recurrent = model()
    recurrent.metadata["llama.ssm.state_size"] = 16
    assert make_plan(recurrent, Settings(), machine(24 * GB)).slots == ((16, 4096),)
    with pytest.raises(PlanError, match="--long-slots 2: the state of this model can't move") as refused:
        make_plan(recurrent, Settings(long_slots=2), machine(24 * GB))
    assert refused.value.hint == "--long-slots 0"


def test_a_model_larger_than_the_machine_is_refused_with_the_catalogue() -> None:
    with pytest.raises(PlanError) as refused:
        make_plan(model(size=9 * GB), Settings(), machine(4 * GB))
    assert "takeoff models --available" in str(refused.value.hint)


@settings(max_examples=100, deadline=None)
@given(
    layers=st.integers(1, 80),
    kv_heads=st.sampled_from([1, 2, 4, 8]),
    size=st.integers(10**6, 6 * GB),
    memory=st.integers(GB // 2, 16 * GB),
    slots=st.none() | st.integers(1, 256),
    context=st.none() | st.integers(64, 8192),
)
def test_a_refusals_hint_is_a_setting_that_fits(
    layers: int, kv_heads: int, size: int, memory: int, slots: int | None, context: int | None
) -> None:
    shape = model(layers=layers, width=64 * 8, heads=8, kv_heads=kv_heads, size=size)
    wanted: dict[str, Any] = {"max_slots": slots, "context": context}
    try:
        plan = make_plan(shape, Settings(**wanted), machine(memory))
    except PlanError as refused:
        hint = str(refused.hint)
        found = re.match(r"--max-slots (\d+) --context (\d+) --prefix-cache-mb 0 would fit", hint)
        assume(found is not None)  # nothing fits at all: another test
        assert found is not None
        fitting = Settings(max_slots=int(found[1]), context=int(found[2]), prefix_cache_mb=0)
        plan = make_plan(shape, fitting, machine(memory))
        assert (plan.n_slots, plan.n_ctx_slot) == (int(found[1]), int(found[2]))
    else:
        assert slots in (None, plan.n_slots)
        assert context is None or 0 <= plan.n_ctx_slot - context < 256
    assert plan.fits


def test_a_context_beyond_the_models_is_refused() -> None:
    with pytest.raises(PlanError, match="more than the 8192 tokens") as refused:
        make_plan(model(), Settings(context=9000), machine(24 * GB))
    assert refused.value.hint == "--context 8192"


def test_flash_attention_and_deterministic_contradict_each_other() -> None:
    with pytest.raises(SettingsError, match="only where its bits can be relied on"):
        make_plan(model(), Settings(deterministic=True, flash_attention="on"), machine(24 * GB))
    exact, off, plain = (
        make_plan(model(), Settings(**named), machine(24 * GB))
        for named in ({"deterministic": True}, {"flash_attention": "off"}, {})
    )
    assert (exact.flash_attention, off.flash_attention, plain.flash_attention) == (True, False, True)
    assert exact.compute_bytes == off.compute_bytes > plain.compute_bytes, "it may have to go without"


def test_speculation_has_room_for_the_logits_of_its_drafts_where_it_is_on() -> None:
    few, many = Settings(max_slots=2, context=2048), Settings(max_slots=32, context=2048)
    on = make_plan(model(), few, machine(24 * GB))
    assert (on.speculation, on.n_outputs) == (True, 16)
    off = make_plan(model(), few.model_copy(update={"speculation": "off"}), machine(24 * GB))
    assert (off.speculation, off.n_outputs) == (False, 2)
    assert on.compute_bytes - off.compute_bytes == 2 * 14 * 49_152 * 4
    assert make_plan(model(), many, machine(24 * GB)).n_outputs == 32
    exact = make_plan(model(), few.model_copy(update={"deterministic": True}), machine(24 * GB))
    assert (exact.speculation, exact.n_outputs) == (False, 2)


def test_layers_go_to_a_gpu_as_far_as_they_fit() -> None:
    assert make_plan(model(), Settings(), machine(24 * GB)).n_gpu_layers == 0
    assert make_plan(model(), Settings(), machine(24 * GB, gpu=8 * GB)).n_gpu_layers == 31
    some = make_plan(model(size=9 * GB), Settings(), machine(24 * GB, gpu=8 * GB)).n_gpu_layers
    assert 0 < some < 31
    assert make_plan(model(), Settings(gpu_layers=5), machine(24 * GB, gpu=8 * GB)).n_gpu_layers == 5
    with pytest.raises(PlanError, match="no GPU was found"):
        make_plan(model(), Settings(gpu_layers=5), machine(24 * GB))


def test_the_device_decides_whether_a_gpu_is_used() -> None:
    assert make_plan(model(), Settings(device="cpu"), machine(24 * GB, gpu=8 * GB)).n_gpu_layers == 0
    assert make_plan(model(), Settings(device="cuda"), machine(24 * GB, gpu=8 * GB)).n_gpu_layers == 31
    with pytest.raises(PlanError, match="device cuda: no GPU was found"):
        make_plan(model(), Settings(device="cuda"), machine(24 * GB))
    without = replace(machine(24 * GB), gpu_missing="this llama.cpp was built without CUDA")
    assert make_plan(model(), Settings(), without).n_gpu_layers == 0
    with pytest.raises(PlanError, match=r"device cuda: this llama\.cpp was built without CUDA") as caught:
        make_plan(model(), Settings(device="cuda"), without)
    assert caught.value.hint is not None
    assert "CMAKE_ARGS=-DGGML_CUDA=on" in caught.value.hint


def test_what_is_on_the_gpu_is_planned_there_and_not_here() -> None:
    few = Settings(max_slots=16, context=4096, standby="off")
    here = make_plan(model(), few, machine(24 * GB))
    there = make_plan(model(), few, machine(24 * GB, gpu=8 * GB))
    assert (there.weights_bytes, there.kv_bytes) == (0, 0)
    assert there.gpu is not None
    assert (there.gpu.weights_bytes, there.gpu.kv_bytes) == (here.weights_bytes, here.kv_bytes)
    assert here.total_bytes - there.total_bytes == here.weights_bytes + here.kv_bytes - HOST_BYTES
    assert there.lines()[-1].endswith("MB   31 of 31 layers, of 8,000 MB there are")
    some = make_plan(
        model(), Settings(max_slots=16, context=4096, gpu_layers=11), machine(24 * GB, gpu=8 * GB)
    )
    assert some.kv_bytes == here.kv_bytes - here.kv_bytes * 10 // 30


def test_layers_on_the_gpu_come_before_longer_slots() -> None:
    roomy = make_plan(model(), Settings(), machine(24 * GB, gpu=80 * GB))
    tight = make_plan(model(), Settings(), machine(24 * GB, gpu=2 * GB))
    assert roomy.slots == ((16, 4096), (4, 8192))
    assert (roomy.n_gpu_layers, tight.n_gpu_layers) == (31, 31)
    assert tight.kv_bytes < roomy.gpu_bytes / 2
    assert tight.gpu is not None
    assert tight.gpu.fits


def test_what_was_asked_for_on_the_gpu_and_does_not_fit_there_is_refused() -> None:
    with pytest.raises(
        PlanError, match=r"31 of 31 layers of m need .* on the GPU, and 1,000 MB are free there"
    ):
        make_plan(model(), Settings(gpu_layers=99, max_slots=32, context=8192), machine(24 * GB, gpu=GB))
    with pytest.raises(PlanError, match="of m not one layer fits into the 100 MB that are free on the GPU"):
        make_plan(model(), Settings(device="cuda"), machine(24 * GB, gpu=0.1 * GB))
    assert make_plan(model(), Settings(), machine(24 * GB, gpu=0.1 * GB)).n_gpu_layers == 0


def test_one_reader_leaves_the_next_less_of_both_memories() -> None:
    left = machine(24 * GB, gpu=8 * GB).without(4 * GB, 3 * GB)
    assert (left.memory_available_bytes, left.gpu_free_bytes) == (20 * GB, 5 * GB)
    assert machine(24 * GB).without(4 * GB, 0).gpu_free_bytes is None
