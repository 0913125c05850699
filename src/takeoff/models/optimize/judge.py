"""How candidates are compared: by their divergence from the source, and in duels, in turns.

What is measured for the search is looked up first, and kept: an interrupted search measures nothing twice.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from takeoff.models.gguf import GgufFile
from takeoff.models.optimize.candidates import Candidate
from takeoff.models.optimize.goal import Goal, Measured
from takeoff.models.optimize.pace import Turn
from takeoff.models.optimize.quality import Quality
from takeoff.models.optimize.trials import Trials
from takeoff.models.stored import StoredModel
from takeoff.models.variants import Recipe

TURNS = 3
HOPELESS = 0.85  # a challenger so much worse in the first turn gets no other
MOST_GAIN = 1e6  # where the incumbent keeps no bound at all


class Laboratory(Protocol):
    """Documented at `Lab`."""

    gguf: GgufFile
    streams: tuple[int, ...]

    def forget(self) -> None: ...
    def weights(self, recipe: Recipe | None) -> StoredModel: ...
    def turn(self, candidate: Candidate) -> Turn: ...
    def quality(self, candidate: Candidate, *, held_out: bool) -> Quality: ...
    def memory_bytes(self, candidate: Candidate) -> int: ...
    def drop(self, recipe: Recipe | None) -> None: ...
    def drop_all_but(self, kept: Recipe | None) -> None: ...


class Duel(msgspec.Struct, frozen=True):
    """What came of it; medians of the turns."""

    incumbent: Turn
    challenger: Turn
    gains: list[float]  # one a turn

    @property
    def gain(self) -> float:
        return statistics.median(self.gains)


class Judge:
    """Judges by one goal, in one lab. `start` comes first."""

    before: Measured  # what there was at the start, which relative bounds are of

    def __init__(self, lab: Laboratory, goal: Goal, trials: Trials) -> None:
        self._lab, self._goal, self._trials = lab, goal, trials

    def start(self, candidate: Candidate) -> Measured:
        """Measure what there is before the search. Raises ModelError: it could not be timed."""
        question = ["alone", _identity(candidate), self._lab.streams]
        turn = self._trials.find(question, Turn)
        if turn is None:
            turn = self._lab.turn(candidate)
            self._trials.keep(question, turn)
        self.before = self.measured(candidate, turn)
        return self.before

    def quality(self, candidate: Candidate) -> Quality:
        """How near it is to the source, on the text of the search. Raises ModelError: it could not be run."""
        question = ["quality", _identity(candidate)]
        found = self._trials.find(question, Quality)
        if found is None:
            found = self._lab.quality(candidate, held_out=False)
            self._trials.keep(question, found)
        return found

    def duel(self, challenger: Candidate, incumbent: Candidate) -> Duel:
        """Time them in turns, or look it up; once only where the challenger is hopeless.

        Raises:
            ModelError: one of them could not be run.
        """
        question = ["duel", self._goal.text, _identity(challenger), _identity(incumbent)]
        found = self._trials.find(question, Duel)
        if found is None:
            found = self._timed(challenger, incumbent, hopeless=HOPELESS)
            self._trials.keep(question, found)
        return found

    def duel_anew(self, challenger: Candidate, incumbent: Candidate) -> Duel:
        """Time them in all turns, whatever is known, with models that are loaded anew."""
        self._lab.forget()
        return self._timed(challenger, incumbent, hopeless=0.0)

    def measured(self, candidate: Candidate, turn: Turn) -> Measured:
        """What a turn says of a candidate, with the memory that it takes."""
        return Measured(turn.step_s, turn.prefill_token_s, self._lab.memory_bytes(candidate))

    def _timed(self, challenger: Candidate, incumbent: Candidate, *, hopeless: float) -> Duel:
        ours: list[Turn] = []
        theirs: list[Turn] = []
        gains: list[float] = []
        while len(gains) < TURNS and (not gains or gains[0] >= hopeless):
            theirs.append(self._lab.turn(incumbent))
            ours.append(self._lab.turn(challenger))
            new, old = self.measured(challenger, ours[-1]), self.measured(incumbent, theirs[-1])
            gains.append(min(self._goal.gain(new, old, self.before), MOST_GAIN))
        return Duel(_median(theirs), _median(ours), gains)


def gain_text(gain: float) -> str:
    """For people; a bound that one side alone keeps can't be told as a ratio."""
    return "∞ ×" if gain >= MOST_GAIN else f"{gain:.2f} ×"


def _identity(candidate: Candidate) -> list[object]:
    recipe = None if candidate.recipe is None else msgspec.to_builtins(candidate.recipe)
    return [recipe, candidate.names]


def _median(turns: Sequence[Turn]) -> Turn:
    """Medians of each figure."""
    steps: Mapping[int, float] = {
        number: statistics.median(turn.step_s[number] for turn in turns) for number in turns[0].step_s
    }
    return Turn(steps, statistics.median(turn.prefill_token_s for turn in turns))
