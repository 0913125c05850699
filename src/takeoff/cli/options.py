"""Command line options made from the settings tree, so that each is written once."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from takeoff.settings import ENV_PREFIX, Settings


def takes_settings(command: Callable[[dict[str, Any]], None]) -> Callable[..., None]:
    """A command with one option for each setting; `command` gets those by name, None: not given.

    Texts go to the settings tree as they are: there they are parsed, bounded and explained.
    """

    def with_options(**flags: Any) -> None:
        command({name: tuple(value) if isinstance(value, list) else value for name, value in flags.items()})

    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(name, field))
        for name, field in Settings.model_fields.items()
    ]
    with_options.__name__ = command.__name__
    with_options.__doc__ = command.__doc__
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_options


def _option(name: str, field: FieldInfo) -> Any:
    """The annotation that typer makes an option of."""
    flag = f"--{name.replace('_', '-')}"
    help_text = f"{field.description} ({ENV_PREFIX}{name.upper()}{_default_text(field.default)})"
    if field.annotation is bool:
        return Annotated[bool | None, typer.Option(f"{flag}/--no-{flag[2:]}", help=help_text)]
    if typing.get_origin(field.annotation) is tuple:
        return Annotated[list[str] | None, typer.Option(flag, help=f"{help_text}; may be repeated")]
    return Annotated[
        str | None, typer.Option(flag, help=help_text, metavar="|".join(_values(field.annotation)).upper())
    ]


def _default_text(default: Any) -> str:
    if default in (None, PydanticUndefined, (), False):
        return ""
    return f"; default {default}"


def _values(annotation: Any) -> Iterable[str]:
    """What may stand after the flag: type names, or the words of a Literal."""
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return [
            text for part in typing.get_args(annotation) if part is not type(None) for text in _values(part)
        ]
    return [{int: "number", float: "number", str: "text"}.get(annotation, "path")]
