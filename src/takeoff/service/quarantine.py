"""Which of a reader's requests its engine is given, so that one that kills engines ends and no other does.

A death proves little by itself, and nothing at all where somebody else sent the signal: then everything is
simply computed again. But a crash has suspects: the requests in the call that was running, or, between calls,
those that the engine had not got a token out of. When a second crash has suspects in common with the one
before, and they have made no token since, the next engine gets these one at a time: the next one when the
last has made a token, everybody else after them. Calls that prefill are not mixed with calls that decode, so
what was let in before is not in the call of the one that is on trial. If the engine crashes in that call, the
request in it is the culprit.

A policy without clocks, sockets or processes: it is told what happens, and answers with the ids of those
that are to be sent now.
"""

from __future__ import annotations

from collections.abc import Collection


class Quarantine:
    """The open requests of one reader, by id, in the order in which they came."""

    def __init__(self) -> None:
        self._open: dict[int, None] = {}
        self._sent: set[int] = set()  # to the present engine
        self._silent: set[int] = set()  # of those, without a token from it
        self._suspects: set[int] = set()  # of the last crash, without a token since
        self._line: list[int] = []  # to be tried alone
        self._on_trial: int | None = None
        self._is_up = False  # there is an engine to send to

    def add(self, request_id: int) -> list[int]:
        """A request was accepted. Returns whom to send now, as all that follow."""
        self._open[request_id] = None
        return self._go_on()

    def loaded(self) -> list[int]:
        """An engine is up."""
        self._is_up = True
        return self._go_on()

    def answered(self, request_id: int) -> list[int]:
        """The engine has made a token of this request: it bears its calls."""
        self._silent.discard(request_id)
        self._suspects.discard(request_id)
        if request_id != self._on_trial:
            return []
        self._on_trial = None
        return self._go_on()

    def left(self, request_id: int) -> list[int]:
        """A request has ended."""
        self._open.pop(request_id, None)
        self._sent.discard(request_id)
        return self.answered(request_id)

    def died(self, in_call: Collection[int], *, is_crash: bool) -> int | None:
        """The engine is gone. Returns whom it died of, if that is certain; it must be ended.

        Args:
            in_call: the requests of the call that was running; none: it was between calls.
            is_crash: False where it was ended from outside.
        """
        named = (set(in_call) & self._open.keys()) or set(self._silent)
        tried, self._on_trial = self._on_trial, None
        self._is_up = False
        self._sent.clear()
        self._silent.clear()
        if not is_crash or not named:  # who had nothing to do, or was still loading, accuses nobody
            self._line = self._line if tried is None else [tried, *self._line]
        elif tried is None:
            common = named & self._suspects
            self._suspects = named
            self._line = [*self._line, *(each for each in self._open if each in common)]
        elif named == {tried}:
            return tried
        else:  # those let in before were in it too: begin with an engine that has none of them
            beside = [each for each in self._open if each in named and each != tried]
            self._line = [tried, *beside, *(each for each in self._line if each not in named)]
        return None

    def _go_on(self) -> list[int]:
        if not self._is_up or self._on_trial is not None:
            return []
        while self._line:
            request_id = self._line.pop(0)
            if request_id in self._open:
                self._on_trial = request_id
                return self._send([request_id])
        return self._send([each for each in self._open if each not in self._sent])

    def _send(self, request_ids: list[int]) -> list[int]:
        self._sent.update(request_ids)
        self._silent.update(request_ids)
        return request_ids
