"""From a client's text or conversation to the token ids of a prompt.

Three promises: a text that carries the model's own template is left alone (`auto`), a message
can't forge a role, and BOS is never doubled.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from takeoff.errors import InvalidRequest
from takeoff.prepare.chat_template import ChatTemplate, TemplateBroken
from takeoff.prepare.conversation import (
    RESERVED_VALUES,
    effort_values,
    num_images,
    told,
    with_effort,
    with_images_marked,
)
from takeoff.prepare.marks import Cutter, Marks
from takeoff.request import Conversation
from takeoff.thoughts import SYNTAX, ThoughtFormat, ThoughtStart, is_thought_open, thought_format_of

TemplateUse = Literal["auto", "on", "off"]
IMAGE_MARK = "<image>"  # where an image stands in a text


class Vocabulary(Cutter, Protocol):
    """What a prompt needs of a tokenizer."""

    adds_bos: bool
    bos_token_id: int
    eos_token_id: int
    chat_template: str | None

    def text(self, token_id: int) -> str: ...

    def find(self, text: str) -> int | None: ...

    def piece(self, token_id: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation as a model reads it."""

    token_ids: list[int]
    thought: ThoughtStart | None  # that may follow
    image_places: list[int]  # for each image the index of the id that follows it


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
        (ids,) = self._build([text], chat_template)
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
            (ids,) = self._build([rest.decode("utf-8", "ignore")], chat_template)
        return ids

    def build_around(
        self, text: str, chat_template: TemplateUse, num_images: int
    ) -> tuple[list[int], list[int]]:
        """Token ids of a text with images, and for each image the index of the id that follows it.

        The images stand where the text says `<image>`, or before it where it says so nowhere.

        Raises:
            InvalidRequest: as `build`; the text has another number of marks; it ends with an image,
                so that the model has no token to answer.
            TemplateRefused, TemplateBroken: see ChatTemplate.render.
        """
        texts = text.split(IMAGE_MARK)
        if len(texts) == 1:
            texts = [""] * num_images + texts
        if len(texts) != num_images + 1:
            raise InvalidRequest(
                f"the text has {len(texts) - 1} marks {IMAGE_MARK} and comes with {num_images} images",
                param="text",
            )
        parts = self._build(texts, chat_template)
        if len(parts) != num_images + 1:
            raise InvalidRequest("the model's chat template does not write what a user says just once")
        if not parts[-1]:
            raise InvalidRequest("the prompt ends with an image", param="text", hint="let text follow it")
        return list(itertools.chain(*parts)), list(itertools.accumulate(map(len, parts[:-1])))

    def build_chat(self, conversation: Conversation) -> ChatPrompt:
        """A conversation, up to where the assistant's next words begin.

        An assistant's message at the end is left open, and continued.

        Raises:
            InvalidRequest: the model has no template, or it can't write this conversation, or think so hard.
            TemplateRefused, TemplateBroken: see ChatTemplate.render.
        """
        self._check_template()
        taken = RESERVED_VALUES & conversation.template_values.keys()
        if taken:
            raise InvalidRequest(f"{min(taken)} is not a client's to set", param="chat_template_kwargs")
        thinks = thought_format_of(self._vocabulary.chat_template)
        effort = effort_values(
            conversation.reasoning_effort, self._chat_template().variables, can_think=thinks is not None
        )
        values = with_effort(conversation.template_values, effort)
        marks = Marks(self._vocabulary, self._chat_template().cuts)
        image_marks = [marks.cut() for _ in range(num_images(conversation))]
        conversation = with_images_marked(conversation, image_marks)
        messages, tools = told(conversation, self._vocabulary.chat_template or "")
        messages = [{**marks.plain_all(message), "role": message["role"]} for message in messages]
        is_continued = messages[-1]["role"] == "assistant"
        said = messages[-1]["content"] if is_continued else ""
        end = marks.cut() if is_continued else ""
        messages[-1]["content"] += end
        rendered = self._render_chat(messages, is_continued, marks.plain_all(tools), marks.plain_all(values))
        if is_continued and rendered.count(end) != 1:
            raise InvalidRequest(
                "the model's chat template does not write the assistant's last message just once",
                param="messages",
                hint="end with a user's message",
            )
        _check_images(rendered, image_marks)
        parts = marks.tokenize(rendered)[: len(image_marks) + 1]  # what follows the end is the template's
        parts[0] = self._with_bos(parts[0])
        if not parts[-1]:
            raise InvalidRequest("the prompt ends with an image", param="messages", hint="let text follow it")
        written = rendered[: rendered.find(end)] if end else rendered
        return ChatPrompt(
            token_ids=list(itertools.chain(*parts)),
            thought=self._thought(thinks, written, said),
            image_places=list(itertools.accumulate(map(len, parts[:-1]))),
        )

    def _thought(self, format_: ThoughtFormat | None, written: str, said: str) -> ThoughtStart | None:
        is_open = None if format_ is None else is_thought_open(format_, written, said)
        if format_ is None or is_open is None:
            return None
        syntax, find = SYNTAX[format_], self._vocabulary.find
        texts = {
            mark[start:stop]
            for mark in (syntax.opening, syntax.closing)
            for start, stop in self._vocabulary.special_texts.spans(mark)
        }
        ids = {token_id: text for text in texts if (token_id := find(text)) is not None}
        return ThoughtStart(format=format_, is_open=is_open, control_texts=ids)

    def _render_chat(
        self, messages: list[dict[str, Any]], is_continued: bool, tools: list[Any], values: dict[str, Any]
    ) -> str:
        template = self._chat_template()
        try:
            return template.render(
                messages, add_generation_prompt=not is_continued, tools=tools or None, values=values
            )
        except TemplateBroken as exc:
            template.render(_user("x"))  # raises where the template itself is at fault
            raise InvalidRequest(f"it can't write this conversation: {exc}", param="messages") from exc

    def render(self, conversation: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
        """A conversation as the model's own template writes it.

        Raises:
            InvalidRequest: the model has no template.
            TemplateRefused, TemplateBroken: see ChatTemplate.render.
        """
        self._check_template()
        return self._chat_template().render(conversation, add_generation_prompt=add_generation_prompt)

    def _build(self, texts: list[str], chat_template: TemplateUse) -> list[list[int]]:
        """Token ids of a text that was cut where images stand, cut there as well."""
        if chat_template == "on":
            self._check_template()
        if self._is_wrapped("".join(texts), chat_template):
            parts = self._wrap(texts)
        else:
            parts = [self._vocabulary.tokenize(text, parse_special=True) for text in texts]
        parts[0] = self._with_bos(parts[0])
        if not any(parts):
            raise InvalidRequest("the prompt has no tokens")
        return parts

    def _check_template(self) -> None:
        if self._vocabulary.chat_template is None:
            raise InvalidRequest("the model has no chat template", hint="send the text without one")

    def _is_wrapped(self, text: str, chat_template: TemplateUse) -> bool:
        if chat_template == "off" or self._vocabulary.chat_template is None:
            return False
        return chat_template == "on" or not any(marker in text for marker in self._markers())

    def _wrap(self, texts: list[str]) -> list[list[int]]:
        """Tokenise the rendered template; control tokens' texts in `texts` themselves stay plain text."""
        marks = Marks(self._vocabulary, self._chat_template().cuts)
        content = marks.plain(texts[0]) + "".join(marks.cut() + marks.plain(text) for text in texts[1:])
        return marks.tokenize(self._chat_template().render(_user(content)))

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


def _check_images(rendered: str, image_marks: list[str]) -> None:
    """Raise InvalidRequest unless each image stands in the prompt once, in the order in which they came."""
    places = [rendered.find(mark) for mark in image_marks]
    if places != sorted(places) or any(rendered.count(mark) != 1 for mark in image_marks):
        message = "the model's chat template does not write each image just once, in their order"
        raise InvalidRequest(message, param="messages")


def _user(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]
