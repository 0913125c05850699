"""Ray Serve's question which replica gets a call, answered by `affinity`.

Source: the interface is `ray.serve.request_router.RequestRouter`; one lives in each door, for each reader.
"""

from __future__ import annotations

from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from takeoff.cluster.affinity import Affinity


class PrefixRouter(RequestRouter):  # type: ignore[misc]  # Ray is not typed
    """By the prompt of calls that say it, by name those that must go to one replica, the others by load."""

    def initialize_state(self, **_kwargs: Any) -> None:
        """Ray Serve calls this at birth."""
        self._affinity = Affinity()

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        self._affinity.keep([replica.replica_id.unique_id for replica in replicas])

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Ranks: Ray Serve takes a replica of the first, unless it accepts no more calls."""
        if pending_request is None or not candidate_replicas:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True
        wanted = pending_request.kwargs
        by_id = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        if "replica_id" in wanted:
            return [[by_id[wanted["replica_id"]]]] if wanted["replica_id"] in by_id else []
        num_open = {name: self._num_open(replica.replica_id) for name, replica in by_id.items()}
        blocks, prompt = wanted.get("blocks", ()), wanted.get("prompt", 0)
        first = self._affinity.choose(blocks, prompt, num_open)
        if prompt:
            call = pending_request.metadata.internal_request_id
            self._affinity.placed(call, first, blocks, prompt, wanted["completion"])
        others = sorted((name for name in by_id if name != first), key=num_open.__getitem__)
        return [[by_id[first]], *([by_id[name]] for name in others)]

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:  # noqa: ARG002
        self._affinity.ended(internal_request_id)

    def _num_open(self, replica_id: ReplicaID) -> int:
        return self.replica_queue_len_cache.get(replica_id) or 0
