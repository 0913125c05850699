"""What a caller may say: how to sample, a conversation, the settings of a model. Checked here."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, get_type_hints

import msgspec

from takeoff.errors import InvalidRequest, SettingsError
from takeoff.request import Constraint, ConstraintKind, SamplingParams
from takeoff.settings import Settings, load_settings
from takeoff.settings.fields import flags

Texts = list[str] | tuple[str, ...]  # not Sequence[str]: that a string is, too


class Sampling(TypedDict, total=False):
    """How the next token is chosen: the fields of `takeoff.request.SamplingParams`, with their defaults.

    `regex` or `json_schema`, not both: what a completion that ends by itself then matches.
    """

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    no_repeat_ngram_size: int
    logit_bias: dict[int, float]
    max_new_tokens: int | None
    min_new_tokens: int
    stop: str | Sequence[str]
    stop_tokens: Sequence[str]
    ignore_eos: bool
    seed: int | None
    regex: str
    json_schema: str | dict[str, Any]


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


class _Turn(msgspec.Struct, forbid_unknown_fields=True):
    """A `Message` that was checked."""

    role: str
    content: str


_SAMPLING_TYPES = get_type_hints(Sampling)


def sampling_params(sampling: Mapping[str, Any]) -> SamplingParams:
    """What `sampling` says.

    Raises:
        InvalidRequest: an option that there is not, of the wrong type, or out of its range.
    """
    given = {name: _converted(name, value) for name, value in sampling.items()}
    regex, schema = given.pop("regex", None), given.pop("json_schema", None)
    if regex is not None and schema is not None:
        raise InvalidRequest("a completion matches a regex or a json_schema, not both", param="json_schema")
    if regex is not None:
        given["constraint"] = Constraint(ConstraintKind.REGEX, regex)
    if schema is not None:
        source = schema if isinstance(schema, str) else json.dumps(schema)
        given["constraint"] = Constraint(ConstraintKind.JSON_SCHEMA, source)
    if isinstance(given.get("stop"), str):
        given["stop"] = [given["stop"]]
    for name in ("stop", "stop_tokens"):
        if name in given:
            given[name] = tuple(given[name])
    return SamplingParams(**given)


def conversation(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """The (role, content) of every message.

    Raises:
        InvalidRequest: it is no list of messages of text.
    """
    try:
        turns = msgspec.convert(messages, list[_Turn])
    except msgspec.ValidationError as exc:
        raise InvalidRequest(f"messages: {exc}", param="messages") from exc
    return [(turn.role, turn.content) for turn in turns]


def model_settings(model: str | None, settings: Mapping[str, Any]) -> Settings:
    """Settings as of `takeoff serve`: what is named here wins over TAKEOFF_* variables and a manifest.

    Raises:
        SettingsError: one that there is not, or wrong, or a manifest of several readers.
    """
    for name in settings:
        if name not in flags():
            near = difflib.get_close_matches(name, flags(), n=1, cutoff=0.0)[0]
            raise SettingsError(f"{name!r} is not a setting", param=name, hint=f"did you mean {near!r}?")
    loaded = load_settings({"model": model, **settings})
    if len(loaded.readers) > 1:
        raise SettingsError(
            f"the manifest has {len(loaded.readers)} readers, and this is one model", param="manifest"
        )
    return loaded


def _converted(name: str, value: Any) -> Any:
    if name not in _SAMPLING_TYPES:
        near = difflib.get_close_matches(name, _SAMPLING_TYPES, n=1, cutoff=0.0)[0]
        raise InvalidRequest(f"{name!r} is no sampling option; did you mean {near!r}?", param=name)
    try:
        return msgspec.convert(value, _SAMPLING_TYPES[name])
    except msgspec.ValidationError as exc:
        raise InvalidRequest(f"{name}: {exc}", param=name) from exc
