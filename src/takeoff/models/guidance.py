"""A model's vocabulary as llguidance wants it, for the preparer that tries grammars and the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

_SPECIAL = b"\xff"  # llguidance's mark of a token that is no text; UTF-8 has no such byte

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
    return LLMatcher(tokenizer, grammar, log_level=0)
