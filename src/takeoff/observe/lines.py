"""Lines of JSON for programs to read: what was asked of the server, and what was changed in it.

A thread writes them, so who has something to tell never waits: a disk may be full, a pipe unread. Lines that
can't be written are counted, and the next that can is preceded by their number.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from takeoff.errors import SettingsError
from takeoff.observe.logs import written_by
from takeoff.observe.traces import TellTrace, opened_traces
from takeoff.settings import Settings

MAX_WAITING_BYTES = 4 << 20
CLOSING_S = 1.0
STDERR = 2

Tell = Callable[[dict[str, Any]], None]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Logs:
    """What the doors of a server tell to."""

    requests: Tell | None  # of each request
    audit: Tell | None  # of each change of the readers
    traces: TellTrace | None = None  # of each request


class LineWriter:
    """Appends lines to a file, or to stderr. `close` must be called."""

    def __init__(self, path: Path | None) -> None:
        """`path` None: stderr. The file is opened for each batch of lines, so it may be moved at any time."""
        self._path = path
        self._changed = threading.Condition()
        self._waiting: list[bytes] = []
        self._num_bytes = 0
        self._num_lost = 0
        self._is_torn = False  # the last line may lack its end
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="lines", daemon=True)
        self._thread.start()

    def tell(self, facts: dict[str, Any]) -> None:
        """Write `facts` with the time; returns at once, from any thread."""
        self._add(line_of(facts))

    def say(self, text: str) -> None:
        """Write `text` as it is; returns at once, from any thread."""
        self._add(text.encode("utf-8", "backslashreplace") + b"\n")

    def _add(self, line: bytes) -> None:
        with self._changed:
            if self._num_bytes + len(line) > MAX_WAITING_BYTES:
                self._num_lost += 1
                return
            self._waiting.append(line)
            self._num_bytes += len(line)
            self._changed.notify()

    def close(self) -> None:
        """Write what waits, as far as it can be within a second. Idempotent."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(CLOSING_S)

    def _run(self) -> None:
        is_told = False
        while True:
            lines, num_lost = self._next()
            if not lines:
                return
            told = [line_of({"event": "lost", "lines": num_lost})] if num_lost else []
            try:
                self._write(b"".join([*told, *lines]))
                is_told = False
            except OSError as exc:
                with self._changed:
                    self._num_lost += num_lost + len(lines)
                if not is_told:
                    logger.error("lines are lost, %s can't be written: %s", self._path or "stderr", exc)
                is_told = True

    def _next(self) -> tuple[list[bytes], int]:
        """All that waits, once there is something, and how many were lost before; no lines at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            lines, self._waiting, self._num_bytes = self._waiting, [], 0
            num_lost, self._num_lost = self._num_lost, 0
        return lines, num_lost

    def _write(self, data: bytes) -> None:
        fd = STDERR if self._path is None else open_lines(self._path)
        try:
            rest = memoryview(b"\n" + data if self._is_torn else data)
            while rest:
                rest = rest[os.write(fd, rest) :]
                self._is_torn = bool(rest)
        finally:
            if self._path is not None:
                os.close(fd)


@contextmanager
def opened_logs(settings: Settings) -> Iterator[Logs]:
    """The logs that the settings name, until the end of the block; in it no log line waits for its reader.

    Raises:
        SettingsError: the file of the requests can't be written, or traces are wanted and can't be had.
    """
    path = settings.request_log
    if isinstance(path, Path):
        path = path.expanduser()
        try:
            os.close(open_lines(path))
        except OSError as exc:
            raise SettingsError(f"{path} can't be written: {exc.strerror}", param="request_log") from exc
    with suppress(OSError):  # then the log says so, when there is something to tell
        settings.audit_path.parent.mkdir(parents=True, exist_ok=True)
    stderr, audit = LineWriter(None), LineWriter(settings.audit_path)
    requests = LineWriter(path) if isinstance(path, Path) else stderr
    try:
        with written_by(stderr.say), opened_traces(settings.traces_url) as traces:
            yield Logs(None if path is None else requests.tell, audit.tell, traces)
    finally:
        for writer in {audit, requests, stderr}:
            writer.close()


def line_of(facts: dict[str, Any]) -> bytes:
    """One line, in ASCII: nothing in it ends it or means something to a terminal."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": now, **facts}, separators=(",", ":")).encode() + b"\n"


def append_line(path: Path, facts: dict[str, Any]) -> None:
    """Write one line now. Raises OSError."""
    fd = open_lines(path)
    try:
        os.write(fd, line_of(facts))
    finally:
        os.close(fd)


def open_lines(path: Path) -> int:
    """A descriptor that appends to the file, which is made for its owner alone if it isn't there.

    Raises:
        OSError: it can't be.
    """
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
