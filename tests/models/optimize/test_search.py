"""The policy of the search, on a laboratory whose figures are made up."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from takeoff.errors import ModelError
from takeoff.models.gguf import Tensor
from takeoff.models.machine import Machine
from takeoff.models.optimize.candidates import GROUPS, Candidate, bearing_groups
from takeoff.models.optimize.goal import parse_goal
from takeoff.models.optimize.outcome import changed_settings
from takeoff.models.optimize.pace import Turn
from takeoff.models.optimize.quality import Quality
from takeoff.models.optimize.search import Found, Row, Search
from takeoff.models.optimize.trials import Trials
from takeoff.models.variants import Recipe

MACHINE = Machine(2, 16 << 30, 12 << 30)
TENSORS = [
    Tensor(name, "Q4_1", (1_000, 1_000), 0, num_bytes)
    for name, num_bytes in (
        ("token_embd.weight", 4_000_000),
        ("blk.0.attn_q.weight", 1_000_000),
        ("blk.0.attn_v.weight", 1_100_000),
        ("blk.0.ffn_up.weight", 3_000_000),
        ("blk.0.ffn_down.weight", 2_000_000),
    )
]
BEFORE = Candidate(threads=2, threads_prefill=2, batch=2048, ubatch=512)


@dataclass
class FakeLab:
    """Q8_0 is twice as fast and near; the four-bit formats are faster still, and far away but for a part."""

    kls: dict[str, float] = field(default_factory=dict)
    held_out_kl: float = 0.002
    speeds: dict[str, float] = field(default_factory=lambda: {"Q8_0": 2.0, "IQ4_NL": 2.6})
    confirmed: float | None = None  # what the winner's speed turns out to be when it is measured anew
    broken: tuple[str, ...] = ()
    threads_gain: float = 1.0
    streams: tuple[int, ...] = (1, 8, 32)
    num_turns: int = 0
    is_forgotten: bool = False
    dropped: list[str] = field(default_factory=list)
    gguf: Any = field(default_factory=lambda: SimpleNamespace(quantisation="Q4_1", tensors=TENSORS))

    def forget(self) -> None:
        self.is_forgotten = True

    def weights(self, recipe: Recipe | None) -> Any:
        return SimpleNamespace(path=Path("source.gguf" if recipe is None else f"{recipe.name}.gguf"))

    def turn(self, candidate: Candidate) -> Turn:
        self.num_turns += 1
        kind = "" if candidate.recipe is None else candidate.recipe.file_type
        if kind in self.broken:
            raise ModelError("its process ended with -6")
        speed = self.speeds.get(kind, 1.0)
        if candidate.recipe is not None and candidate.recipe.tensor_types:
            speed *= 1.2
        if candidate.threads == 1:
            speed *= self.threads_gain
        if self.is_forgotten and self.confirmed is not None and kind:
            speed = self.confirmed
        return Turn({1: 0.01 / speed, 8: 0.04 / speed, 32: 0.12 / speed}, 0.001 / speed)

    def quality(self, candidate: Candidate, *, held_out: bool) -> Quality:
        if held_out:
            return Quality(self.held_out_kl, 0.01, 1.0, 0.99, 100)
        assert candidate.recipe is not None
        far = {"Q8_0": 0.002, "BF16": 0.001, "Q6_K": 0.004, "IQ4_NL": 0.2, "Q4_0": 0.3} | self.kls
        groups = len(candidate.recipe.tensor_types)
        kl = 0.002 + 0.003 * groups if groups else far[candidate.recipe.file_type]
        return Quality(kl, 10 * kl, 1.0, 0.99, 100)

    def memory_bytes(self, candidate: Candidate) -> int:
        return 1_000 if candidate.recipe is None else 1_400

    def drop(self, recipe: Recipe | None) -> None:
        if recipe is not None:
            self.dropped.append(recipe.name)

    def drop_all_but(self, kept: Recipe | None) -> None:
        self.dropped.append(f"all but {None if kept is None else kept.name}")


class Silent:
    def __init__(self) -> None:
        self.rows: list[Row] = []

    def trying(self, what: str, share: float) -> None:
        assert 0 <= share <= 1, what

    def tried(self, row: Row) -> None:
        self.rows.append(row)


def search(lab: FakeLab, place: Path, *, time_limit_s: float = 1e9, goal: str = "throughput") -> Found:
    return Search(
        lab,
        MACHINE,
        logical_cores=2,
        goal=parse_goal(goal),
        max_kl=0.01,
        time_limit_s=time_limit_s,
        trials=Trials(place, "here"),
        watch=Silent(),
    ).run(BEFORE)


def verdicts(found: Found) -> dict[str, str]:
    return {row.label: row.verdict for row in found.rows}


def test_the_fastest_format_within_the_bound_wins_and_a_coarser_one_serves_in_part(tmp_path: Path) -> None:
    found = search(FakeLab(), tmp_path)
    assert found.best.recipe is not None
    assert found.best.recipe.file_type == "Q8_0"
    # each adds 0.003 to the 0.002 of Q8_0: there is room for two, the largest
    assert found.best.recipe.tensor_types == (
        (GROUPS["embedding, output"], "IQ4_NL"),
        (GROUPS["ffn_up, ffn_gate"], "IQ4_NL"),
    )
    assert found.gain == pytest.approx(2.4, rel=0.01)
    assert verdicts(found)["IQ4_NL"] == "KL over 0.01"
    assert verdicts(found)["confirmed"] == "2.40 × as shipped"


def test_groups_are_coarsened_that_shrink_most_for_what_they_cost() -> None:
    costs = {"a": 0.004, "b": 0.001, "c": 0.003, "d": 0.0}
    sizes = {"a": 8, "b": 1, "c": 4, "d": 1}
    assert bearing_groups(costs, sizes, 0.006) == ["d", "a", "b"]  # c has no room beside a
    assert bearing_groups(costs, sizes, -0.001) == []


def test_a_part_that_cannot_be_made_is_left_out_of_the_mixture(tmp_path: Path) -> None:
    lab = FakeLab()
    whole = lab.quality

    def quality(candidate: Candidate, *, held_out: bool) -> Quality:
        if candidate.label == "IQ4_NL in embedding, output":
            raise ModelError("llama.cpp could not make it")
        return whole(candidate, held_out=held_out)

    lab.quality = quality  # type: ignore[method-assign]
    found = search(lab, tmp_path)
    assert verdicts(found)["IQ4_NL in embedding, output"] == "failed: llama.cpp could not make it"
    assert found.best.recipe is not None
    assert [pattern for pattern, _ in found.best.recipe.tensor_types] == [
        GROUPS["ffn_up, ffn_gate"],
        GROUPS["ffn_down"],
    ]


def test_weights_that_stand_the_search_but_not_the_other_text_are_not_served(tmp_path: Path) -> None:
    found = search(FakeLab(held_out_kl=0.02), tmp_path)
    assert found.best == BEFORE
    assert found.gain == 1.0
    assert [row.verdict for row in found.rows][-1] == "KL over 0.01 on the other text"


def test_a_gain_that_is_not_found_again_is_not_kept(tmp_path: Path) -> None:
    lab = FakeLab(confirmed=1.02)
    found = search(lab, tmp_path)
    assert found.best == BEFORE
    assert lab.dropped[-1] == "all but None"


def test_under_three_per_cent_the_simpler_setting_stays(tmp_path: Path) -> None:
    lab = FakeLab(speeds={"Q8_0": 1.02}, threads_gain=1.029)
    found = search(lab, tmp_path)
    assert found.best == BEFORE
    assert verdicts(found)["Q8_0"] == "gains less than 3%"
    assert verdicts(found)["1 threads that decode"] == "gains less than 3%"


def test_fewer_threads_are_kept_where_they_are_faster(tmp_path: Path) -> None:
    found = search(FakeLab(speeds={}, threads_gain=1.5), tmp_path)
    assert changed_settings(found.before, found.best) == {"threads": 1}


def test_a_format_that_cannot_be_run_is_told_and_the_search_goes_on(tmp_path: Path) -> None:
    found = search(FakeLab(broken=("Q6_K",)), tmp_path)
    assert verdicts(found)["Q6_K"] == "failed: its process ended with -6"
    assert found.gain > 2


def test_out_of_time_it_ends_with_what_it_has(tmp_path: Path) -> None:
    found = search(FakeLab(), tmp_path, time_limit_s=1e-9)
    assert not found.is_complete
    assert found.best == BEFORE


@pytest.mark.parametrize("limit_s", [30, 60, 90])
def test_it_ends_in_time_with_the_winner_confirmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit_s: int
) -> None:
    lab = FakeLab()
    seconds = SimpleNamespace(monotonic=lambda: float(lab.num_turns))  # a trial takes 6 s, as do the last
    monkeypatch.setattr("takeoff.models.optimize.search.time", seconds)
    found = search(lab, tmp_path, time_limit_s=limit_s)
    assert limit_s / 2 < lab.num_turns <= limit_s
    assert found.gain == pytest.approx(2.0 if limit_s == 30 else 2.4, rel=0.01)
    assert verdicts(found)["confirmed"] == f"{found.gain:.2f} × as shipped"


def test_what_was_measured_before_an_interruption_is_not_measured_again(tmp_path: Path) -> None:
    whole = FakeLab()
    assert search(whole, tmp_path / "whole").gain > 2
    first = FakeLab()
    first.turn = _interrupted(first, after=10)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        search(first, tmp_path / "resumed")
    second = FakeLab()
    found = search(second, tmp_path / "resumed")
    assert found.gain == pytest.approx(2.4, rel=0.01)
    assert second.num_turns <= whole.num_turns - 8  # the pair that was interrupted is measured again


def _interrupted(lab: FakeLab, after: int) -> Any:
    whole = lab.turn

    def turn(candidate: Candidate) -> Turn:
        if lab.num_turns >= after:
            raise KeyboardInterrupt
        return whole(candidate)

    return turn


def test_labels_do_not_make_another_candidate() -> None:
    assert replace(BEFORE, label="other") == BEFORE
