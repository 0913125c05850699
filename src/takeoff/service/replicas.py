"""Several engines that serve one reader together, each on a machine of its own perhaps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReplicaFacts:
    """One of them that is up."""

    replica_id: str
    node: str  # address of its machine
    num_open: int  # requests that this service has given it
