"""A tokenizer.json, read by the tokenizers library; hostile input in a process of its own."""

from __future__ import annotations

from pathlib import Path

import tokenizers

from takeoff.engine.encoder.model import Tokens
from takeoff.errors import InvalidRequest, ModelError
from takeoff.request import Text


class HfTokenizer:
    """Texts to tokens and back. What tokenizer.json says of padding and truncation has no effect."""

    def __init__(self, path: Path, *, prompt: str, lower_case: bool) -> None:
        """`prompt` is put before every text, which is lowered first if `lower_case`.

        Raises:
            ModelError: the library can't read the file.
        """
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as exc:  # the library raises nothing narrower
            raise ModelError(f"{path.name} can't be read: {exc}", hint="pull the model again") from exc
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._joins_pairs = self._tokenizer.num_special_tokens_to_add(is_pair=True) > 0
        self._prompt = prompt
        self._lower_case = lower_case

    def tokenize(self, text: Text) -> Tokens:
        """See `takeoff.engine.encoder.model.Model`."""
        encoding = self._encode(text)
        return Tokens(encoding.ids, encoding.type_ids)

    def spell(self, text: Text, *, skip_special_tokens: bool) -> tuple[list[int], list[str]]:
        """See `takeoff.engine.encoder.model.Model`."""
        encoding = self._encode(text, add_special_tokens=not skip_special_tokens)
        return encoding.ids, encoding.tokens

    def detokenize(self, tokens: list[int | str], *, skip_special_tokens: bool) -> str:
        """See `takeoff.engine.encoder.model.Model`."""
        ids = [self._token_id(token) for token in tokens]
        return str(self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))

    def _encode(self, text: Text, *, add_special_tokens: bool = True) -> tokenizers.Encoding:
        first, second = (text, None) if isinstance(text, str) else text
        if second is not None and not self._joins_pairs:
            raise InvalidRequest("this model's tokenizer has no template for pairs of texts", param="text")
        try:
            return self._tokenizer.encode(
                self._read(first),
                None if second is None else self._read(second),
                add_special_tokens=add_special_tokens,
            )
        except Exception as exc:  # the library raises nothing narrower
            raise InvalidRequest(f"the model's tokenizer can't take this text: {exc}", param="text") from exc

    def _read(self, text: str) -> str:
        text = self._prompt + text
        return text.lower() if self._lower_case else text

    def _token_id(self, token: int | str) -> int:
        if isinstance(token, int):
            known = 0 <= token < 1 << 31 and self._tokenizer.id_to_token(token) is not None
            found = token if known else None
        else:
            found = self._tokenizer.token_to_id(token)
        if found is None:
            raise InvalidRequest(f"the vocabulary has no token {token!r}", param="tokens")
        return found
