"""What requests did when, for a collector of traces: the stages of each, told at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec

from takeoff.errors import SettingsError

Fact = str | int | float | Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A part of a request's course, from one moment to another."""

    name: str
    began_at: float  # monotonic seconds
    ended_at: float
    facts: Mapping[str, Fact] = field(default_factory=dict)
    parts: Sequence[Stage] = ()
    has_failed: bool = False


# With the headers of the request: they may name the trace that it is a part of.
TellTrace = Callable[[Stage, Mapping[str, str]], None]


@contextmanager
def opened_traces(url: str | None) -> Iterator[TellTrace | None]:
    """What traces are told to until the end of the block; None: nobody wants them.

    `url` is a collector's, without the path.

    Raises:
        SettingsError: OpenTelemetry is not installed.
    """
    if url is None:
        yield None
        return
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.exporter") is None:
        raise SettingsError(
            "traces need OpenTelemetry, which is not installed",
            param="traces_url",
            hint="pip install 'takeoff-server[traces]'",
        )
    from takeoff.observe.spans import Spans

    spans = Spans(url)
    try:
        yield spans.tell
    finally:
        spans.close()
