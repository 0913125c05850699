"""The files of a batch: one request a line, one answer a line.

Source: OpenAI's batch guide; the fields of a line are theirs.
"""

from __future__ import annotations

import fcntl
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from takeoff.errors import BatchError

_ID = "batch_req_"
_LINE_START = b'{"id":"' + _ID.encode()  # how each line that we write begins


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One request."""

    custom_id: str
    method: str
    url: str
    body: msgspec.Raw  # JSON


class Response(msgspec.Struct, frozen=True):
    """What the door answered, a refusal included."""

    status_code: int
    request_id: str
    body: msgspec.Raw  # JSON


class LineError(msgspec.Struct, frozen=True):
    """Why a line could not be asked at all."""

    code: str
    message: str


class Answer(msgspec.Struct, frozen=True):
    """One line of the output: a response or an error, never both."""

    id: str
    custom_id: str
    response: Response | None
    error: LineError | None

    @property
    def is_good(self) -> bool:
        """Whether it holds what was asked for."""
        return self.response is not None and self.response.status_code < 400

    @classmethod
    def of(cls, line: Line, response: Response | None, error: LineError | None = None) -> Answer:
        return cls(f"{_ID}{uuid.uuid4().hex}", line.custom_id, response, error)


def check_requests(path: Path) -> set[str]:
    """The custom_id of every line; the whole file is looked through before anything is computed.

    Raises:
        BatchError: it can't be read, a line is no request, or two have one custom_id.
    """
    seen: set[str] = set()
    for number, line in _numbered(path):
        if line.custom_id in seen:
            raise BatchError(f"{path}, line {number}: another line has the custom_id {line.custom_id!r}")
        seen.add(line.custom_id)
    if not seen:
        raise BatchError(f"{path} has no requests")
    return seen


def read_requests(path: Path, without: set[str]) -> Iterator[Line]:
    """The lines of a checked file in their order, but those whose custom_id is in `without`."""
    return (line for _, line in _numbered(path) if line.custom_id not in without)


def _numbered(path: Path) -> Iterator[tuple[int, Line]]:
    decoder = msgspec.json.Decoder(Line)
    try:
        with path.open("rb") as file:
            for number, text in enumerate(file, start=1):
                if text.strip():
                    yield number, decoder.decode(text)
    except msgspec.MsgspecError as exc:
        raise BatchError(
            f"{path}, line {number}: {exc}",
            hint='a line is {"custom_id": ..., "method": "POST", "url": "/v1/completions", "body": {...}}',
        ) from exc
    except OSError as exc:
        raise BatchError(f"{path} can't be read: {exc.strerror}") from exc


@dataclass(frozen=True, slots=True)
class Done:
    """What an output file holds already."""

    custom_ids: set[str]
    num_failed: int


class OutputFile:
    """Where answers go, one write each: what is killed at any moment has whole lines, and one torn at most.

    A context manager. No second batch writes to a file while one does.
    """

    def __init__(self, path: Path, asked: set[str]) -> None:
        """Open the file or make it, take what is in it as done, and mend its end.

        Raises:
            BatchError: it can't be written, is in use, or is no output of a batch that asks `asked`.
        """
        self._path = path
        try:
            self._file = path.open("a+b")
        except OSError as exc:
            raise BatchError(f"{path} can't be written: {exc.strerror}") from exc
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.done = self._read(asked)
        except BlockingIOError as exc:
            self._file.close()
            raise BatchError(f"another batch writes to {path} now") from exc
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, answer: Answer) -> None:
        """Append one line.

        Raises:
            BatchError: the disk is full, for example.
        """
        try:
            self._file.write(msgspec.json.encode(answer) + b"\n")
            self._file.flush()
        except OSError as exc:
            raise BatchError(f"{self._path} can't be written: {exc.strerror}") from exc

    def _read(self, asked: set[str]) -> Done:
        decoder = msgspec.json.Decoder(Answer)
        custom_ids: set[str] = set()
        num_failed = end = 0
        self._file.seek(0)
        for number, text in enumerate(self._file, start=1):
            try:
                answer = decoder.decode(text)
            except msgspec.MsgspecError as exc:
                if text.endswith(b"\n") or not _may_be_torn(text):
                    raise BatchError(
                        f"{self._path}, line {number}, is no answer of a batch: {exc}",
                        hint="name another output file",
                    ) from exc
                self._file.truncate(end)
                break
            if answer.custom_id not in asked:
                raise BatchError(
                    f"{self._path}, line {number}, answers {answer.custom_id!r}, which is not asked",
                    hint="name another output file",
                )
            custom_ids.add(answer.custom_id)
            num_failed += not answer.is_good
            end += len(text)
            if not text.endswith(b"\n"):
                self._file.write(b"\n")
        self._file.flush()
        return Done(custom_ids, num_failed)


def _may_be_torn(text: bytes) -> bool:
    """Whether it is the beginning of a line of ours: nothing else is ever cut off."""
    return text.startswith(_LINE_START) or _LINE_START.startswith(text)
