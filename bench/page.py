"""What /metrics says, and whether what came in and what ended balance."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import httpx

ENDS = ("stop", "length", "cancelled", "deadline", "failed")
_NOTHING_LEFT = ("open", "running", "waiting")


@dataclass(frozen=True, slots=True)
class Page:
    """Every sample by its name and labels, as they are written."""

    samples: dict[str, float]

    def value(self, name: str) -> float:
        """0 where nothing was counted yet."""
        return self.samples.get(f"takeoff_{name}", 0.0)

    @property
    def accepted(self) -> int:
        return int(self.value("requests_accepted_total"))

    @property
    def ended(self) -> dict[str, int]:
        return {name: int(self.value(f'requests_ended_total{{reason="{name}"}}')) for name in ENDS}

    @property
    def left(self) -> dict[str, int]:
        """What nobody asks for any more should be 0."""
        found = {name: int(self.value(f"requests_{name}")) for name in _NOTHING_LEFT}
        return {**found, "queued tokens": int(self.value("queued_tokens"))}

    @property
    def is_balanced(self) -> bool:
        return self.accepted == sum(self.ended.values()) and not any(self.left.values())


def read_page(text: str) -> Page:
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return Page({name: float(value) for name, _, value in lines if name})


async def page_of(client: httpx.AsyncClient) -> Page:
    return read_page((await client.get("/metrics")).text)


async def page_at_rest(client: httpx.AsyncClient, limit_s: float = 30.0) -> Page:
    """As soon as nothing is left, or what is there after `limit_s`."""
    until = time.monotonic() + limit_s
    while any((page := await page_of(client)).left.values()) and time.monotonic() < until:  # noqa: ASYNC110  (there is no event)
        await asyncio.sleep(0.1)
    return page
