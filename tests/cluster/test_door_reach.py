"""A door on the network asks for a key, whatever its operator's own machine has."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from takeoff.errors import SettingsError
from takeoff.settings import Settings

pytest.importorskip("ray.serve")


def test_a_door_that_other_machines_reach_does_not_start_without_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from takeoff.cluster.door import Door

    monkeypatch.delenv("TAKEOFF_API_KEY", raising=False)
    told = Settings(host="0.0.0.0", home=tmp_path).model_dump_json(exclude_unset=True)
    with pytest.raises(SettingsError, match=r"0\.0\.0\.0 can be reached from other machines"):
        asyncio.run(Door.__init__(SimpleNamespace(), told, has_others=False))
