"""What the routes that generate have in common: the fields that choose the tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, StrictStr

from takeoff.errors import InvalidRequest, NotFound
from takeoff.http.bodies import Texts
from takeoff.http.openai.constraints import ConstrainedBody, FormattedBody
from takeoff.http.openai.fields import Inner, Unserved
from takeoff.http.ports import Service
from takeoff.request import (
    MAX_LOGIT_BIASES,
    MAX_SEED,
    MAX_STOP_STRINGS,
    MAX_TOKENS,
    MAX_TOP_K,
    SamplingParams,
)
from takeoff.settings.values import DEFAULT_GROUP

MAX_N = 16
MAX_MODEL_CHARACTERS = 1_024
MAX_METADATA = 16


def _few(biases: Any) -> Any:
    if isinstance(biases, dict) and len(biases) > MAX_LOGIT_BIASES:
        raise ValueError(f"at most {MAX_LOGIT_BIASES} entries, got {len(biases)}")
    return biases


class StreamOptions(Inner):
    """What a stream tells beside its text."""

    unserved: ClassVar[Mapping[str, Unserved]] = {
        "continuous_usage_stats": Unserved((None, False)),
        "include_obfuscation": Unserved((None, False)),
    }

    include_usage: bool = Field(False, description="Tell the tokens in a last event")


class TokensBody(ConstrainedBody):
    """The fields of one answer's tokens. Null means the default."""

    prompt_field: ClassVar[str]  # what a refusal that names no field is about
    max_tokens_field: ClassVar[str] = "max_tokens"
    wire_names: ClassVar[Mapping[str | None, str]] = {"group": "model"}  # of what has another name inside

    model: StrictStr | None = Field(
        None,
        max_length=MAX_MODEL_CHARACTERS,
        description="A model, a reader or a group; default: the group `primary`",
    )
    temperature: float | None = Field(1.0, ge=0, le=100, description="0 is greedy; default 1")
    top_p: float | None = Field(1.0, gt=0, le=1, description="Nucleus; default 1, which is no restriction")
    stop: StrictStr | Texts | None = Field(
        None, description=f"Text, or up to {MAX_STOP_STRINGS}, that ends the answer and is no part of it"
    )
    seed: int | None = Field(
        None, ge=-(2**63), le=2**63 - 1, description="The same seed and request give the same answer"
    )
    stream: bool | None = Field(False, description="Send the answer in events as it is made")
    presence_penalty: float | None = Field(
        0.0, ge=-2, le=2, description="Subtracted from the logits of tokens in the answer so far"
    )
    frequency_penalty: float | None = Field(
        0.0, ge=-2, le=2, description="Subtracted for each time that a token is in the answer so far"
    )
    logit_bias: Annotated[dict[int, float] | None, BeforeValidator(_few)] = Field(
        None, description=f"Token id: what is added to its logit; up to {MAX_LOGIT_BIASES} entries"
    )
    user: str | None = Field(None, max_length=1_024, description="Who asks")
    min_p: float | None = Field(
        0.0, ge=0, le=1, description="Drop tokens below this share of the likeliest; not OpenAI's"
    )
    top_k: int | None = Field(
        0, ge=-1, le=MAX_TOP_K, description="Keep the k likeliest; 0 and -1 keep all; not OpenAI's"
    )
    repetition_penalty: float | None = Field(
        1.0, ge=0.01, le=100, description="Above 1 penalises repetition, of the prompt too; not OpenAI's"
    )
    min_tokens: int | None = Field(
        0, ge=0, le=MAX_TOKENS, description="The answer does not end before; not OpenAI's"
    )
    ignore_eos: bool | None = Field(
        False, description="Go on after the end, to the length asked for; not OpenAI's"
    )

    @property
    def group(self) -> str:
        return self.model or DEFAULT_GROUP

    def sampling(self, max_tokens: int | None) -> SamplingParams:
        """How the tokens of an answer of so many are chosen.

        Raises:
            InvalidRequest: fields that contradict each other, or are out of bounds.
        """
        stop: Sequence[str] = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if max_tokens is not None and (self.min_tokens or 0) > max_tokens:
            raise InvalidRequest(
                f"min_tokens is {self.min_tokens}, which is more than {self.max_tokens_field}, {max_tokens}",
                param="min_tokens",
            )
        constraint = self.constraint()
        return SamplingParams(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_k=max(0, self.top_k or 0),
            top_p=1.0 if self.top_p is None else self.top_p,
            min_p=self.min_p or 0.0,
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias=self.logit_bias or {},
            seed=None if self.seed is None else self.seed % (MAX_SEED + 1),
            max_new_tokens=max_tokens,
            min_new_tokens=self.min_tokens or 0,
            stop=tuple(stop),
            ignore_eos=bool(self.ignore_eos),
            constraint=None if constraint is None else constraint[1],
        )

    @contextlib.contextmanager
    def in_its_names(self) -> Iterator[None]:
        """A refusal from here on names fields of this body.

        Raises:
            InvalidRequest, NotFound: those that are raised inside.
        """
        try:
            yield
        except (InvalidRequest, NotFound) as exc:
            constraint = self.constraint()
            names: dict[str | None, str] = {
                None: self.prompt_field,
                "image_data": self.prompt_field,
                **self.wire_names,
            }
            if constraint is not None:
                field, tried = constraint
                names[tried.kind.value] = field
                if exc.param == tried.kind.value:
                    exc.message = f"{field}: {exc.message}"
            exc.param = names.get(exc.param, exc.param)
            raise


class SamplingBody(TokensBody, FormattedBody):
    """And those of answers of several choices, which /v1/completions and /v1/chat/completions have."""

    n: int | None = Field(1, ge=1, le=MAX_N, description=f"Choices, up to {MAX_N}")
    stream_options: StreamOptions | None = Field(
        None, description="What a stream tells beside its text; only with `stream`"
    )

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with an event that tells the tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    def check_fields(self, *, lenient: bool) -> None:
        """As OpenAIBody has it; and `stream_options` are a stream's."""
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("stream_options needs stream to be true", param="stream_options")
        super().check_fields(lenient=lenient)

    def samplings(self, max_tokens: int | None) -> list[SamplingParams]:
        """How the tokens of each choice are chosen.

        Raises:
            InvalidRequest: fields that contradict each other, or are out of bounds.
        """
        sampling = self.sampling(max_tokens)
        choices = range(self.n or 1)
        if sampling.seed is None:
            return [sampling for _ in choices]
        return [replace(sampling, seed=(sampling.seed + choice) % (MAX_SEED + 1)) for choice in choices]


def model_told(model: str | None, service: Service) -> str:
    """The name that an answer gives for the `model` that was asked for."""
    return model or next(iter(service.models()), DEFAULT_GROUP)
