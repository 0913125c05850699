"""A completion that must match a grammar: which tokens may come next, and when it may end.

llguidance does the matching; a grammar comes from the preparer, which has tried it. A completion has room
for so many tokens. Once no more are left than the shortest way to the end takes, it is led along that way:
a small model may repeat itself in a string or a list for ever.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray

from takeoff.engine.shortest_way import ShortestWay
from takeoff.models.guidance import new_matcher

# The slack is the room that the way to the end leaves. With little of it each token is looked at; of what is
# more, an eighth is used before the next look: tokens seldom make the way longer by seven others each.
LITTLE_SLACK = 64
SLACK_PER_LOOK = 8
MAX_CACHED_GRAMMARS = 64
MAX_CACHED_BYTES = 4 << 20  # of their sources
_NONE: Mapping[int, str] = MappingProxyType({})


class ConstraintState:
    """How far one completion has come in its grammar."""

    def __init__(
        self, matcher: LLMatcher, tokenizer: LLTokenizer, n_vocab: int, shortest_way: ShortestWay
    ) -> None:
        self.error: str | None = None  # why it can't go on
        self.is_led = False  # whether a token was not the model's choice, for lack of room
        self.room: int | None = None  # tokens that may still come; None: no end is in sight
        self._shortest_way = shortest_way
        self._way: list[int] | None = None  # one to the end from here; None: not known
        self._last_way: list[int] | None = None  # to the end from some place before; often from here as well
        self._way_after: tuple[int, list[int]] | None = None  # a token, and the way that it leaves
        self._watched_room = math.inf  # with more than that, the end is far
        self._start = matcher
        self._matcher = matcher.deep_copy()
        self._tokenizer = tokenizer
        self._n_vocab = n_vocab
        self._mask = np.zeros(-(-n_vocab // 32), np.int32)

    def blocked(self) -> NDArray[np.bool_]:
        """[n_vocab]: the tokens that must not come next. The end of text may where the grammar accepts."""
        try:
            self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        except ValueError as exc:
            self.error = f"the constraint can't be followed any further: {exc}"
        if self._matcher.is_error():
            self.error = f"the constraint can't be followed any further: {self._matcher.get_error()}"
        if self.error is not None:
            return np.ones(self._n_vocab, np.bool_)
        bits = np.unpackbits(self._mask.view(np.uint8), count=self._n_vocab, bitorder="little")
        return np.equal(bits, 0)

    def forced(self) -> list[int]:
        """The tokens that must come next, up to where there is a choice."""
        return self._matcher.compute_ff_tokens()

    def fitting(self, token_id: int) -> int:
        """`token_id`, which was not blocked; one that ends sooner where too little room would be left."""
        if self.room is None or self.room > self._watched_room or token_id in self._tokenizer.eos_tokens:
            return token_id
        room = self.room - 1
        way = self._way_behind(token_id, room)
        if way is not None:
            self._way_after = token_id, way
            slack = room - len(way)
            self._watched_room = room - max(0, slack - LITTLE_SLACK) // SLACK_PER_LOOK
            return token_id
        if self._way is None:
            self._way = self._shortest_way.find(self._matcher, room + 1)
        if self._way is None:  # no such way was found: look again when half of the room is used up
            self._watched_room = room // 2
            return token_id
        return self._led(token_id, self._way)

    def _led(self, token_id: int, way: list[int]) -> int:
        """The next token of `way`, in place of `token_id`; of a way that is at its end the end of text."""
        next_id = way[0] if way else int(self._tokenizer.eos_token)
        self._way_after = next_id, way[1:]
        self.is_led = self.is_led or next_id != token_id
        return next_id

    def _way_behind(self, token_id: int, room: int) -> list[int] | None:
        """A way to the end of at most `room` tokens once `token_id` has come."""
        after = self._matcher.deep_copy()
        if not after.consume_token(token_id):
            return None
        if self._last_way is not None and len(self._last_way) <= room:  # the same: inside of a string
            again = after.deep_copy()
            if again.try_consume_tokens(self._last_way) == len(self._last_way) and again.is_accepting():
                return self._last_way
        return self._shortest_way.find(after, room)

    def consume(self, token_id: int) -> None:
        """Go on by a token that was not blocked."""
        self._matcher.consume_token(token_id)
        if self.room is not None:
            self.room -= 1
        self._way = self._way_after[1] if self._way_after and self._way_after[0] == token_id else None
        self._last_way = self._way or self._last_way
        self._way_after = None

    @property
    def is_finished(self) -> bool:
        """Whether the completion matches and nothing but the end may follow."""
        matcher = self._matcher
        return matcher.is_stopped() and not matcher.is_error() and matcher.is_accepting()

    def accepts(self, text: str, controls: Mapping[int, str] = _NONE) -> bool:
        """Whether `text` as a whole matches. In it the control tokens in `controls` have their texts."""
        matcher = self._start.deep_copy()
        token_ids: list[int] = []
        ids = {control: token_id for token_id, control in controls.items()}
        for part in re.split(f"({'|'.join(map(re.escape, ids))})", text) if ids else [text]:
            token_ids += [ids[part]] if part in ids else self._tokenizer.greedy_tokenize(part)
        return matcher.try_consume_tokens(token_ids) == len(token_ids) and matcher.is_accepting()


class ConstraintCompiler:
    """Grammars made ready for one vocabulary; the last used are kept. One thread uses it.

    Kept within one tenant: another's would tell by its speed that somebody has the same grammar.
    """

    def __init__(self, tokenizer: LLTokenizer, n_vocab: int) -> None:
        self._tokenizer = tokenizer
        self._n_vocab = n_vocab
        self._shortest_way = ShortestWay(tokenizer, n_vocab)
        self._matchers: OrderedDict[tuple[str, str], LLMatcher] = OrderedDict()
        self._num_bytes = 0

    def compile(self, grammar: str, tenant: str = "") -> ConstraintState:
        """The state before the first token. The GIL is released for most of it."""
        matcher = self._matchers.pop((tenant, grammar), None)
        if matcher is None:
            matcher = new_matcher(self._tokenizer, grammar)
            self._num_bytes += len(grammar)
        self._matchers[tenant, grammar] = matcher
        while len(self._matchers) > MAX_CACHED_GRAMMARS or self._num_bytes > MAX_CACHED_BYTES:
            (_, oldest), _ = self._matchers.popitem(last=False)
            self._num_bytes -= len(oldest)
        return ConstraintState(matcher, self._tokenizer, self._n_vocab, self._shortest_way)
