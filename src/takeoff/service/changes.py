"""Waiting for something to change, when many wait for different things."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Changes:
    """Told of every change; wakes all who wait, and each looks whether it was his."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def tell(self) -> None:
        """Something is different now."""
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when `condition` holds."""
        while not condition():
            await self.next()

    async def next(self) -> None:
        """Return at the next change."""
        await self._event.wait()
