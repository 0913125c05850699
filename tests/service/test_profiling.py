"""What a reader is planned with: what was named, then the model's profile. Never more than that says."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.models.tiny_gguf import write_tiny_gguf
from tests.models.watching import Watching

from takeoff.errors import PlanError, SettingsError
from takeoff.models.machine import Machine
from takeoff.models.profile import Profile, read_fingerprint, save_profile
from takeoff.models.store import Store, StoredModel
from takeoff.models.variants import (
    Recipe,
    Variant,
    model_place,
    record_variant,
    source_key,
    variants_folder,
)
from takeoff.service import profiling
from takeoff.service.planner import Planner
from takeoff.service.profiling import ProfiledPlan, plan_profiled
from takeoff.settings import ReaderSettings

MACHINE = Machine(cores=4, memory_total_bytes=8 << 30, memory_available_bytes=4 << 30)
SENTENCE = "twice as fast"


@dataclass
class Home:
    """A store with one model, and what was said while it was planned."""

    root: Path
    model: StoredModel
    said: list[str] = field(default_factory=list)

    def profile(self, **values: Any) -> None:
        fingerprint = read_fingerprint(MACHINE)
        profile = Profile(source_key(self.model), fingerprint, "throughput", SENTENCE, **values)
        save_profile(self.model, self.root, profile)

    def variant(self, num_floats: int = 65_536) -> dict[str, str]:
        folder = variants_folder(model_place(self.model, self.root))
        folder.mkdir()
        size = len(write_tiny_gguf(folder / "fast.gguf", num_floats))
        recipe = Recipe("F32", "F32")
        record_variant(folder, Variant("fast.gguf", recipe, source_key(self.model), "5a", size, "F32", ""))
        return {"weights": "fast.gguf", "weights_sha256": "5a"}

    def plan(self, machine: Machine = MACHINE, **settings: Any) -> ProfiledPlan:
        self.said.clear()
        return plan_profiled(
            self.model, ReaderSettings(**settings), machine, self.root, self.said.append, Watching()
        )


@pytest.fixture
def home(tmp_path: Path) -> Home:
    write_tiny_gguf(tmp_path / "tiny.gguf")
    root = tmp_path / "home"
    return Home(root, Store(root).pull((tmp_path / "tiny.gguf").as_uri()))


def test_a_profile_is_used_and_told_in_one_line(home: Home) -> None:
    home.profile(threads=3, threads_prefill=2, ubatch=128, **home.variant())
    plan = home.plan()
    load = plan.planned.launch.load
    assert (load.n_threads, load.n_threads_prefill, load.n_ubatch) == (3, 2, 128)
    assert load.model_path == str(plan.model.path) == str(plan.planned.launch.model_path)
    assert plan.model.path.name == "fast.gguf"
    assert plan.planned.launch.model_name == home.model.name, "clients ask for it by the name it has"
    assert home.said == [
        f"{home.model.name} runs as its profile says: {SENTENCE}; --no-optimize does without"
    ]


def test_weights_that_may_be_lost_have_their_source_to_go_on_with(home: Home) -> None:
    home.profile(threads=3, **home.variant(4 << 20))
    launch = home.plan().planned.launch
    assert launch.spare is not None
    source = launch.spare.launch
    assert source.load.model_path == str(source.model_path) == str(home.model.path)
    assert source.load.n_threads == 3, "it runs as the variant would"
    assert launch.vocabulary_path == home.model.path, "a preparer needs no variant"
    assert launch.spare.loss(was_loaded=True) is None
    assert "can't be loaded any more" in str(launch.spare.loss(was_loaded=False))
    home.profile(threads=3)
    assert home.plan().planned.launch.spare is None, "nothing that could be lost"


def test_what_was_named_wins_and_no_optimize_does_without(home: Home) -> None:
    home.profile(threads=3, threads_prefill=2, ubatch=128, **home.variant())
    load = home.plan(threads=1, ubatch=512).planned.launch.load
    assert (load.n_threads, load.n_threads_prefill, load.n_ubatch) == (1, 1, 512)
    plain = home.plan(optimize=False)
    assert plain.model == home.model
    assert plain.planned.launch.load.n_threads == 4
    assert home.said == []


def test_settings_that_would_contradict_the_profile_win_without_an_error(home: Home) -> None:
    home.profile(flash_attention="on", kv_type="bf16", threads=2)
    assert home.plan().planned.launch.load.kv_type == "bf16"
    for named, is_fused in (({"deterministic": True}, True), ({"flash_attention": "off"}, False)):
        load = home.plan(**named).planned.launch.load
        assert (load.flash_attention, load.kv_type, load.n_threads) == (is_fused, "f16", 2)


def test_a_gpu_needs_another_profile(home: Home) -> None:
    home.profile(threads=2)
    with_gpu = Machine(4, 8 << 30, 4 << 30, gpu_free_bytes=8 << 30)
    assert home.plan(with_gpu).planned.launch.load.n_threads == 4
    assert home.plan(with_gpu, device="cpu").planned.launch.load.n_threads == 2


def test_weights_that_can_not_be_planned_give_way_to_the_models_own(home: Home) -> None:
    home.profile(threads=2, **home.variant())
    fast = variants_folder(model_place(home.model, home.root)) / "fast.gguf"
    fast.write_bytes(b"GGUF" + bytes(fast.stat().st_size - 4))
    plan = home.plan()
    assert plan.model == home.model
    assert plan.planned.launch.load.n_threads == 4
    (line,) = home.said
    assert line.startswith(f"the profile of {home.model.name} is not used: fast.gguf has version 0")
    with pytest.raises(PlanError):
        home.plan(memory_gb=0.001)
    with pytest.raises(SettingsError):
        home.plan(deterministic=True, flash_attention="on")


def test_deterministic_keeps_to_kernels_that_are(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.profile(**home.variant())
    assert home.plan(deterministic=True).model.path.name == "fast.gguf"
    monkeypatch.setattr(profiling, "INVARIANT_TYPES", frozenset({"Q8_0"}))
    assert home.plan(deterministic=True).model == home.model
    assert home.said == [
        f"the profile of {home.model.name} is not used: --deterministic can't run its weights in F32"
    ]


def test_a_reader_that_is_added_runs_by_the_profile_too(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("takeoff.service.planner.read_machine", lambda: MACHINE)
    planner = Planner(Store(home.root), [])
    home.profile(threads=3)
    assert planner(ReaderSettings(model=home.model.name), 4 << 30).load.n_threads == 3
    assert planner(ReaderSettings(model=home.model.name, optimize=False), 4 << 30).load.n_threads == 4


def test_what_optimize_found_for_another_machine_is_not_replaced(home: Home) -> None:
    home.profile(threads=3)
    elsewhere = Machine(8, 8 << 30, 4 << 30)
    assert home.plan(elsewhere).planned.launch.load.n_threads == 8
    assert home.said == [
        f"the profile of {home.model.name} is not used: "
        "it was made with 4 cores and 8 GiB, and here are 8 and 8"
    ]
    assert home.plan().planned.launch.load.n_threads == 3
