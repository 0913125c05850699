"""The forms in which a value may be written, as types of the fields."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

DEFAULT_GROUP = "primary"

_LEVELS = {"warn": "warning", "trace": "debug", "critical": "error"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def _no_control_characters(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("control characters are not allowed")
    return text


def _as_path(value: Any) -> Any:
    return Path(value) if isinstance(value, str) else value


def _as_names(value: Any) -> Any:
    """A list, or the parts of a text between commas, as a tuple."""
    if isinstance(value, str):
        return tuple(part for part in map(str.strip, value.split(",")) if part)
    return tuple(value) if isinstance(value, list) else value


def _as_paths(value: Any) -> Any:
    names = _as_names(value)
    return tuple(map(_as_path, names)) if isinstance(names, tuple) else value


def _as_adapters(value: Any) -> Any:
    """`name=path,name=path`, or a list of such, as a mapping."""
    parts = _as_names(value)
    if not isinstance(parts, tuple) or not all(isinstance(part, str) for part in parts):
        return value
    adapters: dict[str, str] = {}
    for part in parts:
        name, _, path = (text.strip() for text in part.partition("="))
        if not name or not path:
            raise ValueError(f"adapters are written name=path,name=path; {part!r} is not name=path")
        if name in adapters:
            raise ValueError(f"two adapters are called {name!r}")
        adapters[name] = path
    return adapters


def _as_level(value: Any) -> Any:
    return _LEVELS.get(value.lower(), value.lower()) if isinstance(value, str) else value


def _group_or_default(value: Any) -> Any:
    return DEFAULT_GROUP if value == "" else value  # what takeoff-client sends for no group


def _context_or_default(value: Any) -> Any:
    zero = value == "0" or (isinstance(value, int) and not isinstance(value, bool) and value == 0)
    return None if zero else value


def _off_as_none(value: Any) -> Any:
    return None if value == "off" else value


def _as_log(value: Any) -> Any:
    return value if value == "stderr" else _as_path(_off_as_none(value))


def _never(value: bool) -> bool:
    if value:
        raise ValueError("this server fetches no images; send them with the request (/image_generate)")
    return value


Printable = Annotated[str, AfterValidator(_no_control_characters)]
Group = Annotated[Printable, BeforeValidator(_group_or_default)]
Adapters = Annotated[dict[str, str], BeforeValidator(_as_adapters)]
Context = Annotated[int | None, BeforeValidator(_context_or_default)]
Level = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_as_level)]
Port = Annotated[int, Field(ge=0, le=65_535)]
DoorPort = Annotated[Port | None, BeforeValidator(_off_as_none)]
Names = Annotated[tuple[str, ...], BeforeValidator(_as_names)]
Folders = Annotated[tuple[Path, ...], BeforeValidator(_as_paths)]
FilePath = Annotated[Path, BeforeValidator(_as_path)]
Log = Annotated[Path | Literal["stderr"] | None, BeforeValidator(_as_log)]
NeverTrue = Annotated[bool, AfterValidator(_never)]
