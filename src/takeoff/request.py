"""The vocabulary that every part of the server shares: a request, how to sample, what comes back.

Plain values. Nothing here knows HTTP, processes or llama.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from takeoff.errors import InvalidRequest

MAX_TOP_K = 1_000_000
MAX_TOKENS = 10_000_000
MAX_STOP_STRINGS = 32
MAX_STOP_CHARACTERS = 1_000
MAX_LOGIT_BIASES = 1_024
MAX_SEED = 2**64 - 1
MAX_DEPTH = 64  # of lists and objects in one another, in what a template is given
MAX_TOP_LOGPROBS = 20
DEFAULT_PRIORITY = 10
MAX_PRIORITY = 100


class FinishReason(StrEnum):
    """Why a request ended. Every accepted request ends with exactly one of these."""

    STOP = "stop"  # the model's own end, or a stop string
    LENGTH = "length"  # max_new_tokens or the end of the context
    CANCELLED = "cancelled"  # the client left or asked for it
    DEADLINE = "deadline"  # its time was up
    FAILED = "failed"  # our fault, or the engine died


class ConstraintKind(StrEnum):
    """The language a constraint is written in."""

    REGEX = "regex"
    JSON_SCHEMA = "json_schema"
    GRAMMAR = "grammar"  # Lark, or GBNF
    # JSON: `tools`, each `name` and `parameters`; `is_required`; `is_parallel`; and perhaps `response`, the
    # schema, as JSON, of an answer without calls
    TOOLS = "tools"


@dataclass(frozen=True, slots=True)
class Constraint:
    """What the whole completion must match. Tried by the preparer before it reaches an engine."""

    kind: ConstraintKind
    source: str  # as its kind has it: a schema as JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next token is chosen. Checked at birth; `InvalidRequest.param` names the field.

    Order of work on the logits: bans and biases, penalties, n-gram bans, temperature, top-k,
    top-p, min-p, then one draw.
    """

    temperature: float = 1.0  # 0.0 is greedy
    top_k: int = 0  # keep the k most likely tokens; 0 keeps all
    top_p: float = 1.0  # nucleus: the fewest tokens whose probability reaches this; 1.0 keeps all
    min_p: float = 0.0  # drop tokens below this share of the most likely one; 0.0 keeps all
    repetition_penalty: float = 1.0  # divides the logits of tokens seen in prompt or completion
    presence_penalty: float = 0.0  # subtracted once from tokens seen in the completion
    frequency_penalty: float = 0.0  # subtracted for each time a token is in the completion
    no_repeat_ngram_size: int = 0  # no n-gram of prompt and completion occurs twice; 0 is off
    logit_bias: dict[int, float] = field(default_factory=dict)  # token id -> added to its logit
    max_new_tokens: int | None = None  # None: to the end of the context
    min_new_tokens: int = 0  # the end of text and stop strings do not count before
    stop: tuple[str, ...] = ()  # ends the completion; not part of the text
    stop_tokens: tuple[str, ...] = ()  # ends it when one token's whole text equals one of these
    ignore_eos: bool = False  # go on after the end of text, to the length asked for
    seed: int | None = None  # None: the service draws one
    constraint: Constraint | None = None  # what ends with `stop` matches it
    logprobs: int | None = None  # tell each token's logprob, with so many alternatives; None: tell nothing
    prompt_logprobs: bool = False  # and of the prompt's tokens; then none of it is taken from a cache

    def __post_init__(self) -> None:
        _within("temperature", self.temperature, 0.0, 100.0)
        _within("top_k", self.top_k, 0, MAX_TOP_K)
        _within("top_p", self.top_p, 0.0, 1.0)
        _within("min_p", self.min_p, 0.0, 1.0)
        _within("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        _within("presence_penalty", self.presence_penalty, -100.0, 100.0)
        _within("frequency_penalty", self.frequency_penalty, -100.0, 100.0)
        _within("no_repeat_ngram_size", self.no_repeat_ngram_size, 0, 1_000)
        if self.max_new_tokens is not None:
            _within("max_new_tokens", self.max_new_tokens, 1, MAX_TOKENS)
            _within("min_new_tokens", self.min_new_tokens, 0, self.max_new_tokens)
        _within("min_new_tokens", self.min_new_tokens, 0, MAX_TOKENS)
        if self.logprobs is not None:
            _within("logprobs", self.logprobs, 0, MAX_TOP_LOGPROBS)
        elif self.prompt_logprobs:
            raise InvalidRequest("prompt_logprobs needs logprobs to be a number", param="logprobs")
        if self.seed is not None:
            _within("seed", self.seed, 0, MAX_SEED)
        _within("the number of logit_bias entries", len(self.logit_bias), 0, MAX_LOGIT_BIASES, "logit_bias")
        for token_id, bias in self.logit_bias.items():
            _within(f"logit_bias[{token_id}]", bias, -1e9, 1e9, "logit_bias")
        for name, strings in (("stop", self.stop), ("stop_tokens", self.stop_tokens)):
            _within(f"the number of {name} strings", len(strings), 0, MAX_STOP_STRINGS, name)
            for text in strings:
                if not 1 <= len(text) <= MAX_STOP_CHARACTERS:
                    raise InvalidRequest(
                        f"{name} strings must have 1 to {MAX_STOP_CHARACTERS} characters, got {len(text)}",
                        param=name,
                    )
                if lone_surrogate(text) is not None:
                    raise InvalidRequest(f"{name} strings must be Unicode, got {text!r}", param=name)

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0 or self.top_k == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Messages for the model's chat template, in the shape of OpenAI's API, which a door has checked."""

    # At least one; of an assistant at the end: it is continued. Content is a text or parts, of the types text
    # and image: those stand for the request's images, in their order.
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] = field(default_factory=list)
    template_values: dict[str, Any] = field(default_factory=dict)  # variables of this model's template
    reasoning_effort: str | None = None  # how hard to think: none, medium, ...; None: as the template has it


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a client asked for: one prompt and how to complete it."""

    prompt: str | tuple[int, ...] | Conversation  # ids are used as they are
    sampling: SamplingParams
    group: str = "primary"  # the consumer group that serves it
    tenant: str = ""  # whose it is: prefixes are reused within one tenant only
    priority: int = DEFAULT_PRIORITY  # weight of the tenant's share where there is not enough for all
    chat_template: bool | None = None  # wrap the text as a user's message; None: the server's setting
    keep_tokens: int | None = None  # a longer prompt loses the beginning of its text; None: it is refused
    lora_id: str | None = None  # adapter of the reader that the completion is computed with; None: none
    images: tuple[bytes, ...] = ()  # files, for where a text says <image>, or before it
    predicted: str = ""  # what the completion may be: a draft of it, which never changes it
    deadline_s: float | None = None  # from when the service is given it to its end; None: no limit

    def __post_init__(self) -> None:
        if self.keep_tokens is not None:
            _within("prompt_max_tokens", self.keep_tokens, 1, MAX_TOKENS)
        _within("priority", self.priority, 1, MAX_PRIORITY)


class Task(StrEnum):
    """What a reader does with a text. A model does one of these."""

    GENERATE = "generate"
    EMBED = "embed"
    CLASSIFY = "classify"


Text = str | tuple[str, str]  # a pair is joined by the tokenizer: query and document, question and context


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeRequest:
    """Texts to embed or to classify."""

    task: Task
    texts: tuple[Text, ...]
    group: str = "primary"
    tenant: str = ""  # whose it is
    deadline_s: float | None = None  # as of a Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """What an encoder made of the texts of one request."""

    vectors: list[list[float]]  # [num texts, dimensions or classes]
    num_tokens: int  # of all texts
    labels: tuple[str, ...] = ()  # of the classes; none for an embedding
    reader_id: str = ""  # that made them
    replica_id: str = ""  # of the reader, where it has several engines


class TokenLogprob(NamedTuple):
    """A token, and how likely the model held it: its own logits at temperature 1, nothing applied to them."""

    token_id: int
    piece: bytes  # its part of the text; none for a control token
    logprob: float | None  # natural logarithm, at least -9999; None: nothing comes before it


class TokenLogprobs(NamedTuple):
    """A token that came, and the likeliest that could have come in its place, itself perhaps among them."""

    token: TokenLogprob
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEvent:
    """What one step did to one request. Exactly one event of a request has a `finish_reason`."""

    request_id: int
    token_ids: tuple[int, ...] = ()
    text: str = ""  # whole characters; may be empty while text is held back
    finish_reason: FinishReason | None = None
    stop_string: str | None = None  # with STOP: which of the request's it was, if it was one
    cached_tokens: int = 0  # prompt tokens not computed again; sent with the first event
    queue_s: float = 0.0  # time spent waiting for a slot; sent with the first event
    accepted_prediction_tokens: int = 0  # of `token_ids`, computed ahead because they were predicted
    rejected_prediction_tokens: int = 0  # that were computed ahead in vain
    error: str | None = None  # with FAILED: what happened, for the client
    logprobs: tuple[
        TokenLogprobs, ...
    ] = ()  # of `token_ids`; with the first event those of the prompt before


def joined(events: Sequence[TokenEvent]) -> TokenEvent:
    """Events of one request that follow each other, one at least, as one."""
    return TokenEvent(
        request_id=events[0].request_id,
        token_ids=tuple(token_id for event in events for token_id in event.token_ids),
        text="".join(event.text for event in events),
        finish_reason=events[-1].finish_reason,
        stop_string=events[-1].stop_string,
        cached_tokens=events[0].cached_tokens,
        queue_s=events[0].queue_s,
        accepted_prediction_tokens=sum(event.accepted_prediction_tokens for event in events),
        rejected_prediction_tokens=sum(event.rejected_prediction_tokens for event in events),
        error=events[-1].error,
        logprobs=tuple(each for event in events for each in event.logprobs),
    )


def _within(name: str, value: float, low: float, high: float, param: str | None = None) -> None:
    """Raise InvalidRequest unless low <= value <= high; NaN is never within. `param` if not `name`."""
    if not (low <= value <= high) or (isinstance(value, float) and not math.isfinite(value)):
        raise InvalidRequest(f"{name} must be between {low:g} and {high:g}, got {value}", param=param or name)


def lone_surrogate(text: str) -> int | None:
    """Where the first lone surrogate stands, which JSON can spell and UTF-8 can't; None: nowhere."""
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        return exc.start
    return None


def strings_of(value: Any) -> Iterator[str]:
    """Every string in a value of JSON, names of members included."""
    values = [value]
    while values:
        each = values.pop()
        match each:
            case str():
                yield each
            case dict():
                values += (*each.keys(), *each.values())
            case list():
                values += each


def is_nested_deeper(value: Any, depth: int) -> bool:
    """Whether some value stands in more than `depth` lists and objects."""
    level = [value]
    for _ in range(depth + 1):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inner += each.values()
            elif isinstance(each, list):
                inner += each
        if not inner:
            return False
        level = inner
    return True


def describe(params: SamplingParams) -> dict[str, Any]:
    """The settings that differ from the default, for logs (never the prompt)."""
    default = SamplingParams()
    return {
        name: getattr(params, name)
        for name in params.__slots__
        if getattr(params, name) != getattr(default, name)
    }
