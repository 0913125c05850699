"""A request inside the engine: its tokens, where they live, and how far they are computed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from takeoff.engine.drafts import Drafter
from takeoff.engine.images import ImageSpan
from takeoff.engine.prefix_cache import Scope
from takeoff.engine.sampler import SamplingState
from takeoff.engine.text_stream import TextStream
from takeoff.request import DEFAULT_PRIORITY, SamplingParams, TokenLogprobs

START_ROOM = 128  # tokens that a sequence can go on for before it may have to move to a longer slot


@dataclass(eq=False, slots=True)
class Sequence:
    """One prompt and its completion, from arrival to the last token. Compared by identity.

    There is no prefill flag: a sequence has tokens, and computed tokens that catch up with them.
    """

    request_id: int
    scope: Scope  # whose computed tokens it may start from, and who from its
    params: SamplingParams
    token_ids: list[int]  # prompt, then completion; negative where an image stands
    num_prompt_tokens: int
    max_completion_tokens: int
    sampling: SamplingState
    text: TextStream
    arrived_at: float  # time.perf_counter() of its submission
    priority: int = DEFAULT_PRIORITY  # of its tenant: the weight of its share
    queue_s: float = 0.0  # from arrival to its slot
    slot: int | None = None  # None while waiting
    slot_class: int = 0  # which of the engine's classes the slot is of
    slot_tokens: int = 0  # that the slot holds
    parked: NDArray[np.uint8] | None = None  # snapshot of its slot, while it waits for a longer one
    num_computed_tokens: int = 0  # tokens whose keys and values are in the slot
    num_cached_tokens: int = 0  # of those, taken from another sequence's work
    num_safe_tokens: int = 0  # of those, the first that a snapshot has
    leader: Sequence | None = None  # is computing our prefix right now: wait for it
    fork_at: int = 0  # tokens that the leader must have computed
    fork_points: set[int] = field(default_factory=set)  # positions at which others will fork from us
    spans: tuple[ImageSpan, ...] = ()  # the images of the prompt, by their places
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)  # not told yet
    predicted_token_ids: list[int] = field(default_factory=list)  # what the client thinks will come
    to_say_again: list[int] = field(default_factory=list)  # tokens that its client has, the next one last
    drafter: Drafter | None = None  # follows its text, once speculation looks at it
    balance_steps: float = 0.0  # decode steps that drafts have saved it, or cost it
    charged: float = 0.0  # to its tenant's share, up to now
    starts_at: float = 0.0  # what its tenant had had when it got its slot: the lowest is prefilled first

    @property
    def num_pending_tokens(self) -> int:
        """Tokens still to compute: 1 in decode, more in prefill."""
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def num_unsafe_tokens(self) -> int:
        """Computed tokens that are lost with the engine."""
        return self.num_computed_tokens - self.num_safe_tokens

    @property
    def tenant(self) -> str:
        """On whose share it is computed."""
        return self.scope.tenant

    @property
    def lora(self) -> str | None:
        """The adapter that its tokens are computed with."""
        return self.scope.lora

    @property
    def is_decoding(self) -> bool:
        return self.slot is not None and self.num_pending_tokens == 1 and not self.has_outgrown_slot

    @property
    def has_outgrown_slot(self) -> bool:
        """Whether its slot has no room for the next token."""
        return self.slot is not None and self.num_computed_tokens >= self.slot_tokens

    @property
    def num_wanted_tokens(self) -> int:
        """What a slot should hold: the tokens there are, and a little of what may come.

        Not all that may come: most texts end long before they must, and one that does not can move.
        """
        wanted = len(self.token_ids) + START_ROOM
        if self.params.max_new_tokens is not None:  # of the last token nothing is computed
            wanted = min(wanted, self.num_prompt_tokens + self.params.max_new_tokens - 1)
        return max(wanted, len(self.token_ids))

    @property
    def num_completion_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    def append(self, token_id: int) -> bool:
        """Make a token the next one; returns whether the text may end with it."""
        may_stop = self.num_completion_tokens + 1 >= self.params.min_new_tokens
        self.token_ids.append(token_id)
        self.sampling.append(token_id)
        return may_stop

    def say_again(self) -> None:
        """Append the next token that the client has already."""
        token_id = self.to_say_again.pop()
        self.text.push(token_id, may_stop=self.append(token_id))

    def span_at(self, place: int) -> ImageSpan | None:
        """The image that has a token at `place`."""
        return next((span for span in self.spans if span.start <= place < span.end), None)

    @property
    def num_alike_tokens(self) -> int:
        """Pending tokens up to where text becomes image, or an image ends: what one call may compute."""
        done = self.num_computed_tokens
        borders = [place for span in self.spans for place in (span.start, span.end) if place > done]
        return min([len(self.token_ids), *borders]) - done

    def whole_images(self, length: int) -> int:
        """`length`, or less: such that no image is cut whose tokens see each other."""
        span = self.span_at(length)
        return span.start if span is not None and span.tokens.sees_itself else length

    def computed_token_ids(self, limit: int | None = None) -> NDArray[np.int32]:
        """[n] int32: the tokens whose keys and values are in the slot, at most `limit`."""
        end = self.num_computed_tokens if limit is None else min(limit, self.num_computed_tokens)
        return np.array(self.token_ids[:end], np.int32)
