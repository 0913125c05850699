"""What a trial of a variant leads to; the trial itself is scripted, the files are real."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.models.tiny_gguf import write_tiny_gguf
from tests.models.watching import Watching

from takeoff.errors import ModelError
from takeoff.models.machine import Machine
from takeoff.models.optimize import automatic
from takeoff.models.optimize.automatic import make_automatic_profile
from takeoff.models.optimize.quick_trial import Pace, Trial, try_variant
from takeoff.models.profile import Profile, read_fingerprint
from takeoff.models.store import Store, StoredModel
from takeoff.models.variants import Recipe, list_variants, model_place

HERE = read_fingerprint(Machine(2, 8 << 30, 4 << 30))
RECIPE = Recipe("Q8_0", "Q8_0")


@dataclass
class Trying:
    """A store with a tiny model, and a trial that says what it is told to."""

    home: Path
    model: StoredModel
    num_trials: int = 0
    said: Trial = field(default_factory=lambda: trial())

    def make(self) -> Profile:
        return make_automatic_profile(self.model, RECIPE, self.home, HERE, 1, Watching())

    def variants(self) -> list[str]:
        return [each.file for each in list_variants(model_place(self.model, self.home))]

    def scripted(self, source: Path, variant: Path, threads: int) -> Trial:
        assert (source, threads) == (self.model.path, 1)
        assert variant.is_file()
        self.num_trials += 1
        return self.said


def trial(*, one: float = 1.0, eight: float = 2.0, kl: float = 0.004, cpu_share: float = 1.0) -> Trial:
    return Trial(kl, 1.0, (Pace(1, one, 1.0), Pace(8, eight, 1.0)), cpu_share)


@pytest.fixture
def trying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trying:
    write_tiny_gguf(tmp_path / "tiny.gguf")
    home = tmp_path / "home"
    trying = Trying(home, Store(home).pull((tmp_path / "tiny.gguf").as_uri()))
    monkeypatch.setattr(automatic, "try_variant", trying.scripted)
    return trying


def test_a_gain_is_kept_and_not_tried_again(trying: Trying) -> None:
    profile = trying.make()
    assert [profile.weights] == trying.variants()
    assert profile.sentence.startswith(
        "Q8_0 made of its F32: 2.0 × the tokens/s with 8 streams, 1.0 × with 1, for "
    )
    assert trying.make().weights == profile.weights
    assert trying.num_trials == 1


@pytest.mark.parametrize("said", [trial(kl=0.011), trial(eight=1.09), trial(one=0.89)])
def test_what_is_no_gain_is_deleted_and_remembered(trying: Trying, said: Trial) -> None:
    trying.said = said
    profile = trying.make()
    assert profile.is_plain
    assert profile.sentence.startswith("Q8_0 was tried and is no gain: ")
    assert trying.variants() == []
    trying.make()
    assert trying.num_trials == 1


def test_on_a_busy_machine_only_a_gain_counts(trying: Trying) -> None:
    trying.said = trial(eight=1.05, cpu_share=0.6)
    with pytest.raises(ModelError, match="too busy for a trial; the next start tries again"):
        trying.make()
    assert len(trying.variants()) == 1, "made already for then"
    trying.said = trial(cpu_share=0.6)
    assert trying.make().weights == trying.variants()[0]


def test_a_file_that_can_not_be_run_is_told(trying: Trying) -> None:
    with pytest.raises(ModelError, match=r"tiny.*\.gguf could not be compared: .+"):
        try_variant(trying.model.path, trying.model.path, 1)
