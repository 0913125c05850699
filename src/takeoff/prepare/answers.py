"""One answer for each question that the preparer is asked."""

from __future__ import annotations

from takeoff.errors import InvalidRequest, PromptTooLong
from takeoff.ipc.messages import (
    Answer,
    ChatRendered,
    ConstraintTried,
    DescribeVocabulary,
    Detokenize,
    Detokenized,
    Image,
    PlacedImage,
    Prepare,
    PrepareChat,
    Prepared,
    PrepareFailed,
    Question,
    RenderChat,
    Spell,
    Tokenize,
    Tokenized,
    TryConstraint,
    VocabularyDescribed,
)
from takeoff.prepare.chat_template import TemplateBroken, TemplateRefused
from takeoff.prepare.constraint_trial import ConstraintTrial
from takeoff.prepare.images import decode_image
from takeoff.prepare.prompt import PromptBuilder
from takeoff.prepare.tokenizer import Tokenizer

MEMORY_LIMIT_BYTES = 2 << 30  # that requests may add to what the vocabulary took


class Answerer:
    """Answers over one vocabulary; never raises what a question can cause."""

    def __init__(self, tokenizer: Tokenizer, *, tries_constraints: bool = False) -> None:
        self._tokenizer = tokenizer
        self._trial = ConstraintTrial(tokenizer.for_constraints(), tokenizer) if tries_constraints else None
        self._builder = PromptBuilder(tokenizer)
        self._last_image: tuple[bytes, Image] | None = None

    def answer(self, question: Question) -> Answer | PrepareFailed:
        """The answer, or why there is none."""
        try:
            return self._answer(question)
        except InvalidRequest as exc:
            return PrepareFailed(
                question.ask_id, _sendable(exc.message), "invalid_request", exc.hint, exc.param
            )
        except TemplateRefused as exc:
            return PrepareFailed(question.ask_id, _sendable(str(exc)), "invalid_request")
        except TemplateBroken as exc:
            hint = "serve with --chat-template off, or use another model file"
            return PrepareFailed(question.ask_id, _sendable(str(exc)), "preparer_failed", hint)
        except MemoryError:
            error = f"preparing the prompt needs more than {MEMORY_LIMIT_BYTES >> 30} GiB of memory"
            return PrepareFailed(question.ask_id, error, "preparer_failed")

    def _answer(self, question: Question) -> Answer | PrepareFailed:
        match question:
            case Prepare():
                return self._prepare(question)
            case PrepareChat():
                return self._prepare_chat(question)
            case Tokenize():
                return self._tokenize(question)
            case Spell(ask_id=ask_id, token_ids=token_ids):
                return self._spelled(ask_id, token_ids)
            case Detokenize():
                return self._detokenize(question)
            case DescribeVocabulary(ask_id=ask_id):
                return self._described(ask_id)
            case RenderChat(ask_id=ask_id, conversations=conversations):
                texts = [
                    self._builder.render(
                        [{"role": each.role, "content": each.content} for each in conversation],
                        add_generation_prompt=question.add_generation_prompt,
                    )
                    for conversation in conversations
                ]
                return ChatRendered(ask_id, texts)
            case TryConstraint(ask_id=ask_id, constraint=constraint, thought=thought):
                assert self._trial is not None, "loaded for it"
                return ConstraintTried(ask_id, self._trial.grammar(constraint, thought))

    def _prepare(self, question: Prepare) -> Prepared | PrepareFailed:
        images = [self._decoded(data) for data in question.images]
        if images:
            if question.keep_tokens is not None:
                raise InvalidRequest("a prompt with an image can't be cut", param="prompt_max_tokens")
            ids, places = self._builder.build_around(question.text, question.chat_template, len(images))
        else:
            ids, places = self._builder.build(question.text, question.chat_template, question.keep_tokens), []
        return _bounded(
            Prepared(question.ask_id, ids, list(map(PlacedImage, images, places))), question.max_tokens
        )

    def _prepare_chat(self, question: PrepareChat) -> Prepared | PrepareFailed:
        images = [self._decoded(data) for data in question.images]
        chat = self._builder.build_chat(question.conversation)
        if len(images) != len(chat.image_places):
            message = f"the conversation has {len(chat.image_places)} images, and {len(images)} came with it"
            raise InvalidRequest(message, param="messages")
        placed = list(map(PlacedImage, images, chat.image_places))
        prepared = Prepared(question.ask_id, chat.token_ids, placed, chat.thought)
        return _bounded(prepared, question.max_tokens)

    def _decoded(self, data: bytes) -> Image:
        """An image; the texts of a list ask of the same one in a row."""
        if self._last_image is None or self._last_image[0] != data:
            self._last_image = data, decode_image(data)
        return self._last_image[1]

    def _tokenize(self, question: Tokenize) -> Tokenized:
        tokenizer = self._tokenizer
        if not question.text:
            ids = []
        elif question.add_special_tokens:
            ids = self._builder.build(question.text, question.chat_template)
        else:
            ids = tokenizer.tokenize(question.text, parse_special=True)
        if question.skip_special_tokens:
            ids = [token_id for token_id in ids if not tokenizer.is_control(token_id)]
        return self._spelled(question.ask_id, ids)

    def _spelled(self, ask_id: int, ids: list[int]) -> Tokenized:
        return Tokenized(ask_id, ids, [self._tokenizer.text(token_id) for token_id in ids])

    def _described(self, ask_id: int) -> VocabularyDescribed:
        told = self._tokenizer
        bos, eos = (told.text(token_id) for token_id in (told.bos_token_id, told.eos_token_id))
        return VocabularyDescribed(ask_id, bos, eos, told.adds_bos, told.chat_template)

    def _detokenize(self, question: Detokenize) -> Detokenized:
        tokenizer = self._tokenizer
        ids = [self._token_id(token) for token in question.tokens]
        if question.skip_special_tokens:
            ids = [token_id for token_id in ids if not tokenizer.is_control(token_id)]
        text = b"".join(tokenizer.piece(token_id) for token_id in ids)
        return Detokenized(question.ask_id, text.decode("utf-8", "replace"))

    def _token_id(self, token: int | str) -> int:
        """An id, given as such or as the vocabulary writes it.

        Raises:
            InvalidRequest: the vocabulary has no such token.
        """
        if isinstance(token, str):
            token_id = self._tokenizer.find(token)
            if token_id is None:
                raise InvalidRequest(f"the vocabulary has no token {token!r}", param="tokens")
            return token_id
        if not 0 <= token < self._tokenizer.n_vocab:
            raise InvalidRequest(
                f"the vocabulary has no token {token}, it ends at {self._tokenizer.n_vocab - 1}",
                param="tokens",
            )
        return token


def _sendable(text: str) -> str:
    """What a schema or a template has spelt may have halves of characters in it, which UTF-8 can't carry."""
    return text.encode("utf-8", "backslashreplace").decode()


def _bounded(prepared: Prepared, max_tokens: int) -> Prepared | PrepareFailed:
    """`prepared`, or that it is too long."""
    num_tokens = len(prepared.token_ids)
    if num_tokens <= max_tokens:
        return prepared
    error = PromptTooLong.beyond(num_tokens, max_tokens + 1)
    return PrepareFailed(prepared.ask_id, error.message, "context_length_exceeded", error.hint)
