"""Logprobs on the wire: of /v1/completions four lists of equal length, of a chat an object for each token.

Source: the `Logprobs` object of OpenAI's completions, and `ChatCompletionTokenLogprob` of its chats; token
texts as theirs, `bytes:...` for a part of a character. A token without text, an end of text for example, is
`token_id:N`.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import Any

from takeoff.request import TokenLogprob, TokenLogprobs


class LegacyLogprobs:
    """The tokens of one choice, told piece after piece as they come."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0  # characters of the choice's text before the next token

    def take(self, tokens: tuple[TokenLogprobs, ...]) -> dict[str, Any]:
        """The next `tokens`. Those of a stop string, which the text is cut before, are among them."""
        offsets = []
        for each in tokens:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(each.token.piece))
        return {
            "tokens": [shown(each.token) for each in tokens],
            "token_logprobs": [each.token.logprob for each in tokens],
            "top_logprobs": [_alternatives(each) for each in tokens],
            "text_offset": offsets,
        }


def chat_logprobs(tokens: Iterable[TokenLogprobs]) -> dict[str, Any]:
    """Every token of an answer, those of thoughts, of calls, of stop strings and of its end among them."""
    content = [{**_told(each.token), "top_logprobs": list(map(_told, each.top))} for each in tokens]
    return {"content": content, "refusal": None}


def _told(token: TokenLogprob) -> dict[str, Any]:
    return {
        "token": shown(token),
        "logprob": token.logprob,
        "bytes": list(token.piece) if token.piece else None,
    }


def shown(token: TokenLogprob) -> str:
    """The text of a token on the wire."""
    if not token.piece:
        return f"token_id:{token.token_id}"
    try:
        return token.piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.piece)


def _alternatives(tokens: TokenLogprobs) -> dict[str, float | None] | None:
    """The likeliest tokens and the one that came, by their texts; None where nothing comes before."""
    if tokens.token.logprob is None:
        return None
    return {shown(token): token.logprob for token in (*tokens.top, tokens.token)}
