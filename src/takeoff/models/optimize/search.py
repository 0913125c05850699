"""The search: one thing is changed at a time, and each challenger duels with the best so far, in turns.

Weights first, because they gain most; then threads, batches, attention and cache. What changes the model's
answers is held to a bound on its divergence from the source. A change that gains less than LEAST_GAIN is
not made. At the end the winner is compared on a text that the search did not see, and measured anew
against what there was before.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol

from takeoff.errors import TakeoffError
from takeoff.models.gguf_types import FILE_TYPES
from takeoff.models.machine import Machine
from takeoff.models.optimize.candidates import (
    MIXED_IN,
    PREFIX,
    Candidate,
    bearing_groups,
    described,
    formats,
    group_bytes,
    mixture,
    variations,
)
from takeoff.models.optimize.goal import Goal, Measured
from takeoff.models.optimize.judge import Judge, Laboratory, gain_text
from takeoff.models.optimize.quality import Quality
from takeoff.models.optimize.trials import Trials
from takeoff.models.stored import StoredModel
from takeoff.models.variants import Recipe

LEAST_GAIN = 1.03  # less, and the simpler setting stays
RESERVE = 0.15  # of the time: for the check on the other text and the confirmation, at least
TRIALS_NEED = 2  # of the longest trial so far: one more, and the confirmation, which takes as long
MIXTURES_NEED = 0.45  # of the time has to be left


class Watch(Protocol):
    """Told how the search goes."""

    def trying(self, what: str, share: float) -> None:
        """A trial begins; `share` of the time is used up."""

    def tried(self, row: Row) -> None:
        """A trial is over."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    label: str
    verdict: str
    quality: Quality | None = None
    measured: Measured | None = None
    gain: float | None = None  # over the best so far


@dataclass(frozen=True, slots=True)
class Found:
    """The winner, and how it stands against what there was before."""

    before: Candidate
    best: Candidate
    weights: StoredModel  # of the winner
    measured_before: Measured
    measured: Measured
    gain: float  # as confirmed
    quality: Quality | None  # on the text that the search did not see; None: the answers are the source's
    rows: list[Row] = field(default_factory=list)
    is_complete: bool = True  # False: time ran out before everything was tried


