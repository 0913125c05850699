"""How hard a model is to think: `thinking` and the `effort` of output_config, in the words of templates."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from takeoff.errors import InvalidRequest

_DEFAULT = "high"  # of Anthropic's API: a template that knows no degrees may pass over it
Effort = Literal["low", "medium", "high", "xhigh", "max"]
_THINKS = "medium"  # what every template takes that can make its model think
Display = Literal["summarized", "omitted"]  # the thought as it is, or a block without it


class Disabled(BaseModel):
    """No thought."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["disabled"]
    display: None = None


class Adaptive(BaseModel):
    """As the model does by itself."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["adaptive"]
    display: Display | None = None


class Enabled(BaseModel):
    """A thought. How long it gets is the model's affair, as far as `max_tokens` goes."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["enabled"]
    budget_tokens: int = Field(ge=1)
    display: Display | None = None


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
