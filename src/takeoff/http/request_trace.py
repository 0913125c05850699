"""A request's stages for its trace: of each of its texts the wait for a slot, the prefill, and the decoding.

Names are of OpenTelemetry's semantic conventions where they have one. No prompt is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from takeoff.keys.account import Counted
from takeoff.observe.traces import Fact, Stage
from takeoff.request import FinishReason

# Of what the line in the log tells; the rest of it is called as there, as Takeoff's own.
_NAMES = MappingProxyType(
    {
        "method": "http.request.method",
        "path": "http.route",
        "status": "http.response.status_code",
        "client": "client.address",
        "port": "server.port",
        "error": "error.type",
        "prompt_tokens": "gen_ai.usage.input_tokens",
        "completion_tokens": "gen_ai.usage.output_tokens",
        "id": "takeoff.request_id",
    }
)
_NOT_TOLD = frozenset({"event", "prompts", "reason"})  # an error may quote what was sent


def stage_of(
    facts: Mapping[str, Any], began_at: float, ended_at: float, generations: Sequence[Counted]
) -> Stage:
    """Of a request whose line in the log has these facts; moments are monotonic seconds."""
    told = {_NAMES.get(name, f"takeoff.{name}"): v for name, v in facts.items() if name not in _NOT_TOLD}
    return Stage(
        name=f"{facts['method']} {facts['path']}",
        began_at=began_at,
        ended_at=ended_at,
        facts=told,
        parts=[_generation(each, ended_at) for each in generations],
        has_failed=facts["status"] >= 500 or facts["state"] == FinishReason.FAILED.value,
    )


def _generation(generation: Counted, ended_at: float) -> Stage:
    began_at, first_at = generation.began_at, generation.first_token_at
    ended_at = ended_at if generation.ended_at is None else generation.ended_at
    reason = generation.finish_reason
    facts: dict[str, Fact] = {
        "takeoff.reader": generation.reader_id,
        "takeoff.replica": list(generation.replica_ids),
        "takeoff.cached_tokens": generation.cached_tokens,
        "gen_ai.usage.input_tokens": generation.prompt_tokens,
        "gen_ai.usage.output_tokens": generation.completion_tokens,
        "gen_ai.response.finish_reasons": [] if reason is None else [str(reason)],
    }
    parts = []
    if first_at is not None:
        slot_at = min(began_at + generation.queue_s, first_at)
        moments = {
            "queue": (began_at, slot_at),
            "prefill": (slot_at, first_at),
            "decode": (first_at, ended_at),
        }
        parts = [Stage(name=name, began_at=at, ended_at=until) for name, (at, until) in moments.items()]
    return Stage(
        name="generate",
        began_at=began_at,
        ended_at=ended_at,
        facts=facts,
        parts=parts,
        has_failed=reason is FinishReason.FAILED,
    )
