"""How near a setting's answers are to the source's: both read the same text, position by position."""

from __future__ import annotations

from pathlib import Path

import msgspec

from takeoff.errors import ModelError
from takeoff.models.child import ChildFailed, lines_of
from takeoff.models.optimize.pace import Setup
from takeoff.sandbox.policy import Policy, with_companions

CHILD = "takeoff.engine.llama.quality"
RESULT = "result "  # begins the child's line of JSON
SEARCHED = Path(__file__).parent / "texts" / "searched.txt"
HELD_OUT = Path(__file__).parent / "texts" / "held_out.txt"  # the search does not see it
MAX_TOKENS = 1024  # of a text


class Quality(msgspec.Struct, frozen=True):
    """Divergence of the next token's distribution from the source's, in nats, over a text's positions."""

    kl: float  # mean
    kl_p99: float
    perplexity_ratio: float  # the setting's perplexity to the source's
    same_top: float  # share of the positions at which both find the same token most likely
    num_tokens: int


def compare(source: Setup, setup: Setup, text: Path, num_tokens: int = MAX_TOKENS) -> Quality:
    """Over the first `num_tokens` of a text. Blocks: about 5 s for 1,024 and 100 MB on two cores.

    Raises:
        ModelError: llama.cpp could not run one of them.
    """
    try:
        policy = Policy((*with_companions(source.path), *with_companions(setup.path), str(text)))
        lines = list(lines_of(policy, CHILD, _json(source), _json(setup), text, num_tokens))
    except ChildFailed as exc:
        raise ModelError(f"{Path(setup.path).name} could not be compared: {exc}") from exc
    results = [line.removeprefix(RESULT) for line in lines if line.startswith(RESULT)]
    if len(results) != 1:
        raise ModelError(f"{Path(setup.path).name} could not be compared: it gave no result")
    return msgspec.json.decode(results[0], type=Quality)


def _json(setup: Setup) -> str:
    return msgspec.json.encode(setup).decode()
