"""The time that a client gives its request: what is not done by then is not wanted any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from takeoff.errors import DeadlineExceeded


@asynccontextmanager
async def within(deadline_s: float | None) -> AsyncIterator[None]:
    """Break off what is awaited inside after `deadline_s` seconds; None: never.

    Raises:
        DeadlineExceeded: it was.
    """
    try:
        async with asyncio.timeout(deadline_s) as time:
            yield
    except TimeoutError as exc:
        if not time.expired():
            raise
        raise DeadlineExceeded(
            f"the {deadline_s:.3g} s that the request was given were over while it was prepared"
        ) from exc
