"""A model's vocabulary, and nothing else of it: text to token ids.

The only importer of llama_cpp outside the engine.

Source: include/llama.h of the llama.cpp that llama-cpp-python 0.3.36 builds.
"""

from __future__ import annotations

import ctypes
import logging

import llama_cpp.llama_cpp as C  # noqa: N812  (the C API, as its documentation calls it)
from llguidance import LLTokenizer

from takeoff.errors import ModelError
from takeoff.models.guidance import guidance_tokenizer
from takeoff.prepare.special_texts import SpecialTexts

logger = logging.getLogger(__name__)

_GGML_LEVELS = {3: logging.WARNING, 4: logging.ERROR}
_PARSED_ONLY_AS_SPECIAL = C.LLAMA_TOKEN_ATTR_CONTROL | C.LLAMA_TOKEN_ATTR_UNKNOWN


@C.llama_log_callback  # type: ignore[untyped-decorator]
def _log(level: int, text: bytes, _user_data: object) -> None:
    """llama.cpp's own lines; its information is our debugging."""
    logger.log(_GGML_LEVELS.get(level, logging.DEBUG), text.decode("utf-8", "replace").rstrip())


class Tokenizer:
    """The vocabulary of one model file. Lives as long as its process."""

    def __init__(self, model_path: str) -> None:
        """Read the vocabulary; the weights are not touched.

        Raises:
            ModelError: llama.cpp refused the file.
        """
        C.llama_log_set(_log, None)
        params = C.llama_model_default_params()
        params.vocab_only = True
        model = C.llama_model_load_from_file(model_path.encode(), params)
        if not model:
            raise ModelError(f"llama.cpp can't read the vocabulary of {model_path}")
        self._vocab = C.llama_model_get_vocab(model)
        self.n_vocab: int = C.llama_vocab_n_tokens(self._vocab)
        self.adds_bos: bool = C.llama_vocab_get_add_bos(self._vocab)
        self.bos_token_id: int = C.llama_vocab_bos(self._vocab)  # -1: there is none
        self.eos_token_id: int = C.llama_vocab_eos(self._vocab)
        template: bytes | None = C.llama_model_chat_template(model, None)
        self.chat_template = None if template is None else template.decode("utf-8", "replace")
        self.special_texts = SpecialTexts(
            self.text(token_id) for token_id in range(self.n_vocab) if self.is_control(token_id)
        )
        self._ids: dict[str, int] | None = None  # made when first asked for

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        """Token ids of `text`, without BOS or EOS of the vocabulary's own.

        `parse_special`: texts of control tokens become those tokens; else they are plain text.
        """
        return self._tokenize(text.encode(), parse_special=parse_special)

    def _tokenize(self, data: bytes, *, parse_special: bool) -> list[int]:
        room = len(data) + 16
        ids = (C.llama_token * room)()
        count = C.llama_tokenize(self._vocab, data, len(data), ids, room, False, parse_special)
        if count < 0:  # more tokens than bytes: a vocabulary may spell a space in three
            room = -count
            ids = (C.llama_token * room)()
            count = C.llama_tokenize(self._vocab, data, len(data), ids, room, False, parse_special)
        return ids[:count]

    def is_control(self, token_id: int) -> bool:
        """Whether the token stands for no text of its own: BOS, EOS, a role, padding."""
        return bool(C.llama_vocab_get_attr(self._vocab, token_id) & _PARSED_ONLY_AS_SPECIAL)

    def strips(self, text: str) -> tuple[bool, bool]:
        """Whether the control token with this text takes the blanks before it away, and those behind it."""
        token_id = self.find(text)
        attr = 0 if token_id is None else C.llama_vocab_get_attr(self._vocab, token_id)
        return bool(attr & C.LLAMA_TOKEN_ATTR_LSTRIP), bool(attr & C.LLAMA_TOKEN_ATTR_RSTRIP)

    def find(self, text: str) -> int | None:
        """The id of the token that the vocabulary writes as `text`."""
        if self._ids is None:
            self._ids = {self.text(token_id): token_id for token_id in range(self.n_vocab)}
        return self._ids.get(text)

    def for_constraints(self) -> LLTokenizer:
        """The vocabulary as llguidance wants it. Takes up to a second."""
        every = range(self.n_vocab)
        ends = [token_id for token_id in every if C.llama_vocab_is_eog(self._vocab, token_id)]
        pieces = [b"" if self.is_control(token_id) else self.piece(token_id) for token_id in every]
        return guidance_tokenizer(pieces, ends, lambda text: self._tokenize(text, parse_special=False))

    def text(self, token_id: int) -> str:
        """The text of one token as the vocabulary writes it; '' for an id of -1."""
        if token_id < 0:
            return ""
        raw: bytes = C.llama_vocab_get_text(self._vocab, token_id)
        return raw.decode("utf-8", "replace")

    def piece(self, token_id: int) -> bytes:
        """The bytes that one token stands for, control tokens with their text."""
        buffer = ctypes.create_string_buffer(256)
        count = C.llama_token_to_piece(self._vocab, token_id, buffer, len(buffer), 0, True)
        if count < 0:
            buffer = ctypes.create_string_buffer(-count)
            count = C.llama_token_to_piece(self._vocab, token_id, buffer, len(buffer), 0, True)
        return buffer.raw[:count]
