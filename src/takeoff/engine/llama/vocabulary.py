"""A vocabulary of llama.cpp: text to token ids, and a token to its bytes.

Source: include/llama.h of the llama.cpp that llama-cpp-python 0.3.36 builds.
"""

from __future__ import annotations

import ctypes

import llama_cpp.llama_cpp as C  # noqa: N812  (the C API, as its documentation calls it)


def tokenize(vocab: C.llama_vocab_p, text: bytes, *, add_special: bool) -> list[int]:
    """Token ids of plain UTF-8; with `add_special` also BOS and EOS where the vocabulary asks for them."""
    room = len(text) + 16
    while True:
        ids = (C.llama_token * room)()
        count = C.llama_tokenize(vocab, text, len(text), ids, room, add_special, False)
        if count >= 0:
            return ids[:count]
        room = -count


def token_to_piece(vocab: C.llama_vocab_p, token_id: int) -> bytes:
    """The bytes that one token stands for; control tokens stand for none."""
    size = 64
    while True:
        buffer = ctypes.create_string_buffer(size)
        written = C.llama_token_to_piece(vocab, token_id, buffer, size, 0, False)
        if written >= 0:
            return buffer.raw[:written]
        size = -written
