"""The tokens that lead a grammar to its end soon, so that a completion can end within the room it has."""

from __future__ import annotations

import time

import numpy as np
from llguidance import LLMatcher, LLTokenizer

# What ends a value of JSON, or makes a short one, in the order in which it is tried.
_CLOSING = ("}", "]", ":", ",", "null", "0", "1", "true", "false", '"', "[", "{")
_QUOTE = '"'
_LETTER = "a"  # goes on in a string, and nowhere else in JSON
_LINKS = ("@", ":", "D", "S", ".")  # without one of these no address and no duration ends

# Tokens of a way, by attempt: a longer one is not looked for. Each takes 10 to 40 microseconds, in which the
# other sequences wait; of a hostile grammar milliseconds, so that it is given up. It is the processor's time
# that counts: what is found must not depend on who else computes.
_MOST = {"longest": 512, "links": 128, "chance": 128, "another chance": 128}
_MOST_S = 0.025


class ShortestWay:
    """Finds ways to the end for the grammars of one vocabulary.

    What it finds ends the text for sure and is short for JSON: strings are closed at once, optional members
    and items left out. There may be a shorter one.
    """

    def __init__(self, tokenizer: LLTokenizer, n_vocab: int) -> None:
        self._n_vocab = n_vocab
        pieces = [tokenizer.decode_bytes([token_id]) for token_id in range(n_vocab)]
        # Where nothing is known of the text, the token that says most; blanks go on where they are optional.
        lengths = [1 + len(each) if each == each.strip() else 1 for each in pieces]
        self._lengths = np.array(lengths, np.int16)
        self._lengths[tokenizer.eos_tokens] = 0
        self._mask = np.zeros(-(-n_vocab // 32), np.int32)
        self._closing = [token_id for text in _CLOSING for token_id in _single(tokenizer, text)]
        self._links = [token_id for text in _LINKS for token_id in _single(tokenizer, text)]
        self._quote, self._letter = _single(tokenizer, _QUOTE), _single(tokenizer, _LETTER)

    def find(self, matcher: LLMatcher, limit: int) -> list[int] | None:
        """Tokens after which the text of `matcher` may end, none if it may now; None: over `limit` of them.

        `matcher` stays where it is.
        """
        end = time.thread_time() + _MOST_S
        ways = (
            self._find(matcher.deep_copy(), min(limit, most), attempt, end) for attempt, most in _MOST.items()
        )
        return next((way for way in ways if way is not None), None)

    def _find(self, matcher: LLMatcher, limit: int, attempt: str, end: float) -> list[int] | None:
        chance = np.random.default_rng(len(attempt)) if "chance" in attempt else None
        way: list[int] = []
        while not matcher.is_accepting():
            links = self._links if attempt == "links" and len(way) % 2 else []
            may_go_on = len(way) < limit and time.thread_time() < end
            forced = matcher.compute_ff_tokens() if may_go_on else []
            if forced and len(way) + len(forced) <= limit:
                if not matcher.consume_tokens(forced):
                    return None
                way += forced
                continue
            token_id = self._next(matcher, links, chance) if may_go_on else None
            if token_id is None or not matcher.consume_token(token_id):
                return None
            way.append(token_id)
        return way

    def _next(self, matcher: LLMatcher, links: list[int], chance: np.random.Generator | None) -> int | None:
        def takes(token_id: int) -> bool:
            return bool(matcher.validate_tokens([token_id]))

        is_in_string = any(map(takes, self._letter))
        likely = [*self._quote, *links] if is_in_string else [*links, *self._closing]
        token_id = next(filter(takes, likely), None)
        return self._any(matcher, chance) if token_id is None else token_id

    def _any(self, matcher: LLMatcher, chance: np.random.Generator | None) -> int | None:
        """A token that may come next, without `chance` one with the longest text; None: there is none."""
        try:
            matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        except ValueError:
            return None
        allowed = np.unpackbits(self._mask.view(np.uint8), count=self._n_vocab, bitorder="little")
        lengths = self._lengths * allowed
        if chance is not None and lengths.max() > 1:
            return int(chance.choice(np.flatnonzero(lengths > 1)))
        return int(lengths.argmax()) if lengths.any() else None


def _single(tokenizer: LLTokenizer, text: str) -> list[int]:
    """The token that is `text`, if there is one."""
    token_ids = tokenizer.greedy_tokenize(text)
    return token_ids if len(token_ids) == 1 else []
