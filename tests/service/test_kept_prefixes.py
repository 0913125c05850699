"""Which engines find what an earlier one has computed."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from tests.service.serving import make_load

from takeoff.ipc.messages import Load
from takeoff.service.kept_prefixes import MAX_USELESS_ENGINES, KeptPrefixes, origin_of


@pytest.fixture
def load(tmp_path: Path) -> Load:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"weights")
    return msgspec.structs.replace(make_load(), model_path=str(model), cache_bytes=1 << 20)


def fill(kept: KeptPrefixes, load: Load) -> None:
    fd = kept.fd_for(origin_of(load))
    assert fd is not None
    os.pwrite(fd, b"computed", 0)


def is_filled(kept: KeptPrefixes, load: Load) -> bool:
    fd = kept.fd_for(origin_of(load))
    assert fd is not None
    return os.pread(fd, 8, 0) == b"computed"


def test_the_next_engine_of_the_same_weights_finds_it(load: Load) -> None:
    kept = KeptPrefixes()
    fill(kept, load)
    kept.note_death(was_useful=True, is_crash=True)
    assert is_filled(kept, load)
    kept.close()


def test_other_weights_or_settings_find_nothing(load: Load) -> None:
    kept = KeptPrefixes()
    for changed in ({"kv_type": "q8_0"}, {"n_ubatch": load.n_ubatch + 1}):
        other = msgspec.structs.replace(load, **changed)
        fill(kept, load)
        assert not is_filled(kept, other)
    fill(kept, load)
    Path(load.model_path).write_bytes(b"other weights")
    assert not is_filled(kept, load)
    kept.close()


def test_an_engine_that_crashes_at_once_may_have_crashed_of_it(load: Load) -> None:
    kept = KeptPrefixes()
    fill(kept, load)
    kept.note_death(was_useful=False, is_crash=True)
    assert not is_filled(kept, load)
    kept.close()


def test_kills_from_outside_cost_it_only_when_they_go_on_and_on(load: Load) -> None:
    kept = KeptPrefixes()
    fill(kept, load)
    for _ in range(MAX_USELESS_ENGINES - 1):
        kept.note_death(was_useful=False, is_crash=False)
        assert is_filled(kept, load)
    kept.note_death(was_useful=False, is_crash=False)
    assert not is_filled(kept, load)
    kept.close()


def test_an_engine_that_keeps_no_prefixes_has_none(load: Load) -> None:
    assert KeptPrefixes().fd_for(origin_of(msgspec.structs.replace(load, cache_bytes=0))) is None
