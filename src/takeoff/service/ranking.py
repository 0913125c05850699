"""Documents in the order of what they say to a query, for every door."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from takeoff.errors import InvalidRequest
from takeoff.request import EncodeRequest, Encoding, Task

MAX_TOLD_LABELS = 4


@dataclass(frozen=True, slots=True)
class Ranked:
    """A document's place among those that were sent, and its score."""

    index: int
    score: float  # of the model's one class: the sigmoid of its logit, of a regression the logit itself


def rank_request(query: str, documents: Sequence[str], group: str) -> EncodeRequest:
    """What a cross-encoder is asked: each document beside the query."""
    pairs = tuple((query, document) for document in documents)
    return EncodeRequest(task=Task.CLASSIFY, texts=pairs, group=group)


def ranked(encoding: Encoding) -> list[Ranked]:
    """The documents of a `rank_request`, the best first; of equal ones the first that was sent.

    Raises:
        InvalidRequest: the model has several classes.
    """
    labels = encoding.labels
    if len(labels) != 1:
        told = ", ".join(map(repr, labels[:MAX_TOLD_LABELS]))
        more = ", …" if len(labels) > MAX_TOLD_LABELS else ""
        raise InvalidRequest(
            f"a model that ranks has one class, and this one has {len(labels)}: {told}{more}",
            param="group",
            hint="use a cross-encoder, or have it classify",
        )
    scores = [Ranked(index, score) for index, (score,) in enumerate(encoding.vectors)]
    return sorted(scores, key=lambda each: -each.score)
