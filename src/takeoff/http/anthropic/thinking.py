"""How hard a model is to think: `thinking` and the `effort` of output_config, in the words of templates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from takeoff.errors import InvalidRequest
from takeoff.http.openai.fields import Inner, Unserved

_DEFAULT = "high"  # of Anthropic's API: a template that knows no degrees may pass over it
Effort = Literal["low", "medium", "high", "xhigh", "max"]
_THINKS = "medium"  # what every template takes that can make its model think
Display = Literal["summarized", "omitted"]


_TYPE: Any = Field(
    description="`disabled`; `adaptive`, which is the default: as the model does by itself; or `enabled`"
)
_DISPLAY: Any = Field(None, description="`summarized`: the thought as it is; `omitted`: a block without it")


class Disabled(Inner):
    """No thought."""

    unserved: ClassVar[Mapping[str, Unserved]] = {
        "budget_tokens": Unserved(instead="use the type enabled"),
        "display": Unserved(instead="use the type enabled"),
    }

    type: Literal["disabled"] = _TYPE


class Adaptive(Inner):
    """As the model does by itself."""

    unserved: ClassVar[Mapping[str, Unserved]] = {"budget_tokens": Unserved(instead="use the type enabled")}

    type: Literal["adaptive"] = _TYPE
    display: Display | None = _DISPLAY


class Enabled(Inner):
    """A thought."""

    harmless: ClassVar[frozenset[str]] = frozenset({"budget_tokens"})

    type: Literal["enabled"] = _TYPE
    budget_tokens: int = Field(
        ge=1, description="A target in Anthropic's API too; the thought ends where the model ends it"
    )
    display: Display | None = _DISPLAY


Thinking = Annotated[Disabled | Adaptive | Enabled, Field(discriminator="type")]


def effort_of(thinking: Thinking | None, effort: Effort | None) -> tuple[str | None, dict[str, Any]]:
    """The `reasoning_effort` of a Conversation, which is honoured or refused, and variables of its template.

    Raises:
        InvalidRequest: they contradict each other.
    """
    if isinstance(thinking, Disabled):
        if effort not in (None, _DEFAULT):
            raise InvalidRequest(
                f"output_config.effort is {effort!r}, and thinking is disabled", param="output_config.effort"
            )
        return "none", {}
    if isinstance(thinking, Enabled):
        return effort or _THINKS, {}
    if effort == _DEFAULT:
        return None, {"reasoning_effort": effort}
    return effort, {}


def shows_thought(thinking: Thinking | None) -> bool:
    """Whether the text of a thought is told."""
    return not isinstance(thinking, Adaptive | Enabled) or thinking.display != "omitted"
