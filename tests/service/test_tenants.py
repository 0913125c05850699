"""A constraint that was tried for one tenant is tried again for another."""

from __future__ import annotations

import asyncio
from typing import cast

from takeoff.ipc.messages import ConstraintTried, TryConstraint
from takeoff.request import Constraint, ConstraintKind
from takeoff.service.preparer import Preparer, Preparers


class Trial:
    """Says that every constraint can be enforced."""

    def __init__(self) -> None:
        self.num_tried = 0

    async def ask(self, question: TryConstraint) -> ConstraintTried:
        self.num_tried += 1
        return ConstraintTried(question.ask_id, f"grammar {self.num_tried}")


def test_a_tried_constraint_is_found_again_by_its_tenant_alone() -> None:
    trial = Trial()
    preparer = cast(Preparer, trial)
    preparers = Preparers(preparer, preparer, preparer)
    constraint = Constraint(ConstraintKind.REGEX, "a+")

    async def grammars() -> list[str]:
        tenants = ("key:1", "key:1", "key:2", "", "key:2", "key:1")
        return [await preparers.try_constraint(constraint, tenant=tenant) for tenant in tenants]

    assert asyncio.run(grammars()) == [f"grammar {number}" for number in (1, 1, 2, 3, 2, 1)]


def test_what_is_remembered_is_bounded_by_what_it_was_made_of_too() -> None:
    """Long sources whose grammars are short; the one that was asked for last stays."""
    trial = Trial()
    preparer = cast(Preparer, trial)
    preparers = Preparers(preparer, preparer, preparer)
    constraints = [Constraint(ConstraintKind.REGEX, f"{number}" + "a" * 1_000_000) for number in range(6)]

    async def tried() -> list[int]:
        numbers = []
        for number in (0, 1, 2, 3, 0, 4, 0, 1, 5):
            await preparers.try_constraint(constraints[number])
            numbers.append(trial.num_tried)
        return numbers

    assert asyncio.run(tried()) == [1, 2, 3, 4, 4, 5, 5, 6, 7]
