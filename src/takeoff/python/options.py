"""What a caller may say: a prompt, how to sample, a conversation, the settings of a model. Checked here."""

from __future__ import annotations

import difflib
import json
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypedDict, get_type_hints

import msgspec

from takeoff.errors import InvalidRequest, SettingsError
from takeoff.request import Constraint, ConstraintKind, Conversation, Request, SamplingParams, Text
from takeoff.settings import Settings, load_settings
from takeoff.settings.fields import flags

Texts = list[str] | tuple[str, ...]  # not Sequence[str]: that a string is, too
TokenIds = list[int] | tuple[int, ...]
Prompt = str | TokenIds
Prompts = Texts | list[list[int]] | list[tuple[int, ...]]
Pair = tuple[str, str]  # query and document, question and context


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


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


class Options(Sampling, total=False):
    """What every generation takes: `Sampling`, and

    lora_id: name of an adapter that the model was loaded with; None: the model as it is.
    """

    lora_id: str | None


class ChatOptions(Options, total=False):
    """How a conversation is answered: `Options`, and

    reasoning_effort: how hard to think, as the model's template knows it: `none` does not, `medium` is the
        default of models that do; None: as the template has it.
    """

    reasoning_effort: Effort | None


class PromptOptions(Options, total=False):
    """How a prompt is completed: `Options`, and

    chat_template: whether a text is wrapped as a user's message; None: as the setting says, by default
        where the model has a template and the text has none of its marks. Token ids never are.
    images: files, for where a text says <image>, or before it; of several prompts each is asked of them.
    """

    chat_template: bool | None
    images: Sequence[bytes]


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


class _Turn(msgspec.Struct, forbid_unknown_fields=True):
    """A `Message` that was checked."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str


_OPTION_TYPES = get_type_hints(PromptOptions) | get_type_hints(ChatOptions)


def is_one(prompts: Prompt | Prompts) -> bool:
    """Whether it is one prompt, a text or token ids."""
    return not isinstance(prompts, list | tuple) or (bool(prompts) and isinstance(prompts[0], int))


def prompt_request(
    prompt: object,
    group: str,
    options: Mapping[str, Any],
    *,
    logprobs: int | None = None,
    prompt_logprobs: bool = False,
) -> Request:
    """What the service is asked for a `Prompt` with `PromptOptions`.

    Raises:
        InvalidRequest: an option that there is not, or wrong; no prompt.
    """
    given = _converted(options, PromptOptions)
    chat_template, lora_id = given.pop("chat_template", None), given.pop("lora_id", None)
    images = tuple(given.pop("images", ()))
    checked = _checked_prompt(prompt)
    if not isinstance(checked, str):
        for name, has_meaning in (("chat_template", chat_template), ("images", images)):
            if has_meaning:
                raise InvalidRequest(f"{name} is for a text, token ids are used as they are", param=name)
    return Request(
        prompt=checked,
        sampling=replace(sampling_params(given), logprobs=logprobs, prompt_logprobs=prompt_logprobs),
        group=group,
        chat_template=chat_template,
        lora_id=lora_id,
        images=images,
    )


def chat_request(
    messages: Sequence[Message],
    group: str,
    options: Mapping[str, Any],
    *,
    logprobs: int | None = None,
    prompt_logprobs: bool = False,
) -> Request:
    """What the service is asked for a conversation with `ChatOptions`.

    Raises:
        InvalidRequest: an option that there is not, or wrong; no list of messages of text.
    """
    given = _converted(options, ChatOptions)
    lora_id, effort = given.pop("lora_id", None), given.pop("reasoning_effort", None)
    return Request(
        prompt=replace(conversation(messages), reasoning_effort=effort),
        sampling=replace(sampling_params(given), logprobs=logprobs, prompt_logprobs=prompt_logprobs),
        group=group,
        lora_id=lora_id,
    )


def sampling_params(sampling: Mapping[str, Any]) -> SamplingParams:
    """What `sampling` says.

    Raises:
        InvalidRequest: an option that there is not, of the wrong type, or out of its range.
    """
    given = _converted(sampling, Sampling)
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


def conversation(messages: Sequence[Message]) -> Conversation:
    """The messages, checked.

    Raises:
        InvalidRequest: it is no list of messages of text, or an empty one.
    """
    try:
        turns = msgspec.convert(messages, list[_Turn])
    except msgspec.ValidationError as exc:
        raise InvalidRequest(f"messages: {exc}", param="messages") from exc
    if not turns:
        raise InvalidRequest("there are no messages", param="messages")
    return Conversation(messages=[msgspec.structs.asdict(turn) for turn in turns])


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


def check_texts(texts: Iterable[object]) -> None:
    """Raise InvalidRequest unless each is a text or a pair of them."""
    try:
        msgspec.convert(list(texts), list[Text])
    except msgspec.ValidationError as exc:
        raise InvalidRequest(f"texts: {exc}", param="texts") from exc


def _checked_prompt(prompt: object) -> str | tuple[int, ...]:
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list | tuple) and all(type(each) is int for each in prompt):
        return tuple(prompt)
    raise InvalidRequest(f"a prompt is a text or token ids, got {reprlib.repr(prompt)}", param="prompt")


def _converted(options: Mapping[str, Any], known: type) -> dict[str, Any]:
    """The options by name, those of `known` only."""
    names = known.__annotations__  # its own and those it inherits
    given = {}
    for name, value in options.items():
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
            raise InvalidRequest(f"{name!r} is no option of this call; did you mean {near!r}?", param=name)
        try:
            given[name] = msgspec.convert(value, _OPTION_TYPES[name], builtin_types=(bytes,))
        except msgspec.ValidationError as exc:
            raise InvalidRequest(f"{name}: {exc}", param=name) from exc
    return given
