"""From a message to a sequence: all that a request needs before it waits for a slot."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from takeoff.engine.constraint import ConstraintState
from takeoff.engine.images import Prompt
from takeoff.engine.llama.rows import Kernels
from takeoff.engine.prefix_cache import Scope
from takeoff.engine.sampler import SamplingState
from takeoff.engine.sequence import Sequence
from takeoff.engine.text_stream import TextStream
from takeoff.ipc.messages import Submit


def arrived(
    message: Submit,
    kernels: Kernels,
    now: float,
    constraint: ConstraintState | None = None,
    prompt: Prompt | None = None,
    *,
    token_by_token: bool = False,
) -> Sequence:
    """The sequence of a request. What was emitted before counts as said: it is computed, not sent again.

    Args:
        message: as the service sent it.
        kernels: of the engine that will compute it.
        now: the engine's clock.
        constraint: its grammar, compiled.
        prompt: its tokens with its images in them; None: it has no images.
        token_by_token: compute what was emitted as it was at first, each token in a step of its own: computed
            together, as a prompt is, their keys and values differ in the last bits.
    """
    params = message.sampling
    prompt = prompt or Prompt(message.prompt_token_ids)
    words = prompt.token_ids
    if prompt.spans:  # penalties count no image
        words = [token_id for token_id in words if token_id >= 0]
    # Of the last token no successor is computed: it needs no cell.
    room = kernels.n_ctx_slot + 1 - len(prompt.token_ids)
    if params.max_new_tokens is not None:
        room = min(params.max_new_tokens, room)
    if constraint is not None:
        constraint.room = room
    sampling = SamplingState(params, words, kernels.n_vocab, constraint)
    controls = {} if message.thought is None else message.thought.control_texts
    accepts = None if constraint is None else partial(constraint.accepts, controls=controls)
    piece = showing(controls, kernels.piece) if controls else kernels.piece
    text = TextStream(piece, params.stop, params.stop_tokens, accepts)
    emitted, none = message.emitted_token_ids, list[int]()
    told, again = (none, emitted) if token_by_token else (emitted, none)
    for token_id in told:
        text.push(token_id, may_stop=sampling.num_completion_tokens + 1 >= params.min_new_tokens)
        sampling.append(token_id)
    return Sequence(
        request_id=message.request_id,
        scope=Scope(message.tenant, message.lora),
        params=params,
        token_ids=[*prompt.token_ids, *told],
        to_say_again=again[::-1],
        num_prompt_tokens=len(prompt.token_ids),
        max_completion_tokens=room,
        spans=prompt.spans,
        sampling=sampling,
        text=text,
        arrived_at=now,
        priority=message.priority,
        predicted_token_ids=message.predicted_token_ids,
    )


def showing(texts: dict[int, str], piece: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """`piece`, but of some control tokens their text."""
    shown = {token_id: text.encode() for token_id, text in texts.items()}
    return lambda token_id: shown.get(token_id) or piece(token_id)
