"""Adapters on real weights: each changes the text, and as much in company as alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import pytest
from tests.engine.real import RealEngine
from tests.engine.test_real_model import reference_greedy, smollm2_tokens
from tests.models.lora_files import Q8_0, write_lora

from takeoff.engine.invariance import check_invariance
from takeoff.ipc.messages import Lora
from takeoff.request import FinishReason, SamplingParams

GREEDY = SamplingParams(temperature=0.0, max_new_tokens=32, ignore_eos=True, seed=0)
PROMPTS = ("The capital of France is", "Once upon a time, in a village by the sea,")
STORY = (
    "The old clockmaker had never sold the blue clock in the window. Children asked for its name, sailors "
    "offered silver, and once a duchess sent her coach. He only smiled and wound it every evening. Then"
)
NAMES = ("legal", "medical", "poetry")
ADAPTERS = (None, *NAMES)


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory, smollm2_path: Path) -> list[Lora]:
    """Three adapters of ranks 1, 2 and 4, for different matrices."""
    folder = tmp_path_factory.mktemp("loras")
    targets = [("attn_q", "attn_output"), ("ffn_up", "ffn_down"), ("attn_v", "ffn_gate")]
    return [
        Lora(
            name,
            str(
                write_lora(
                    folder / f"{name}.gguf",
                    smollm2_path,
                    seed=seed,
                    rank=2**seed,
                    strength=0.8,
                    targets=targets[seed],
                )
            ),
        )
        for seed, name in enumerate(NAMES)
    ]


@pytest.fixture(scope="module")
def engine(smollm2_path: Path, loras: list[Lora]) -> Iterator[RealEngine]:
    engine = RealEngine(smollm2_path, n_slots=8, n_ctx_slot=512, loras=loras)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def alone(engine: RealEngine) -> dict[tuple[str | None, str], list[int]]:
    """What each adapter says to each prompt when nothing runs beside it."""
    completions = {}
    for number, (lora, text) in enumerate((lora, text) for lora in ADAPTERS for text in PROMPTS):
        prompt = smollm2_tokens(engine, text)
        completions[lora, text] = engine.complete(number, prompt, GREEDY, tenant=str(number), lora=lora)
    return completions


def test_every_adapter_changes_the_text_in_its_own_way(
    alone: dict[tuple[str | None, str], list[int]],
) -> None:
    for text in PROMPTS:
        completions = [tuple(alone[lora, text]) for lora in ADAPTERS]
        assert len(set(completions)) == 4
        assert all(len(completion) == 32 for completion in completions)


def test_an_adapters_tokens_equal_those_of_llama_cpps_own_loop_with_it(
    engine: RealEngine,
    smollm2_path: Path,
    loras: list[Lora],
    alone: dict[tuple[str | None, str], list[int]],
) -> None:
    for lora in loras:
        llm = llama_cpp.Llama(
            str(smollm2_path), n_ctx=512, n_threads=2, flash_attn=True, verbose=False, lora_path=lora.path
        )
        for text in PROMPTS:
            expected = reference_greedy(llm, smollm2_tokens(engine, text), 32)
            if expected[-1] == llm.token_eos():
                expected.pop()  # ours goes on
            assert len(expected) >= 8
            assert alone[lora.name, text][: len(expected)] == expected
        llm.close()


def test_eight_streams_over_three_adapters_and_none_say_what_each_says_alone(
    engine: RealEngine, alone: dict[tuple[str | None, str], list[int]]
) -> None:
    asked = [(lora, text) for text in PROMPTS for lora in ADAPTERS]
    before = engine.engine.counters.snapshot()
    for number, (lora, text) in enumerate(asked, 100):
        engine.submit(number, smollm2_tokens(engine, text), GREEDY, tenant=str(number), lora=lora)
    engine.run_until_idle()
    after = engine.engine.counters.snapshot()
    decoded = after["decode_tokens"] - before["decode_tokens"]
    calls = after["decode_calls"] - before["decode_calls"]
    assert decoded >= 8 * 31
    assert calls < 0.6 * decoded, "two of each adapter were decoded together"
    for number, case in enumerate(asked, 100):
        assert engine.token_ids(number) == alone[case]
        assert engine.finish_reason(number) is FinishReason.LENGTH


def test_a_prefix_is_reused_with_its_adapter_only_and_changes_nothing(engine: RealEngine) -> None:
    prompt = smollm2_tokens(engine, STORY)
    cold = [
        engine.complete(200 + i, prompt, GREEDY, tenant=f"cold {i}", lora=lora)
        for i, lora in enumerate(ADAPTERS)
    ]
    first = [engine.complete(300 + i, prompt, GREEDY, lora=lora) for i, lora in enumerate(ADAPTERS)]
    again = [engine.complete(400 + i, prompt, GREEDY, lora=lora) for i, lora in enumerate(ADAPTERS)]
    assert [engine.events[300 + i][0].cached_tokens for i in range(4)] == [0] * 4
    assert [engine.events[400 + i][0].cached_tokens for i in range(4)] == [len(prompt) - 1] * 4
    assert first == again == cold
    assert len({tuple(completion) for completion in cold}) == 4


def test_an_adapter_of_scale_zero_says_what_the_model_says(
    smollm2_path: Path, loras: list[Lora], alone: dict[tuple[str | None, str], list[int]]
) -> None:
    none, half = (Lora(f"scaled {scale}", loras[1].path, scale) for scale in (0.0, 0.5))
    engine = RealEngine(smollm2_path, n_slots=1, n_ctx_slot=512, loras=[none, half])
    prompt = smollm2_tokens(engine, PROMPTS[0])
    texts = [engine.complete(i, prompt, GREEDY, lora=lora.name) for i, lora in enumerate((none, half))]
    engine.close()
    assert texts[0] == alone[None, PROMPTS[0]]
    assert texts[1] not in (alone["medical", PROMPTS[0]], texts[0])


def test_deterministic_mode_keeps_its_promise_with_an_adapter_in_q8_0(
    tmp_path: Path, smollm2_path: Path
) -> None:
    path = write_lora(tmp_path / "q8.gguf", smollm2_path, seed=9, rank=32, strength=0.5, kind=Q8_0)
    engine = RealEngine(
        smollm2_path,
        n_slots=8,
        n_ctx_slot=256,
        deterministic=True,
        loras=[Lora("q8", str(path))],
    )
    check_invariance(engine.kernels, ["q8"])
    params = [
        SamplingParams(temperature=0.8, max_new_tokens=24, ignore_eos=True, seed=seed) for seed in range(8)
    ]
    prompts = [smollm2_tokens(engine, PROMPTS[i % 2] * (1 + i)) for i in range(8)]
    lora_of = ["q8" if i % 4 else None for i in range(8)]
    apart = [engine.complete(i, prompts[i], params[i], tenant=f"{i}", lora=lora_of[i]) for i in range(8)]
    for i in range(8):
        engine.submit(100 + i, prompts[i], params[i], lora=lora_of[i])
        engine.engine.step()
    engine.run_until_idle()
    together = [engine.token_ids(100 + i) for i in range(8)]
    engine.close()
    assert together == apart
