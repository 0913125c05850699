"""A GGUF file from a web server, resumed where an interrupted pull stopped.

What came so far lies in a part file; beside it, `.part.json` holds the version (ETag or date) that
it is a piece of. The server is asked for the rest *of that version* (Range with If-Range): a
server whose file has changed, or that can't resume, sends all of it again.
"""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.request
from email.message import Message
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

import msgspec

from takeoff.errors import PullError
from takeoff.models.disk import CHUNK_BYTES, check_space, open_part, part_size, write_whole
from takeoff.models.fetch import gguf_file_name
from takeoff.models.progress import Progress
from takeoff.models.sources import UrlSource, check_url, store_name

_TIMEOUT_S = 30.0  # without a byte
_MAX_TRIES = 5  # in a row that bring nothing
_PAUSE_S = 1.0  # between two tries
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


class _PartVersion(msgspec.Struct, frozen=True):
    """What a part file is a part of."""

    url: str
    validator: str  # a strong ETag, or a Last-Modified date


class _Retry(Exception):
    """The connection failed in a way that another try may mend."""


class _NothingLeft(Exception):
    """The server has nothing from where the part file ends."""


class UrlFetch:
    """Downloads one file."""

    def __init__(self, source: UrlSource) -> None:
        self.source = source
        label = unquote(urlsplit(source.url).path)
        self.file_name = gguf_file_name(label)
        self.name = store_name(self.file_name.removesuffix(".gguf"), source.url)
        self.sha256 = source.sha256
        self.revision: str | None = None
        self.file_bytes: int | None = None
        self._opener = urllib.request.build_opener(_CarefulRedirects())

    def space_bytes(self, part: Path) -> int:  # noqa: ARG002 - the same for every part
        return 0  # known, and checked, once the server has answered

    def fetch(self, part: Path, progress: Progress) -> None:
        tries = 0
        while True:
            before = part_size(part)
            try:
                self._fetch_rest(part, progress)
            except _NothingLeft:
                part.unlink()  # whole already, or longer than the file: the server doesn't say which
            except _Retry as exc:
                tries = tries + 1 if part_size(part) <= before else 1
                if tries == _MAX_TRIES:
                    raise PullError(
                        f"{self.source.url} broke off after {part_size(part):,} bytes: {exc}",
                        hint="pull again: it goes on where it stopped, if the server can",
                    ) from exc
                time.sleep(_PAUSE_S)
            else:
                return

    def _fetch_rest(self, part: Path, progress: Progress) -> None:
        request = urllib.request.Request(self.source.url)  # noqa: S310 - the scheme was checked
        have = self._resumable_bytes(part, request)
        with self._open(request) as response:
            start = self._start_of(response, have)
            if self.file_bytes is not None:
                check_space(part.parent, self.file_bytes - part_size(part))
            progress.stage(f"downloading {self.file_name}", self.file_bytes)
            version = _version_of(response, self.source.url)
            if version is not None:
                write_whole(_version_path(part), msgspec.json.encode(version))
            else:
                _version_path(part).unlink(missing_ok=True)
            with open_part(part, keep_bytes=start) as f:
                done = start
                progress.at(done)
                while chunk := _read(response):
                    f.write(chunk)
                    done += len(chunk)
                    progress.at(done)
        if self.file_bytes is not None and done < self.file_bytes:
            raise _Retry(f"the server closed the connection at {done:,} of {self.file_bytes:,} bytes")

    def _resumable_bytes(self, part: Path, request: urllib.request.Request) -> int:
        """Bytes that need not come again; sets the headers that ask for the rest only."""
        have = part_size(part)
        version = _read_version(part)
        if not have or version is None or version.url != self.source.url:
            return 0
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", version.validator)
        return have

    def _start_of(self, response: HTTPResponse, have: int) -> int:
        """Where in the file the response's bytes belong; learns the file's size."""
        if response.status == 206:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if match is None or int(match[1]) != have:
                raise PullError(f"{self.source.url} answered with a range that was not asked for")
            self.file_bytes = int(match[2])
            return have
        length = response.headers.get("Content-Length")
        self.file_bytes = int(length) if length is not None and length.isdecimal() else None
        return 0

    def _open(self, request: urllib.request.Request) -> HTTPResponse:
        # Compressed on the way, a range would count other bytes than those of the file.
        request.add_header("Accept-Encoding", "identity")
        request.add_header("User-Agent", "takeoff")
        try:
            response: HTTPResponse = self._opener.open(request, timeout=_TIMEOUT_S)
        except urllib.error.HTTPError as exc:
            exc.close()
            if exc.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and request.has_header("Range"):
                raise _NothingLeft from exc
            raise PullError(
                f"{self.source.url} answered {exc.code} {exc.reason}", hint="check the address"
            ) from exc
        except urllib.error.URLError as exc:
            raise PullError(f"{self.source.url} can't be reached: {exc.reason}") from exc
        except (OSError, HTTPException) as exc:
            raise _Retry(str(exc) or type(exc).__name__) from exc
        return response


class _CarefulRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only to where the URL itself could have led: never from https to http."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> urllib.request.Request | None:
        check_url(newurl)
        if req.type == "https" and not newurl.startswith("https:"):
            raise PullError(f"{req.full_url} leads from https to http", hint="fetch the file yourself")
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def _read(response: HTTPResponse) -> bytes:
    """The next bytes; b"" at the end. Keeps faults of the network apart from faults of the disk."""
    try:
        return response.read1(CHUNK_BYTES)
    except (OSError, HTTPException) as exc:
        raise _Retry(str(exc) or type(exc).__name__) from exc


def _version_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _version_of(response: HTTPResponse, url: str) -> _PartVersion | None:
    etag = response.headers.get("ETag")
    if etag is not None and not etag.startswith("W/"):
        return _PartVersion(url, etag)
    date = response.headers.get("Last-Modified")
    return _PartVersion(url, date) if date is not None else None


def _read_version(part: Path) -> _PartVersion | None:
    path = _version_path(part)
    if path.is_symlink() or not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=_PartVersion)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
