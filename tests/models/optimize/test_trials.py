"""The log of trials: what an interrupted search goes on from."""

from __future__ import annotations

from pathlib import Path

from takeoff.models.optimize.pace import Turn
from takeoff.models.optimize.trials import FILE, Trials

TURN = Turn({1: 0.5, 8: 2.0}, 0.25)


def test_a_result_is_found_again_by_its_question_under_the_same_circumstances(tmp_path: Path) -> None:
    Trials(tmp_path, ["model", "machine"]).keep(["alone", 2], TURN)
    trials = Trials(tmp_path, ["model", "machine"])
    assert trials.find(["alone", 2], Turn) == TURN
    assert trials.find(["alone", 3], Turn) is None
    assert Trials(tmp_path, ["model", "another machine"]).find(["alone", 2], Turn) is None


def test_half_a_line_and_foreign_lines_are_passed_over(tmp_path: Path) -> None:
    Trials(tmp_path, "here").keep("first", TURN)
    path = tmp_path / FILE
    line = path.read_bytes()
    path.write_bytes(b'{"key": 3}\n\xff\xfe\n' + line + line[: len(line) // 2])
    assert Trials(tmp_path, "here").find("first", Turn) == TURN


def test_a_discarded_log_is_gone(tmp_path: Path) -> None:
    trials = Trials(tmp_path, "here")
    trials.keep("first", TURN)
    trials.discard()
    assert trials.find("first", Turn) is None
    assert Trials(tmp_path, "here").find("first", Turn) is None
