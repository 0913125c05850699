"""takeoff-launcher 0.0.12 waits with `is_takeoff_loading`, for a container; here for the real server."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import requests
from tests.cli.test_serve import LIMIT_S
from tests.clients.doors import HOST, chat_reader, serving_manifest, write_manifest
from tests.clients.environments import Environment


def test_a_server_of_two_readers_is_loading_until_both_are_live(
    environment: Callable[[str], Environment], smollm2_path: Path, tmp_path: Path
) -> None:
    readers = {
        "one": chat_reader(smollm2_path, max_batch_size=1),
        "two": chat_reader(smollm2_path, max_batch_size=1, consumer_group="g2"),
    }
    call = environment("takeoff_launcher_0_0_12").call
    seen: list[tuple[bool, int]] = []  # what the launcher said, and how many readers lived right after
    with serving_manifest(write_manifest(tmp_path, readers)) as (server, doors):
        url = f"{HOST}:{doors.takeoff}"
        deadline = time.monotonic() + LIMIT_S
        while not seen or seen[-1][0]:
            is_loading = call("takeoff_launcher.sdk.utils.is_takeoff_loading", url, 2)
            seen.append((is_loading, live_readers(url)))
            assert time.monotonic() < deadline, server.said
            time.sleep(0.02)
        assert seen[0][0] is True
        assert seen[-1] == (False, 2)
        assert call("takeoff_launcher.sdk.utils.is_takeoff_loading", url, 1) is False
        assert call("takeoff_launcher.sdk.utils.is_takeoff_loading", url, 3) is True


def live_readers(url: str) -> int:
    """How many readers the status names; 0 while nothing listens yet."""
    try:
        return len(requests.get(f"{url}/status", timeout=LIMIT_S).json()["live_readers"])
    except requests.ConnectionError:
        return 0
