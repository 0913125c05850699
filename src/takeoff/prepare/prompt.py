"""From a client's text to the token ids of a prompt.

Three promises: a text that carries the model's own template is left alone (`auto`), a message
can't forge a role, and BOS is never doubled.
"""

from __future__ import annotations

import re
import secrets
from typing import Literal, Protocol

from takeoff.errors import InvalidRequest
from takeoff.prepare.chat_template import ChatTemplate
from takeoff.prepare.special_texts import SpecialTexts


class Vocabulary(Protocol):
    """What a prompt needs of a tokenizer."""

    adds_bos: bool
    bos_token_id: int
    eos_token_id: int
    chat_template: str | None
    special_texts: SpecialTexts

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]: ...

    def text(self, token_id: int) -> str: ...


class PromptBuilder:
    """Builds prompts for one vocabulary. The template is compiled when first needed.

    Not at birth, because compiling is already running a stranger's code: a template that never
    ends then costs one request, not the start of the process.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._template: ChatTemplate | None = None
        self._role_markers: frozenset[str] | None = None

    def build(self, text: str, chat_template: Literal["auto", "on", "off"]) -> list[int]:
        """Token ids of `text`, wrapped as a user's message or as it is.

        Raises:
            InvalidRequest: `on`, and the model has no template; or no tokens come out.
            TemplateRefused, TemplateBroken: see ChatTemplate.render.
        """
        if chat_template == "on" and self._vocabulary.chat_template is None:
            raise InvalidRequest("the model has no chat template", hint="set chat_template to auto or off")
        if self._is_wrapped(text, chat_template):
            ids = self._wrap(text)
        else:
            ids = self._vocabulary.tokenize(text, parse_special=True)
        ids = self._with_bos(ids)
        if not ids:
            raise InvalidRequest("the prompt has no tokens")
        return ids

    def _is_wrapped(self, text: str, chat_template: Literal["auto", "on", "off"]) -> bool:
        if chat_template == "off" or self._vocabulary.chat_template is None:
            return False
        return chat_template == "on" or not any(marker in text for marker in self._markers())

    def _wrap(self, text: str) -> list[int]:
        """Tokenise the rendered template; control tokens' texts in `text` itself stay plain text."""
        forged = list(self._vocabulary.special_texts.spans(text))
        if not forged:
            return self._vocabulary.tokenize(self._chat_template().render(text), parse_special=True)
        # A template may trim or rearrange the text, so positions don't survive it. Marks do: each
        # forged text goes through the template as a mark that nobody can guess.
        nonce = secrets.randbelow(10**18)
        marked, end = [], 0
        for i, (start, stop) in enumerate(forged):
            marked.append(f"{text[end:start]}\ue000{nonce}.{i}\ue001")
            end = stop
        rendered = self._chat_template().render("".join([*marked, text[end:]]))
        parts = re.split(f"\ue000{nonce}\\.([0-9]+)\ue001", rendered)
        return self._tokenize_parts(parts, [text[start:stop] for start, stop in forged])

    def _tokenize_parts(self, parts: list[str], forged: list[str]) -> list[int]:
        """`parts` alternate: rendered text, index into `forged`, rendered text, ...

        Cuts at the template's own control tokens, as llama.cpp does, and nowhere else, so that the
        message gets the ids that it has as plain text.
        """
        vocabulary = self._vocabulary
        ids: list[int] = []
        plain: list[str] = []
        for i, part in enumerate(parts):
            if i % 2:
                plain.append(forged[int(part)])
                continue
            end = 0
            for start, stop in vocabulary.special_texts.spans(part):
                plain.append(part[end:start])
                ids += vocabulary.tokenize("".join(plain), parse_special=False)
                ids += vocabulary.tokenize(part[start:stop], parse_special=True)
                plain.clear()
                end = stop
            plain.append(part[end:])
        return ids + vocabulary.tokenize("".join(plain), parse_special=False)

    def _with_bos(self, ids: list[int]) -> list[int]:
        bos = self._vocabulary.bos_token_id
        if not self._vocabulary.adds_bos or bos < 0 or ids[:1] == [bos]:
            return ids
        return [bos, *ids]

    def _markers(self) -> frozenset[str]:
        """Control tokens' texts that the template writes: a prompt with one carries it already."""
        if self._role_markers is None:
            rendered = self._chat_template().render("x")
            spans = self._vocabulary.special_texts.spans(rendered)
            self._role_markers = frozenset(rendered[start:end] for start, end in spans)
        return self._role_markers

    def _chat_template(self) -> ChatTemplate:
        if self._template is None:
            vocabulary = self._vocabulary
            self._template = ChatTemplate(
                vocabulary.chat_template or "",
                bos_text=vocabulary.text(vocabulary.bos_token_id),
                eos_text=vocabulary.text(vocabulary.eos_token_id),
            )
        return self._template
