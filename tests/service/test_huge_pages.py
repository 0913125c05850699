from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.service.serving import engine_pid, preparer_pid, running_service

from takeoff.service.huge_pages import asking_for_huge_pages


@pytest.mark.parametrize(
    ("told", "asked"),
    [
        ({}, {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}),
        ({"GLIBC_TUNABLES": ""}, {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}),
        (
            {"GLIBC_TUNABLES": "glibc.malloc.arena_max=1"},
            {"GLIBC_TUNABLES": "glibc.malloc.arena_max=1:glibc.malloc.hugetlb=1"},
        ),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, {}),
    ],
)
def test_what_the_user_says_to_glibc_stays(told: dict[str, str], asked: dict[str, str]) -> None:
    assert asking_for_huge_pages(told) == asked


@pytest.mark.anyio
async def test_an_engine_asks_for_huge_pages_and_a_preparer_does_not() -> None:
    async with running_service() as service:
        pids = (engine_pid(service), preparer_pid(service))
        engine, preparer = [await asyncio.to_thread(environ_of, pid) for pid in pids]
    assert b"glibc.malloc.hugetlb=1" in engine
    assert b"glibc.malloc.hugetlb=1" not in preparer


def environ_of(pid: int | None) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()
