"""From a request to what the engine is told: token ids, a grammar, images, a seed, a length that fits."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import secrets
from collections.abc import Collection

from takeoff.errors import InvalidRequest, Overloaded, PromptTooLong
from takeoff.ipc.messages import Prepared, Submit
from takeoff.request import MAX_TOKENS, Conversation, Request, describe, strings_of
from takeoff.service.admission import Admission, Party
from takeoff.service.encodings import CHARACTERS_PER_TOKEN
from takeoff.service.preparer import Preparers, TemplateUse
from takeoff.service.reader import Reader
from takeoff.thoughts import ThoughtStart

MAX_OPEN_IMAGES = 16  # different ones; each has up to 12 MB of pixels until its request ends
MAX_PROMPT_LOGPROBS = 100_000  # with alternatives: all come in one message, some of them at once

logger = logging.getLogger(__name__)


class Intake:
    """Numbers requests and prepares them for a reader."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._request_ids = itertools.count(1)

    async def submit(self, request: Request, reader: Reader) -> Submit:
        """The request in the engine's words.

        Raises:
            InvalidRequest, PromptTooLong: it can never succeed.
            Overloaded: too much waits, or too many images are open.
            PreparerFailed: the prompt could not be prepared.
        """
        if request.images and reader.load.projector_path is None:
            raise InvalidRequest(
                f"the reader {reader.reader_id} reads no images: its model has no projector",
                param="image_data",
                hint="send text only, or serve a vision model with --mmproj",
            )
        prepared = await self._prepare(request, reader, reader.n_ctx_slot - 1)
        grammar = await _tried_grammar(request, reader, prepared.thought)
        if prepared.images and preparers(reader).num_open_images > MAX_OPEN_IMAGES:
            raise Overloaded(
                f"{MAX_OPEN_IMAGES} different images are open, which is the limit",
                retry_after_s=self._admission.retry_after_s,
            )
        token_ids, sampling = prepared.token_ids, request.sampling
        check_prompt_logprobs(request, len(token_ids))
        _check_ids(sampling.logit_bias, reader, "logit_bias")
        room = reader.n_ctx_slot - len(token_ids)
        submit = Submit(
            request_id=next(self._request_ids),
            prompt_token_ids=token_ids,
            sampling=dataclasses.replace(
                sampling,
                max_new_tokens=min(sampling.max_new_tokens or room, room),
                seed=secrets.randbits(63) if sampling.seed is None else sampling.seed,
                constraint=None,  # its grammar goes instead
            ),
            tenant=request.tenant,
            priority=request.priority,
            grammar=grammar,
            lora=_checked_lora(request.lora_id, reader),
            images=prepared.images,
            thought=prepared.thought,
            predicted_token_ids=await _predicted(request, reader, room),
        )
        logger.debug(
            "request %d: %d tokens, %s", submit.request_id, len(token_ids), describe(submit.sampling)
        )
        return submit

    def next_id(self) -> int:
        """Of a request that comes prepared."""
        return next(self._request_ids)

    async def count(self, request: Request, reader: Reader) -> int:
        """The tokens of the prompt, however many. Raises as `submit`."""
        return len((await self._prepare(request, reader, MAX_TOKENS)).token_ids)

    async def _prepare(self, request: Request, reader: Reader, max_tokens: int) -> Prepared:
        """The prompt, of at most `max_tokens`. What waits to be tokenised counts as queued, by a guess."""
        prompt = request.prompt
        if not prompt:
            raise InvalidRequest("the prompt is empty", param="prompt", hint="send some text")
        if isinstance(prompt, tuple):
            return Prepared(0, _checked_prompt(prompt, reader))
        size = len(prompt) if isinstance(prompt, str) else sum(map(len, strings_of(prompt.messages)))
        guess = min(size // CHARACTERS_PER_TOKEN + 1, reader.n_ctx_slot)
        party = Party.of(request)
        self._admission.enqueue(party, guess)
        try:
            if isinstance(prompt, Conversation):
                return await preparers(reader).prepare_chat(prompt, max_tokens, images=request.images)
            return await preparers(reader).prepare(
                prompt,
                template_use(request.chat_template, default=reader.settings.chat_template),
                max_tokens,
                keep_tokens=request.keep_tokens,
                images=request.images,
            )
        finally:
            self._admission.dequeue(party, guess, served=False)


def check_prompt_logprobs(request: Request, num_tokens: int) -> None:
    """Raise InvalidRequest if a prompt of `num_tokens` can't be told with the logprobs that it asks for."""
    sampling = request.sampling
    if not sampling.prompt_logprobs:
        return
    if request.images:
        raise InvalidRequest("a prompt with images has no logprobs", param="logprobs")
    num_told = num_tokens * (1 + (sampling.logprobs or 0))
    if num_told > MAX_PROMPT_LOGPROBS:
        raise InvalidRequest(
            f"{num_told} logprobs of the prompt's {num_tokens} tokens and their alternatives are asked for, "
            f"the limit is {MAX_PROMPT_LOGPROBS}",
            param="logprobs",
            hint="ask for fewer alternatives, or send a shorter prompt",
        )


def preparers(reader: Reader) -> Preparers:
    """Of a reader that generates."""
    assert reader.preparers is not None, "a reader that generates has preparers"
    return reader.preparers


def template_use(wanted: bool | None, *, default: TemplateUse) -> TemplateUse:
    """What a request's wish for the chat template means; None: the default."""
    if wanted is None:
        return default
    return "on" if wanted else "off"


async def _tried_grammar(request: Request, reader: Reader, thought: ThoughtStart | None) -> str | None:
    """The grammar of the request's constraint; None if it has none. Raises as `try_constraint`."""
    constraint = request.sampling.constraint
    if constraint is None:
        return None
    if reader.settings.constrained_decoding_backend == "none":
        raise InvalidRequest(
            f"the reader {reader.reader_id} takes no constraints", param=constraint.kind.value
        )
    return await preparers(reader).try_constraint(constraint, thought, tenant=request.tenant)


async def _predicted(request: Request, reader: Reader, room: int) -> list[int]:
    """The tokens that a completion may be, as many as may come."""
    if not request.predicted or not reader.load.speculation:
        return []
    tokens = await preparers(reader).tokenize(
        request.predicted, "off", skip_special_tokens=False, add_special_tokens=False
    )
    return tokens.token_ids[:room]


def _checked_prompt(token_ids: tuple[int, ...], reader: Reader) -> list[int]:
    if len(token_ids) >= reader.n_ctx_slot:
        raise PromptTooLong.beyond(len(token_ids), reader.n_ctx_slot, param="prompt")
    _check_ids(token_ids, reader, "prompt")
    return list(token_ids)


def _checked_lora(name: str | None, reader: Reader) -> str | None:
    names = [lora.name for lora in reader.load.loras]
    if name is not None and name not in names:
        raise InvalidRequest(
            f"the reader {reader.reader_id} has no adapter {name!r}, only {', '.join(names) or 'none'}",
            param="lora_id",
        )
    return name


def _check_ids(token_ids: Collection[int], reader: Reader, param: str) -> None:
    """Raise InvalidRequest for an id that the loaded vocabulary has not: to the engine it would be fatal."""
    n_vocab = reader.loaded.n_vocab
    for token_id in (min(token_ids, default=0), max(token_ids, default=0)):
        if not 0 <= token_id < n_vocab:
            raise InvalidRequest(
                f"{param} has the token id {token_id}, and the vocabulary ends at {n_vocab - 1}", param=param
            )
