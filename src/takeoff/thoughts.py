"""How a model writes what it thinks before it answers: by family, as its chat template says.

A thought stands between two marks at the beginning of an answer. Of the families that write it in
another way, gpt-oss with its channels is one: their answers are told as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto

# What templates write between a thought and the answer, and constrained answers always have there.
GAP = "\n\n"


class ThoughtFormat(StrEnum):
    """The families."""

    TAGS = "tags"  # Qwen3, DeepSeek, GLM, MiniMax, Nemotron, Olmo, SmolLM3, ...
    SEED = "seed"  # Seed-OSS
    MISTRAL = "mistral"  # Magistral
    KIMI = "kimi"  # Kimi-VL
    EXAONE = "exaone"  # EXAONE Deep
    COHERE = "cohere"  # Command A
    GEMMA = "gemma"  # Gemma 4


@dataclass(frozen=True, slots=True)
class ThoughtSyntax:
    """The marks around a thought: text, control tokens, or one after the other."""

    opening: str
    closing: str


SYNTAX: dict[ThoughtFormat, ThoughtSyntax] = {
    ThoughtFormat.TAGS: ThoughtSyntax("<think>", "</think>"),
    ThoughtFormat.SEED: ThoughtSyntax("<seed:think>", "</seed:think>"),
    ThoughtFormat.MISTRAL: ThoughtSyntax("[THINK]", "[/THINK]"),
    ThoughtFormat.KIMI: ThoughtSyntax("◁think▷", "◁/think▷"),
    ThoughtFormat.EXAONE: ThoughtSyntax("<thought>", "</thought>"),
    ThoughtFormat.COHERE: ThoughtSyntax("<|START_THINKING|>", "<|END_THINKING|>"),
    ThoughtFormat.GEMMA: ThoughtSyntax("<|channel>thought", "<channel|>"),
}


def thought_format_of(template: str | None) -> ThoughtFormat | None:
    """The family whose marks a chat template writes or looks for; None: its model does not think."""
    if template is None:
        return None
    return next((each for each, syntax in SYNTAX.items() if syntax.closing in template), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThoughtStart:
    """What the end of a prompt says of the thought that may come."""

    format: ThoughtFormat
    is_open: bool  # the prompt has opened it; else the model does, if it thinks
    control_texts: dict[int, str] = field(default_factory=dict)  # of the marks' control tokens


def is_thought_open(format_: ThoughtFormat, prompt: str, said: str) -> bool | None:
    """Whether `prompt` has opened a thought; None: no thought follows it, it may have closed one.

    `said` is the text of the answer that `prompt` ends with already.
    """
    syntax = SYNTAX[format_]
    if said.strip():
        return said.rfind(syntax.opening) > said.rfind(syntax.closing) or None
    prompt = prompt.rstrip()
    return None if prompt.endswith(syntax.closing) else prompt.endswith(syntax.opening)


@dataclass(frozen=True, slots=True)
class Thought:
    """More of what the model thinks before it answers. It is no part of the content."""

    text: str


class _At(Enum):
    START = auto()  # of an answer that may begin with a thought
    THOUGHT = auto()
    GAP = auto()
    ANSWER = auto()


class ThoughtParser:
    """Tells a thought from the answer behind it as text comes: any cutting of it gives the same.

    Blanks at both ends of a thought are no part of it.
    """

    def __init__(self, start: ThoughtStart) -> None:
        self._syntax = SYNTAX[start.format]
        self._at = _At.THOUGHT if start.is_open else _At.START
        self._held = ""
        self.has_begun = start.is_open
        self._is_blank = True  # nothing was thought yet
        self._gap = len(GAP)  # newlines of it that may still come

    @property
    def is_over(self) -> bool:
        """Whether what comes from here on is no thought."""
        return self._at in (_At.GAP, _At.ANSWER)

    def push(self, text: str) -> Iterator[Thought | str]:
        """What `text` adds to the thought, and to the answer."""
        self._held += text
        if self._at is _At.START:
            self._start()
        if self._at is _At.THOUGHT:
            thought = self._thought()
            self._is_blank = self._is_blank and not thought
            if thought:
                yield Thought(thought)
        if self._at is _At.GAP:
            self._skip_gap()
        if self._at is _At.ANSWER and self._held:
            answer, self._held = self._held, ""
            yield answer

    def end(self) -> Iterator[Thought | str]:
        """What was held back, at the end of the text."""
        held, self._held = self._held, ""
        if self._at is _At.THOUGHT and held.strip():
            yield Thought(held.rstrip())
        elif self._at is _At.START and held:
            yield held

    def _start(self) -> None:
        begun, opening = self._held.lstrip(), self._syntax.opening
        if begun.startswith(opening):
            self._at, self._held = _At.THOUGHT, begun[len(opening) :]
            self.has_begun = True
        elif not opening.startswith(begun):
            self._at = _At.ANSWER

    def _thought(self) -> str:
        """Take what belongs to the thought for sure; go on behind its end."""
        if self._is_blank:
            self._held = self._held.lstrip()
        held, closing = self._held, self._syntax.closing
        place = held.find(closing)
        if place >= 0:
            self._at, self._held = _At.GAP, held[place + len(closing) :]
            return held[:place].rstrip()
        keep = len(held)
        keep -= next((size for size in range(len(closing) - 1, 0, -1) if held.endswith(closing[:size])), 0)
        keep = len(held[:keep].rstrip())
        self._held = held[keep:]
        return held[:keep]

    def _skip_gap(self) -> None:
        rest = self._held.lstrip("\n")
        num_newlines = min(len(self._held) - len(rest), self._gap)
        self._gap -= num_newlines
        self._held = self._held[num_newlines:]
        if self._held or not self._gap:
            self._at = _At.ANSWER
