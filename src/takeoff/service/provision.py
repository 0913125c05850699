"""Plans readers within the memory that they can have, and refuses what does not fit before it is loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from takeoff.errors import InvalidRequest, NoRoom, PlanError, StartError
from takeoff.service.launch import Launch
from takeoff.service.reader import Reader
from takeoff.service.residency import Residency
from takeoff.settings import ReaderSettings

PlanReader = Callable[[ReaderSettings, int], Launch]  # with bytes of memory to plan with


class Provision:
    """Asks for a plan, and refuses in words for the client."""

    def __init__(self, plan_reader: PlanReader, residency: Residency) -> None:
        """`plan_reader` finds a model and plans its memory; it may take a second, and raises StartError."""
        self._plan_reader = plan_reader
        self._residency = residency

    async def plan(self, settings: ReaderSettings, instead_of: Reader | None = None) -> Launch:
        """The launch of a reader, which may have the memory of `instead_of` and of all that may be unloaded.

        Raises:
            InvalidRequest: no such model here, or none that can be served.
            NoRoom: it does not fit.
        """
        most_bytes = self._residency.most_bytes(instead_of)
        others = self._residency.held_by_others(instead_of)
        with refusing_in_words(settings, others):
            launch = await asyncio.to_thread(self._plan_reader, settings, most_bytes)
        if launch.num_bytes > most_bytes:
            needed, most = launch.num_bytes / 1e6, most_bytes / 1e6
            raise NoRoom(
                f"{launch.model_name} needs {needed:,.0f} MB, and there are {most:,.0f} MB{others}",
                hint="plan with less: memory_gb, max_slots, context, prefix_cache_mb",
            )
        return launch


@contextmanager
def refusing_in_words(settings: ReaderSettings, others: str = "") -> Iterator[None]:
    """What can't be planned or started inside is refused in words for the client.

    `others`: who has the memory that it lacks.

    Raises:
        InvalidRequest: no such model here, or none that can be served.
        NoRoom: it does not fit.
    """
    try:
        yield
    except PlanError as exc:
        raise NoRoom(_without_query(exc.message, settings.model) + others, hint=exc.hint) from exc
    except StartError as exc:
        message = _without_query(exc.message, settings.model)
        raise InvalidRequest(message, param=exc.param or "model_name", hint=exc.hint) from exc


def _without_query(text: str, model: str) -> str:
    """A text that may name a model's URL, without what may be a secret in it."""
    _, mark, query = model.partition("?")
    return text.replace(mark + query, "") if query else text
