"""A completion with what is known of it beside its text."""

from __future__ import annotations

from dataclasses import dataclass

from takeoff.request import FinishReason, TokenEvent, TokenLogprobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What `complete` gives for a prompt."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason  # stop or length
    prompt_tokens: int
    cached_tokens: int  # of the prompt, that were not computed again
    logprobs: tuple[TokenLogprobs, ...]  # of `token_ids`; none unless asked for
    prompt_logprobs: tuple[TokenLogprobs, ...]  # of the prompt's tokens; none unless asked for


def completion_of(event: TokenEvent, *, prompt_tokens: int) -> Completion:
    """Of all events of a generation, joined."""
    assert event.finish_reason is not None, "they end with the last"
    num_of_prompt = max(0, len(event.logprobs) - len(event.token_ids))
    return Completion(
        text=event.text,
        token_ids=event.token_ids,
        finish_reason=event.finish_reason,
        prompt_tokens=prompt_tokens,
        cached_tokens=event.cached_tokens,
        logprobs=event.logprobs[num_of_prompt:],
        prompt_logprobs=event.logprobs[:num_of_prompt],
    )
