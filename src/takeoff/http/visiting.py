"""Whose request it is that is being answered, for everything that is called in its course."""

from __future__ import annotations

import uuid
from contextvars import ContextVar

from takeoff.keys.account import Visit

# In the tasks of a request. What it is not part of must not be in the way of all handlers.
current_visit: ContextVar[Visit] = ContextVar("current_visit")


def new_answer_id(prefix: str) -> str:
    """What the answer to the current request is called in its body, by which it can be ended, too."""
    answer_id = f"{prefix}{uuid.uuid4().hex}"
    current_visit.get().add_name(answer_id)
    return answer_id
