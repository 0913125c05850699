"""One real server with the default model, for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.test_serve import serving


@pytest.fixture(scope="session")
def server_url(smollm2_path: Path) -> Iterator[str]:
    flags = ("--model", str(smollm2_path), "--port", "0", "--max-slots", "8", "--context", "1024")
    with serving(*flags) as server:
        yield server.wait_ready()