class Search:
    """One search for one model. `run` may be called once."""

    def __init__(
        self,
        lab: Laboratory,
        machine: Machine,
        *,
        logical_cores: int,
        goal: Goal,
        max_kl: float,
        time_limit_s: float,
        trials: Trials,
        watch: Watch,
    ) -> None:
        self._lab, self._machine, self._logical_cores = lab, machine, logical_cores
        self._goal, self._max_kl, self._time_limit_s = goal, max_kl, time_limit_s
        self._judge, self._watch = Judge(lab, goal, trials), watch
        self._started = time.monotonic()
        self._rows: list[Row] = []
        self._is_complete = True
        self._longest_s = 0.0  # of the trials that were made
        self._too_coarse: list[str] = []  # formats that are faster, but lose too much as a whole

    def run(self, before: Candidate) -> Found:
        """Search from `before` on.

        Raises:
            ModelError: the model as it is could not be timed.
        """
        self._watch.trying(before.label, 1 - self._left())
        self._tell(Row(before.label, "the start", measured=self._judge.start(before)))
        accepted = [before]
        for challenger in self._challengers(accepted):
            if not self._has_time():
                self._is_complete = False
                break
            started = time.monotonic()
            if self._wins(challenger, accepted[-1]):
                accepted.append(challenger)
            self._longest_s = max(self._longest_s, time.monotonic() - started)
        return self._confirmed(accepted)

    def _challengers(self, accepted: list[Candidate]) -> Iterable[Candidate]:
        """What to try next, given what was accepted so far."""
        for recipe in formats(self._lab.gguf):
            yield replace(accepted[0], recipe=recipe, label=described(recipe))
        if self._too_coarse and self._left() > MIXTURES_NEED:
            yield from self._mixtures(accepted[-1])
        with_memory = self._goal.wants_memory
        tried: set[Candidate] = set(accepted)
        changed = True
        while changed:  # after a change, what was tried on the setting before it is not tried again
            changed = False
            best = accepted[-1]
            for each in variations(best, self._machine, self._logical_cores, with_memory=with_memory):
                if each in tried:
                    continue
                tried.add(each)
                yield each
                if accepted[-1] is each:
                    changed = True
                    break

    def _mixtures(self, best: Candidate) -> Iterable[Candidate]:
        """The coarse format in those groups of tensors that bear it, beside the format of the best."""
        own = self._lab.gguf.quantisation
        if best.recipe is None and own not in FILE_TYPES.values():
            return  # a mixture that llama.cpp can't be told to make
        base = best.recipe or Recipe(f"{PREFIX}{own}", own)
        base_kl = 0.0 if best.recipe is None else self._judge.quality(best).kl
        sizes = group_bytes(self._lab.gguf)
        for small in self._too_coarse[:1]:
            costs: dict[str, float] = {}
            for group in sizes:
                if not self._has_time():
                    return
                part = replace(best, recipe=mixture(base, small, [group]), label=f"{small} in {group}")
                kl = self._part_kl(part)
                if kl is not None:
                    costs[group] = max(0.0, kl - base_kl)
            groups = bearing_groups(costs, sizes, self._max_kl - base_kl)
            if groups:
                recipe = mixture(base, small, groups)
                yield replace(best, recipe=recipe, label=described(recipe))

    def _part_kl(self, part: Candidate) -> float | None:
        """The divergence of a mixture that is not to be served itself; None: it can't be made or run."""
        self._watch.trying(part.label, 1 - self._left())
        try:
            quality = self._judge.quality(part)
        except TakeoffError as exc:
            self._tell(Row(part.label, f"failed: {exc.message}"))
            return None
        finally:
            self._lab.drop(part.recipe)
        self._tell(Row(part.label, "a part of a mixture", quality))
        return quality.kl

    def _wins(self, challenger: Candidate, best: Candidate) -> bool:
        """Whether the challenger replaces the best; tells why or why not."""
        self._watch.trying(challenger.label, 1 - self._left())
        quality: Quality | None = None
        try:
            if (challenger.recipe, challenger.kv_type) != (best.recipe, best.kv_type):
                quality = self._judge.quality(challenger)
            is_near = quality is None or quality.kl <= self._max_kl
            duel = self._judge.duel(challenger, best) if is_near or _is_for_mixtures(challenger) else None
        except TakeoffError as exc:
            self._tell(Row(challenger.label, f"failed: {exc.message}"))
            return False
        measured = None if duel is None else self._judge.measured(challenger, duel.challenger)
        gain = None if duel is None else duel.gain
        is_faster = gain is not None and gain >= LEAST_GAIN
        if not is_near and is_faster and challenger.recipe is not None:
            self._too_coarse.append(challenger.recipe.file_type)
        is_kept = is_near and is_faster
        verdict = "kept" if is_kept else self._why_not(quality, gain)
        self._tell(Row(challenger.label, verdict, quality, measured, gain))
        if not is_kept and challenger.recipe != best.recipe:
            self._lab.drop(challenger.recipe)
        return is_kept

    def _why_not(self, quality: Quality | None, gain: float | None) -> str:
        if gain is None or (quality is not None and quality.kl > self._max_kl):
            return f"KL over {self._max_kl:g}"
        return "worse" if gain < 1 else f"gains less than {LEAST_GAIN - 1:.0%}"

    def _confirmed(self, accepted: list[Candidate]) -> Found:
        """The last accepted that stands up to a text it has not seen and to a new measurement."""
        before = accepted[0]
        while len(accepted) > 1:
            best = accepted[-1]
            self._watch.trying(f"{best.label}: on another text, and measured anew", 1 - self._left())
            quality = None
            if best.recipe is not None or best.kv_type != before.kv_type:
                quality = self._lab.quality(best, held_out=True)
            if quality is not None and quality.kl > self._max_kl:
                self._tell(Row(best.label, f"KL over {self._max_kl:g} on the other text", quality))
                accepted.pop()
                continue
            duel = self._judge.duel_anew(best, before)
            measured = self._judge.measured(best, duel.challenger)
            if duel.gain >= LEAST_GAIN:
                self._tell(
                    Row("confirmed", f"{gain_text(duel.gain)} as shipped", quality, measured, duel.gain)
                )
                self._lab.drop_all_but(best.recipe)
                measured_before = self._judge.measured(before, duel.incumbent)
                return self._found(before, best, measured_before, measured, duel.gain, quality)
            self._tell(
                Row("confirmation", f"only {gain_text(duel.gain)} as shipped", quality, measured, duel.gain)
            )
            accepted.pop()
        self._lab.drop_all_but(None)
        return self._found(before, before, self._judge.before, self._judge.before, 1.0, None)

    def _found(
        self,
        before: Candidate,
        best: Candidate,
        measured_before: Measured,
        measured: Measured,
        gain: float,
        quality: Quality | None,
    ) -> Found:
        weights = self._lab.weights(best.recipe)
        return Found(
            before, best, weights, measured_before, measured, gain, quality, self._rows, self._is_complete
        )

    def _left(self) -> float:
        """Share of the time that is left."""
        return max(0.0, 1 - (time.monotonic() - self._started) / self._time_limit_s)

    def _has_time(self) -> bool:
        """Whether another trial may begin, so that all ends in time; the first one may, whatever it takes."""
        return self._left() > max(RESERVE, TRIALS_NEED * self._longest_s / self._time_limit_s)

    def _tell(self, row: Row) -> None:
        self._rows.append(row)
        self._watch.tried(row)


def _is_for_mixtures(candidate: Candidate) -> bool:
    """Whether its format may be used for a part of the tensors, where it is too coarse for all."""
    recipe = candidate.recipe
    return recipe is not None and recipe.file_type in MIXED_IN and not recipe.tensor_types
