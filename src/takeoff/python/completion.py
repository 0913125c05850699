"""A completion with what is known of it beside its text."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from takeoff.request import FinishReason, TokenEvent, TokenLogprobs
from takeoff.thoughts import Thought, ThoughtParser, ThoughtStart


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What `complete` gives for a prompt, and `complete_chat` for a conversation."""

    text: str
    thought: str  # what the model of a conversation wrote before it answered: no part of `text`
    token_ids: tuple[int, ...]  # of both
    finish_reason: FinishReason  # stop or length
    prompt_tokens: int
    cached_tokens: int  # of the prompt, that were not computed again
    logprobs: tuple[TokenLogprobs, ...]  # of `token_ids`; none unless asked for
    prompt_logprobs: tuple[TokenLogprobs, ...]  # of the prompt's tokens; none unless asked for


class AnswerText:
    """The text of an answer as it comes, without the thought that it may begin with."""

    def __init__(self, start: ThoughtStart | None) -> None:
        self._thoughts = None if start is None else ThoughtParser(start)
        self.thought = ""

    def take(self, event: TokenEvent) -> str:
        """What `event` adds to it."""
        if self._thoughts is None:
            return event.text
        ends = self._thoughts.end() if event.finish_reason is not None else ()
        text = ""
        for piece in itertools.chain(self._thoughts.push(event.text), ends):
            if isinstance(piece, Thought):
                self.thought += piece.text
            else:
                text += piece
        return text


def completion_of(event: TokenEvent, start: ThoughtStart | None, *, prompt_tokens: int) -> Completion:
    """Of all events of a generation, joined; `start` is of the thought that it may begin with."""
    assert event.finish_reason is not None, "they end with the last"
    answer = AnswerText(start)
    text = answer.take(event)
    num_of_prompt = max(0, len(event.logprobs) - len(event.token_ids))
    return Completion(
        text=text,
        thought=answer.thought,
        token_ids=event.token_ids,
        finish_reason=event.finish_reason,
        prompt_tokens=prompt_tokens,
        cached_tokens=event.cached_tokens,
        logprobs=event.logprobs[num_of_prompt:],
        prompt_logprobs=event.logprobs[:num_of_prompt],
    )
