"""`takeoff keys`: who may use the server. A key is shown once, when it is made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from takeoff.keys.key import Key
    from takeoff.settings import Settings

keys_app = typer.Typer(no_args_is_help=True, help="Make, list and revoke the keys of the server's users.")

_File = Annotated[
    Path | None,
    typer.Option(
        "--keys-file", help="File of the keys; default: keys.json in the store  [env: TAKEOFF_KEYS_FILE]"
    ),
]
_Home = Annotated[Path | None, typer.Option(help="Folder of the model store  [env: TAKEOFF_HOME]")]
_Which = Annotated[str, typer.Argument(help="The key's name or its id", metavar="NAME|ID")]


@keys_app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is, or what for", metavar="NAME")],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="What it opens: inference, admin or metrics; may be repeated; default inference",
            metavar="SCOPE",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model, reader or group that it may use; may be repeated; default all"),
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="Requests a minute; beyond: 429")] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(help="Tokens of prompts and completions a minute; beyond: 429")
    ] = None,
    max_open: Annotated[int | None, typer.Option(help="Texts in work at once; beyond: 429")] = None,
    priority: Annotated[
        int | None,
        typer.Option(
            help="Weight of its share where not all keys can have what they want: 1 to 100; default 10"
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(help="Last day it is valid, in UTC, or a time as 2027-01-31T12:00Z", metavar="DATE"),
    ] = None,
    keys: _File = None,
    home: _Home = None,
) -> None:
    """Make a key and print it. This is the only time that it is shown: the file has its SHA-256.

    A running server knows it within a second.
    """
    from datetime import UTC, datetime

    from takeoff.keys.key import digest_of, new_id, new_secret

    secret = new_secret()
    key = _checked(
        {
            "id": new_id(),
            "name": name,
            "sha256": digest_of(secret.encode()).hex(),
            "created": datetime.now(UTC).replace(microsecond=0),
            "scopes": tuple(dict.fromkeys(scope or ["inference"])),
            "models": tuple(dict.fromkeys(model or [])),
            "requests_per_minute": requests_per_minute,
            "tokens_per_minute": tokens_per_minute,
            "max_open": max_open,
            "priority": priority,
            "expires": None if expires is None else _end_of(expires),
        }
    )

    def add(present: list[Key]) -> list[Key]:
        _check_name_is_free(key, present)
        return [*present, key]

    settings = _changed(keys, home, add)
    _audit(settings, "key_created", key)
    _show(secret, key, settings.keys_path)


@keys_app.command()
def rotate(which: _Which, keys: _File = None, home: _Home = None) -> None:
    """Give a key a new secret and print it; the old one is refused within a second. All else stays."""
    import msgspec

    from takeoff.keys.key import digest_of, new_secret

    secret = new_secret()
    rotated: list[Key] = []

    def replace(present: list[Key]) -> list[Key]:
        old = _found(which, present)
        rotated.append(msgspec.structs.replace(old, sha256=digest_of(secret.encode()).hex()))
        return [rotated[0] if key is old else key for key in present]

    settings = _changed(keys, home, replace)
    _audit(settings, "key_rotated", rotated[0])
    _show(secret, rotated[0], settings.keys_path)


@keys_app.command()
def revoke(which: _Which, keys: _File = None, home: _Home = None) -> None:
    """Take a key away: new requests with it are refused within a second; open ones end by themselves."""
    from takeoff.cli.console import talk

    gone: list[Key] = []

    def remove(present: list[Key]) -> list[Key]:
        gone.append(_found(which, present))
        return [key for key in present if key is not gone[0]]

    _audit(_changed(keys, home, remove), "key_revoked", gone[0])
    talk().print(f"revoked {gone[0].name} ({gone[0].id})", markup=False)


@keys_app.command("list")
def list_keys(
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
    keys: _File = None,
    home: _Home = None,
) -> None:
    """List the keys and what they may do. What opens the server is not in the file."""
    from takeoff.cli.console import print_json, print_table, talk
    from takeoff.keys.file import read_keys

    settings = _settings(keys, home)
    path, is_named = settings.keys_path, settings.keys_file is not None
    present = read_keys(path) if is_named or path.exists() else []
    if json_output:
        print_json([_facts(key) for key in present])
        return
    if not present:
        talk().print(f"no keys in {path}; `takeoff keys create NAME` makes one", markup=False)
        return
    limits = ("requests/min", "tokens/min", "open", "priority")
    print_table(
        ("name", "id", "scopes", "models", *limits, "created", "expires"),
        [_row(key) for key in present],
        right=limits,
    )


def _facts(key: Key) -> dict[str, Any]:
    """All but the hash."""
    import msgspec

    facts: dict[str, Any] = msgspec.to_builtins(key)
    del facts["sha256"]
    return facts


def _row(key: Key) -> tuple[str, ...]:
    limits = (key.requests_per_minute, key.tokens_per_minute, key.max_open, key.priority)
    return (
        key.name,
        key.id,
        ",".join(key.scopes),
        ",".join(key.models) or "all",
        *("-" if limit is None else f"{limit:,}" for limit in limits),
        _told(key.created),
        "never" if key.expires is None else _told(key.expires),
    )


def _told(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"


def _show(secret: str, key: Key, path: Path) -> None:
    from takeoff.cli.console import talk

    talk().print(
        f"{key.name} ({key.id}) opens {', '.join(key.scopes)}; shown this once, {path} has its hash",
        markup=False,
    )
    typer.echo(secret)


def _checked(values: dict[str, Any]) -> Key:
    """A key of these values.

    Raises:
        KeyFileError: one of them is none; the message names its option.
    """
    import msgspec

    from takeoff.errors import KeyFileError
    from takeoff.keys.key import NAME_RULE, Key, Scope

    given = {name: value for name, value in values.items() if value is not None}
    try:
        key = msgspec.convert(given, Key)
    except msgspec.ValidationError as exc:
        fact, _, place = str(exc).partition(" - at `$.")
        field = place.partition("`")[0].partition("[")[0]
        hints = {"name": NAME_RULE, "scopes": f"the scopes are {', '.join(Scope)}"}
        raise KeyFileError(f"{field.removesuffix('s')}: {fact}", hint=hints.get(field)) from exc
    priority = values["priority"]
    limits = (key.models, key.requests_per_minute, key.tokens_per_minute, key.max_open)
    if Scope.INFERENCE not in key.scopes and (any(limits) or priority is not None):
        raise KeyFileError("models and limits are of the scope inference, and the key does not have it")
    return key


def _end_of(text: str) -> datetime:
    """The moment at which a key is valid no more.

    Raises:
        KeyFileError: it is no date and no time with its zone.
    """
    from datetime import UTC, date, datetime, time, timedelta

    from takeoff.errors import KeyFileError

    try:
        if len(text) == len("2027-01-31"):
            return datetime.combine(date.fromisoformat(text), time(), UTC) + timedelta(days=1)
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        moment = None
    if moment is None or moment.tzinfo is None:
        raise KeyFileError(
            f"expires: {text!r} is no date", hint="write 2027-01-31, or 2027-01-31T12:00Z for a time"
        )
    return moment.astimezone(UTC)


def _check_name_is_free(key: Key, present: list[Key]) -> None:
    from takeoff.errors import KeyFileError

    if any(key.name in (other.name, other.id) for other in present):
        raise KeyFileError(
            f"there is a key {key.name!r} already",
            hint=f"`takeoff keys rotate {key.name}` gives it a new secret; or choose another name",
        )


def _found(which: str, present: list[Key]) -> Key:
    from takeoff.errors import KeyFileError

    for key in present:
        if which in (key.name, key.id):
            return key
    raise KeyFileError(f"there is no key {which!r}", hint="`takeoff keys list` shows those there are")


def _settings(keys: Path | None, home: Path | None) -> Settings:
    from takeoff.settings import load_settings

    return load_settings({"keys_file": keys, "home": home})


def _changed(keys: Path | None, home: Path | None, change: Callable[[list[Key]], list[Key]]) -> Settings:
    """Change the file; the settings say where it is."""
    from takeoff.keys.file import change_keys

    settings = _settings(keys, home)
    change_keys(settings.keys_path, change)
    return settings


def _audit(settings: Settings, event: str, key: Key) -> None:
    """Note who did that, by the kernel's word; what is done is done if it can't be noted."""
    import os
    import pwd

    from takeoff.cli.console import talk
    from takeoff.observe.lines import append_line

    user = os.getuid()
    try:
        name = pwd.getpwuid(user).pw_name
    except KeyError:  # a container's
        name = str(user)
    try:
        append_line(settings.audit_path, {"event": event, "by": {"user": name}, "key": _facts(key)})
    except OSError as exc:
        told = f"warning: {settings.audit_path} can't be written: {exc.strerror}"
        talk().print(told, markup=False)
