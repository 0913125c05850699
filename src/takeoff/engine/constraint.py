"""A completion that must match a grammar: which tokens may come next, and when it may end.

llguidance does the matching; a grammar comes from the preparer, which has tried it.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray

from takeoff.models.guidance import new_matcher

MAX_CACHED_GRAMMARS = 64
MAX_CACHED_BYTES = 4 << 20  # of their sources
_NONE: Mapping[int, str] = MappingProxyType({})


class ConstraintState:
    """How far one completion has come in its grammar."""

    def __init__(self, matcher: LLMatcher, tokenizer: LLTokenizer, n_vocab: int) -> None:
        self.error: str | None = None  # why it can't go on
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

    def consume(self, token_id: int) -> None:
        """Go on by a token that was not blocked."""
        self._matcher.consume_token(token_id)

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
    """Grammars made ready for one vocabulary; the last used are kept. One thread uses it."""

    def __init__(self, tokenizer: LLTokenizer, n_vocab: int) -> None:
        self._tokenizer = tokenizer
        self._n_vocab = n_vocab
        self._matchers: OrderedDict[str, LLMatcher] = OrderedDict()
        self._num_bytes = 0

    def compile(self, grammar: str) -> ConstraintState:
        """The state before the first token. The GIL is released for most of it."""
        matcher = self._matchers.pop(grammar, None)
        if matcher is None:
            matcher = new_matcher(self._tokenizer, grammar)
            self._num_bytes += len(grammar)
        self._matchers[grammar] = matcher
        while len(self._matchers) > MAX_CACHED_GRAMMARS or self._num_bytes > MAX_CACHED_BYTES:
            oldest, _ = self._matchers.popitem(last=False)
            self._num_bytes -= len(oldest)
        return ConstraintState(matcher, self._tokenizer, self._n_vocab)
