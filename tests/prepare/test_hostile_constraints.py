"""Hostile constraints: each is refused soon or costs little at every token. See also `bench/hostile.py`."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np
from tests.prepare.hostile_constraints import HOSTILE
from tests.prepare.test_process import running_preparer

from takeoff.engine.constraint import ConstraintCompiler
from takeoff.errors import InvalidRequest
from takeoff.prepare.tokenizer import Tokenizer
from takeoff.request import Constraint, ConstraintKind
from takeoff.service.reader import TRIAL_TIMEOUT_S

STEPS = 200
MOST_MASK_S = 0.04  # of the 50 ms that a gap may grow by
MOST_LEADING_S = 0.08  # two looks for a way of 25 ms, the last step of each beyond
OF_EACH = 20  # accepted and refused, at least: one alone would show little


def test_each_is_refused_within_a_second_or_costs_little_at_every_token(smollm2_path: Path) -> None:
    grammars, refusals = asyncio.run(_tried(smollm2_path))
    for name, refusal in refusals.items():
        assert refusal.param == HOSTILE[name].kind.value
        assert len(refusal.message) < 600
        assert "too much time" not in refusal.message, name
    assert min(len(grammars), len(refusals)) >= OF_EACH
    tokenizer = Tokenizer(str(smollm2_path))
    compiler = ConstraintCompiler(tokenizer.for_constraints(), tokenizer.n_vocab)
    slow = {
        name: cost for name, grammar in grammars.items() if (cost := _most(compiler, grammar)) > MOST_MASK_S
    }
    assert slow == {}
    slow = {
        name: cost
        for name, grammar in grammars.items()
        if (cost := _most_of_leading(compiler, grammar)) > MOST_LEADING_S
    }
    assert slow == {}


async def _tried(model: Path) -> tuple[dict[str, str], dict[str, InvalidRequest]]:
    """The grammars of those that a preparer takes, and why it refuses the others."""
    grammars, refusals = {}, {}
    async with running_preparer(model, timeout_s=TRIAL_TIMEOUT_S) as preparers:
        await preparers.try_constraint(Constraint(ConstraintKind.REGEX, "a"))  # it is started now
        for name, constraint in HOSTILE.items():
            started = time.perf_counter()
            try:
                grammars[name] = await preparers.try_constraint(constraint)
            except InvalidRequest as exc:
                refusals[name] = exc
            assert time.perf_counter() - started < TRIAL_TIMEOUT_S, name
    return grammars, refusals


def _most_of_leading(compiler: ConstraintCompiler, grammar: str) -> float:
    """Seconds of processor time of the most expensive look for an end of the text, near that of its room."""
    chance = np.random.default_rng(2)
    state, most = compiler.compile(grammar), 0.0
    state.room = 2 * STEPS
    for _ in range(STEPS):
        blocked = state.blocked()
        if blocked.all() or state.is_finished:
            break
        started = time.thread_time()
        token_id = state.fitting(int(chance.choice(np.flatnonzero(~blocked))))
        most = max(most, time.thread_time() - started)
        state.consume(token_id)
    return most


def _most(compiler: ConstraintCompiler, grammar: str) -> float:
    """Seconds of processor time that the most expensive of some random steps takes."""
    chance = np.random.default_rng(1)
    state, most = compiler.compile(grammar), 0.0
    for _ in range(STEPS):
        started = time.thread_time()
        blocked = state.blocked()
        most = max(most, time.thread_time() - started)
        if blocked.all() or state.is_finished:
            break
        started = time.thread_time()
        state.consume(int(chance.choice(np.flatnonzero(~blocked))))
        most = max(most, time.thread_time() - started)
    return most
