"""A model's vocabulary as llguidance wants it, for the preparer that tries grammars and the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

_SPECIAL = b"\xff"  # llguidance's mark of a token that is no text; UTF-8 has no such byte

# What one grammar may cost. A step computes a mask for each sequence that has one, while every other
# waits: the most expensive mask that passes takes some milliseconds, so that a gap grows by far less
# than 50 ms. A grammar beyond a limit enters llguidance's error state: it is refused when it is tried,
# or the completion ends as failed.
LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,  # to read the regular expressions: up to 80 ms, once
    max_grammar_size=100_000,  # symbols: up to 200 ms to compile, once
    step_lexer_fuel=50_000,  # for one mask: up to 5 ms
    step_max_items=20_000,  # Earley items for one mask: up to 8 ms
    max_items_in_row=2_000,  # ways on from one place: 500 optional properties
    max_lexer_states=50_000,  # of 1 to 2 kB, as the completion discovers them
    verbose_errors=False,
)

Tokenize = Callable[[bytes], list[int]]


class _Vocabulary:
    """What `TokenizerWrapper` looks at."""

    bos_token_id = None

    def __init__(self, pieces: Sequence[bytes], eog_token_ids: Sequence[int], tokenize: Tokenize) -> None:
        self.tokens = list(pieces)
        self.eos_token_id = eog_token_ids[0]
        self.special_token_ids = [n for n, piece in enumerate(pieces) if piece.startswith(_SPECIAL)]
        self._tokenize = tokenize

    def __call__(self, text: bytes) -> list[int]:
        return self._tokenize(text)


def guidance_tokenizer(
    pieces: Sequence[bytes], eog_token_ids: Sequence[int], tokenize: Tokenize
) -> LLTokenizer:
    """The vocabulary of `pieces`, the bytes that each token stands for: none for a control token.

    `tokenize` cuts UTF-8 as the model is used to: where only one text can follow, it decides on the
    tokens. Takes up to a second, in which other threads may wait.
    """
    marked = [piece or _SPECIAL + f"<{token_id}>".encode() for token_id, piece in enumerate(pieces)]
    wrapper = TokenizerWrapper(_Vocabulary(marked, eog_token_ids, tokenize))
    return LLTokenizer(wrapper, n_vocab=len(marked), eos_token=list(eog_token_ids))


def new_matcher(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    """`grammar` compiled, at its beginning; in its error state if it can't be. Releases the GIL."""
    return LLMatcher(tokenizer, grammar, log_level=0, limits=LIMITS)
