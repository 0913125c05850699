"""From a client's text to the token ids of a prompt.

Three promises: a text that carries the model's own template is left alone (`auto`), a message
can't forge a role, and BOS is never doubled.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from takeoff.errors import InvalidRequest
from takeoff.prepare.chat_template import ChatTemplate
from takeoff.prepare.special_texts import SpecialTexts

TemplateUse = Literal["auto", "on", "off"]


class Vocabulary(Protocol):
    """What a prompt needs of a tokenizer."""

    adds_bos: bool
    bos_token_id: int
    eos_token_id: int
    chat_template: str | None
    special_texts: SpecialTexts

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]: ...

    def text(self, token_id: int) -> str: ...

    def piece(self, token_id: int) -> bytes: ...


class PromptBuilder:
    """Builds prompts for one vocabulary. The template is compiled when first needed.

    Not at birth, because compiling is already running a stranger's code: a template that never
    ends then costs one request, not the start of the process.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._template: ChatTemplate | None = None
        self._role_markers: frozenset[str] | None = None

    def build(self, text: str, chat_template: TemplateUse, keep_tokens: int | None = None) -> list[int]:
        """Token ids of `text`, wrapped as a user's message or as it is.

        Of a prompt longer than `keep_tokens` the beginning of the text is cut off: what a model
        continues is the end. BOS and the chat template stay whole.

        Raises:
            InvalidRequest: `on`, and the model has no template; no tokens come out; `keep_tokens`
                has no room for text.
            TemplateRefused, TemplateBroken: see ChatTemplate.render.
        """
        ids = self._build(text, chat_template)
        if keep_tokens is None or len(ids) <= keep_tokens:
            return ids
        text_ids = self._vocabulary.tokenize(text, parse_special=False)
        room = len(text_ids)
        while len(ids) > keep_tokens:  # the rest of a text may be cut into other tokens than within it
            room -= len(ids) - keep_tokens
            if room <= 0:
                raise InvalidRequest(
                    f"prompt_max_tokens is {keep_tokens}, which leaves no room for the text",
                    param="prompt_max_tokens",
                )
            rest = b"".join(self._vocabulary.piece(token_id) for token_id in text_ids[-room:])
            ids = self._build(rest.decode("utf-8", "ignore"), chat_template)
        return ids

    def render(self, conversation: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
        """A conversation as the model's own template writes it.

        Raises:
            InvalidRequest: the model has no template.
            TemplateRefused, TemplateBroken: see ChatTemplate.render.
        """
        self._check_template()
        return self._chat_template().render(conversation, add_generation_prompt=add_generation_prompt)

    def _build(self, text: str, chat_template: TemplateUse) -> list[int]:
        if chat_template == "on":
            self._check_template()
        if self._is_wrapped(text, chat_template):
            ids = self._wrap(text)
        else:
            ids = self._vocabulary.tokenize(text, parse_special=True)
        ids = self._with_bos(ids)
        if not ids:
            raise InvalidRequest("the prompt has no tokens")
        return ids

    def _check_template(self) -> None:
        if self._vocabulary.chat_template is None:
            raise InvalidRequest("the model has no chat template", hint="send the text without one")

    def _is_wrapped(self, text: str, chat_template: TemplateUse) -> bool:
        if chat_template == "off" or self._vocabulary.chat_template is None:
            return False
        return chat_template == "on" or not any(marker in text for marker in self._markers())

    def _wrap(self, text: str) -> list[int]:
        """Tokenise the rendered template; control tokens' texts in `text` itself stay plain text."""
        forged = list(self._vocabulary.special_texts.spans(text))
        if not forged:
            return self._vocabulary.tokenize(self._chat_template().render(_user(text)), parse_special=True)
        # A template may trim or rearrange the text, so positions don't survive it. Marks do: each
        # forged text goes through the template as a mark that nobody can guess.
        nonce = secrets.randbelow(10**18)
        marked, end = [], 0
        for i, (start, stop) in enumerate(forged):
            marked.append(f"{text[end:start]}\ue000{nonce}.{i}\ue001")
            end = stop
        rendered = self._chat_template().render(_user("".join([*marked, text[end:]])))
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
            rendered = self._chat_template().render(_user("x"))
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


def _user(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]
