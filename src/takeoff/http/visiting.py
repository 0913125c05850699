"""Whose request it is that is being answered, for everything that is called in its course."""

from __future__ import annotations

from contextvars import ContextVar

from takeoff.keys.account import Visit

# In the tasks of a request. What it is not part of must not be in the way of all handlers.
current_visit: ContextVar[Visit] = ContextVar("current_visit")
