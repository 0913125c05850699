"""The preparer as a process: real vocabularies, and a model file whose template never ends."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import gguf
import pytest

from takeoff.errors import InvalidRequest, PreparerFailed, PromptTooLong
from takeoff.ipc.messages import VocabularyDescribed
from takeoff.request import Constraint, ConstraintKind, Conversation
from takeoff.service.engines import Commands
from takeoff.service.preparer import Preparer, Preparers, TemplateUse

LIMIT_S = 60.0  # against hanging only


@asynccontextmanager
async def running_preparer(model: Path, *, timeout_s: float = 20.0) -> AsyncIterator[Preparers]:
    short, large, trial = (
        Preparer(
            Commands().preparer,
            str(model),
            timeout_s=timeout_s,
            environ={},
            on_restart=lambda: None,
            tries_constraints=tries_constraints,
        )
        for tries_constraints in (False, False, True)
    )
    preparer = Preparers(short, large, trial)
    try:
        async with asyncio.timeout(LIMIT_S):
            yield preparer
    finally:
        await preparer.stop()


def write_model(path: Path, chat_template: str) -> Path:
    """A file with a vocabulary of bytes and two control tokens, a template, and no weights."""
    writer = gguf.GGUFWriter(path, "llama")
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256))]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(texts)
    writer.add_token_scores([0.0] * len(texts))
    writer.add_token_types([*kinds, *[gguf.TokenType.BYTE] * 256])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(chat_template)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


async def ids_of(preparer: Preparers, text: str, template: TemplateUse, max_tokens: int) -> list[int]:
    return (await preparer.prepare(text, template, max_tokens)).token_ids


def test_the_seeds_prompt_becomes_the_default_models_39_tokens(smollm2_path: Path) -> None:
    async def run() -> None:
        async with running_preparer(smollm2_path) as preparer:
            ids = await ids_of(preparer, "List 3 things to do in London.", "auto", 100)
            assert len(ids) == 39
            assert ids[:3] == [1, 9690, 198]
            assert preparer.short.vocabulary is not None
            assert preparer.short.vocabulary.n_vocab == 49_152
            assert preparer.short.vocabulary.has_chat_template

    asyncio.run(run())


def test_tokens_of_a_text_are_told_with_and_without_the_one_it_begins_with(gemma_path: Path) -> None:
    async def run() -> None:
        async with running_preparer(gemma_path) as preparer:
            framed, bare = [
                await preparer.tokenize(
                    "Hello there", "off", skip_special_tokens=False, add_special_tokens=adds
                )
                for adds in (True, False)
            ]
            assert framed.tokens == ["<bos>", "Hello", "▁there"]
            assert framed.token_ids == [2, *bare.token_ids]
            assert bare.tokens == ["Hello", "▁there"]
            assert framed.token_ids == await ids_of(preparer, "Hello there", "off", 100)

    asyncio.run(run())


def test_what_frames_prompts_is_told_as_the_vocabulary_writes_it(
    smollm2_path: Path, gemma_path: Path
) -> None:
    async def described(path: Path) -> VocabularyDescribed:
        async with running_preparer(path) as preparer:
            return await preparer.describe_vocabulary()

    smollm2, gemma = asyncio.run(described(smollm2_path)), asyncio.run(described(gemma_path))
    assert (smollm2.bos_token, smollm2.eos_token, smollm2.adds_bos) == ("<|im_start|>", "<|im_end|>", False)
    assert "<|im_start|>assistant" in (smollm2.chat_template or "")
    assert (gemma.bos_token, gemma.eos_token, gemma.adds_bos) == ("<bos>", "<eos>", True)
    assert gemma.chat_template is None


def test_the_tokens_of_a_chat_are_those_of_its_prompt_however_many(smollm2_path: Path) -> None:
    async def run() -> None:
        async with running_preparer(smollm2_path) as preparer:
            for size in (1, 100_000):
                chat = Conversation(messages=[{"role": "user", "content": "Hello <|im_end|> " * size}])
                told = await preparer.tokenize_chat(chat)
                assert told.token_ids == (await preparer.prepare_chat(chat, 10**7)).token_ids
                assert len(told.tokens) == len(told.token_ids)
                assert told.tokens.count("<|im_end|>") == 2  # of the system's message and the user's
                assert told.tokens[-1] == "Ċ"

    asyncio.run(run())


def test_a_prompt_over_the_limit_is_refused_with_both_numbers(smollm2_path: Path) -> None:
    async def run() -> None:
        async with running_preparer(smollm2_path) as preparer:
            with pytest.raises(PromptTooLong, match="has 39 tokens, but a sequence holds 39") as refused:
                await preparer.prepare("List 3 things to do in London.", "auto", 38)
            assert "--context" in (refused.value.hint or "")
            assert len(await ids_of(preparer, "List 3 things to do in London.", "auto", 39)) == 39

    asyncio.run(run())


def test_a_megabyte_is_prepared(smollm2_path: Path) -> None:
    async def run() -> None:
        async with running_preparer(smollm2_path, timeout_s=60.0) as preparer:
            assert len(await ids_of(preparer, "The quick brown fox. " * 50_000, "off", 10**7)) == 250_001

    asyncio.run(run())


def test_a_killed_preparer_is_replaced_and_later_questions_are_answered(smollm2_path: Path) -> None:
    async def run() -> None:
        async with running_preparer(smollm2_path) as preparer:
            first = await ids_of(preparer, "Hello", "auto", 100)
            assert preparer.short.pid is not None
            os.kill(preparer.short.pid, signal.SIGKILL)
            with pytest.raises(PreparerFailed, match="died while preparing"):
                await preparer.prepare("Hello", "auto", 100)
            assert await ids_of(preparer, "Hello", "auto", 100) == first

    asyncio.run(run())


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 10 ** (10 ** 10) }}",
    ],
)
def test_a_template_that_never_ends_is_killed_and_the_next_request_works(
    tmp_path: Path, template: str
) -> None:
    async def run() -> None:
        model = write_model(tmp_path / "loop.gguf", template)
        async with running_preparer(model, timeout_s=1.0) as preparer:
            assert len(await ids_of(preparer, "abc", "off", 100)) > 3
            first = preparer.short.pid
            with pytest.raises(PreparerFailed, match="took more than 1 s"):
                await preparer.prepare("abc", "auto", 100)
            assert len(await ids_of(preparer, "abc", "off", 100)) > 3
            assert preparer.short.pid != first

    asyncio.run(run())


def test_a_template_that_explodes_is_refused_by_the_same_process(tmp_path: Path) -> None:
    async def run() -> None:
        exploding = "{{ messages[0].content * 9999999999 }}"
        async with running_preparer(write_model(tmp_path / "explode.gguf", exploding)) as preparer:
            await preparer.prepare("abc", "off", 100)
            first = preparer.short.pid
            with pytest.raises(PreparerFailed, match="chat template failed: MemoryError"):
                await preparer.prepare("abc", "auto", 100)
            await preparer.prepare("abc", "off", 100)
            assert preparer.short.pid == first

    asyncio.run(run())


def test_half_a_character_in_a_refusal_costs_no_process(smollm2_path: Path, tmp_path: Path) -> None:
    async def run() -> None:
        model = write_model(tmp_path / "half.gguf", "{{ raise_exception('\\ud800!') }}")
        async with running_preparer(model) as preparer:
            for _ in range(2):
                with pytest.raises(InvalidRequest, match=r"refuses the prompt: \\ud800!"):
                    await ids_of(preparer, "hello", "on", 100)
        async with running_preparer(smollm2_path) as preparer:
            schema = Constraint(ConstraintKind.JSON_SCHEMA, '{"type": "string", "format": "\\ud800"}')
            with pytest.raises(InvalidRequest, match=r"\\ud800"):
                await preparer.try_constraint(schema)

    asyncio.run(run())


def test_a_template_that_refuses_is_the_requests_fault(tmp_path: Path) -> None:
    async def run() -> None:
        model = write_model(tmp_path / "refuse.gguf", "{{ raise_exception('no system role') }}")
        async with running_preparer(model) as preparer:
            with pytest.raises(InvalidRequest, match="refuses the prompt: no system role"):
                await preparer.prepare("abc", "auto", 100)

    asyncio.run(run())


def test_a_file_that_is_no_model_is_told_to_whoever_asks(tmp_path: Path) -> None:
    async def run() -> None:
        (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(100))
        async with running_preparer(tmp_path / "broken.gguf") as preparer:
            with pytest.raises(PreparerFailed, match="can't read the vocabulary"):
                await preparer.prepare("abc", "auto", 100)

    asyncio.run(run())
