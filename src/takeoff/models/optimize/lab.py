"""Where trials are made: real weights, in processes of their own, one at work at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from takeoff.models.gguf import read_gguf
from takeoff.models.machine import Machine
from takeoff.models.optimize.candidates import Candidate
from takeoff.models.optimize.pace import N_CTX_SLOT, Setup, Stopwatch, Turn
from takeoff.models.optimize.quality import HELD_OUT, SEARCHED, Quality, compare
from takeoff.models.plan import make_plan
from takeoff.models.profile import profiled_file
from takeoff.models.progress import NoProgress
from takeoff.models.requantise import requantise
from takeoff.models.stored import StoredModel
from takeoff.models.variants import Recipe, discard_variant, list_variants, model_place, variant_model
from takeoff.settings import ReaderSettings


class Lab:
    """One model on this machine. A context manager: leaving it ends the processes."""

    def __init__(
        self,
        model: StoredModel,
        home: Path,
        settings: ReaderSettings,
        machine: Machine,
        streams: Sequence[int],
    ) -> None:
        """`streams`: the numbers of streams whose steps are wanted; those that don't fit are left out."""
        self._model, self._home, self._settings, self._machine = model, home, settings, machine
        self.gguf = read_gguf(model.path)
        self._paths: dict[Recipe | None, StoredModel] = {None: model}
        self._profiled_file = profiled_file(model, home)
        self._stopwatch = Stopwatch()
        self.streams = self._fitting(streams)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.forget()

    def forget(self) -> None:
        """End the processes: what is timed next is loaded anew."""
        self._stopwatch.forget()

    def weights(self, recipe: Recipe | None) -> StoredModel:
        """The model in that format, made if need be.

        Raises:
            ModelError, PullError: it could not be made.
        """
        if recipe not in self._paths:
            assert recipe is not None, "the source is there"
            variant = requantise(self._model, recipe, self._home, self._machine.cores, NoProgress())
            self._paths[recipe] = variant_model(self._model, self._home, variant)
        return self._paths[recipe]

    def turn(self, candidate: Candidate) -> Turn:
        """Time a candidate once. Raises ModelError: it could not be run."""
        setup = self._setup(candidate)
        return self._stopwatch.turn(setup, candidate.threads, candidate.threads_prefill, self.streams)

    def quality(self, candidate: Candidate, *, held_out: bool) -> Quality:
        """Compare a candidate with the source on the text of the search, or on the other one.

        Raises:
            ModelError: it could not be run.
        """
        self.forget()  # two models are loaded for this
        source = replace(candidate, recipe=None, kv_type="f16")
        return compare(self._setup(source), self._setup(candidate), HELD_OUT if held_out else SEARCHED)

    def memory_bytes(self, candidate: Candidate) -> int:
        """What the plan of a server with it takes in weights, KV cache and buffers."""
        named = self._settings.model_copy(update=candidate.names)
        plan = make_plan(read_gguf(self.weights(candidate.recipe).path), named, self._machine)
        return plan.weights_bytes + plan.kv_bytes + plan.compute_bytes

    def drop(self, recipe: Recipe | None) -> None:
        """Delete a variant; nothing there, or the source itself, is fine.

        Not the present profile's: it counts until another is saved, and the search may be interrupted.
        """
        if recipe is None or recipe not in self._paths:
            return
        file = self._paths.pop(recipe).path.name
        place = model_place(self._model, self._home)
        for variant in list_variants(place):
            if variant.file == file != self._profiled_file:
                discard_variant(place, variant)

    def drop_all_but(self, kept: Recipe | None) -> None:
        for recipe in list(self._paths):
            if recipe != kept:
                self.drop(recipe)

    def _setup(self, candidate: Candidate) -> Setup:
        return Setup(
            path=str(self.weights(candidate.recipe).path),
            n_slots=max(self.streams),
            batch=candidate.batch,
            ubatch=candidate.ubatch,
            flash_attention=candidate.flash_attention,
            kv_type=candidate.kv_type,
            threads=self._machine.cores,
        )

    def _fitting(self, wanted: Sequence[int]) -> tuple[int, ...]:
        """Those of which two models fit into half of the memory; one stream always is tried."""
        roomy = replace(self._machine, memory_available_bytes=1 << 60)
        fitting = [1]
        for number in wanted:
            smallest = {"max_slots": number, "context": N_CTX_SLOT, "prefix_cache_mb": 0, "long_slots": 0}
            plan = make_plan(self.gguf, self._settings.model_copy(update=smallest), roomy)
            if number not in fitting and 4 * plan.total_bytes <= self._machine.memory_available_bytes:
                fitting.append(number)
        return tuple(fitting)
