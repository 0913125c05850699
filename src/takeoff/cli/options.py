"""Command line options made from the settings tree, so that each is written once."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

import typer
from pydantic_core import PydanticUndefined

from takeoff.settings.fields import Settings, flags
from takeoff.settings.names import variable

_WORDS: dict[Any, str] = {bool: "true or false", int: "number", float: "number", str: "text"}


def takes_settings(command: Callable[..., None]) -> Callable[..., None]:
    """A command with one option for each setting; `command` gets those by name, None: not given.

    They are its first argument. Those after it stay as they are. Texts go to the settings tree as they
    are: there they are parsed, bounded and explained.
    """
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    def with_options(**given: Any) -> None:
        others = {parameter.name: given.pop(parameter.name) for parameter in own}
        flags = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        command(flags, **others)

    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(name))
        for name in flags()
    ]
    with_options.__name__ = command.__name__
    with_options.__doc__ = command.__doc__
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_options


def _option(name: str) -> Any:
    """The annotation that typer makes an option of."""
    field = Settings.model_fields[name]
    flag = f"--{name.replace('_', '-')}"
    help_text = f"{field.description} ({variable(name)}{_default_text(field.default)})"
    if field.annotation is bool:
        return Annotated[bool | None, typer.Option(f"{flag}/--no-{flag[2:]}", help=help_text)]
    if typing.get_origin(field.annotation) is tuple:
        return Annotated[list[str] | None, typer.Option(flag, help=f"{help_text}; may be repeated")]
    return Annotated[
        str | None, typer.Option(flag, help=help_text, metavar="|".join(values_of(field.annotation)).upper())
    ]


def _default_text(default: Any) -> str:
    if default in (None, PydanticUndefined, (), {}, False):
        return ""
    return f"; default {default}"


def values_of(annotation: Any) -> Iterable[str]:
    """What may stand after the flag: kinds of value, or the words of a Literal."""
    origin = typing.get_origin(annotation)
    parts = typing.get_args(annotation)
    if origin is Annotated:
        return values_of(parts[0])
    if origin is Literal:
        return parts
    if origin in (typing.Union, types.UnionType):
        return [text for part in parts if part is not type(None) for text in values_of(part)]
    if origin is dict:
        return ["name=path,..."]
    if origin is tuple:
        return [f"{text},..." for text in values_of(parts[0])]
    return [_WORDS.get(annotation, "path")]
