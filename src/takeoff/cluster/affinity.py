"""Which replica a request should go to: the one that has computed its beginning, unless others are freer.

A prompt is named by chained digests of its blocks, so two prompts have as many in common as they have whole
blocks. A door remembers which it has sent where. The price of a replica is what of the prompt is new to it,
and half of what it has open: to wait costs one request time, to compute twice costs them all. The cheapest of
the best match and of two drawn ones is taken (the power of two choices, Mitzenmacher 2001), so a busy replica
keeps the prompts that it knows until waiting there would cost more than computing them again elsewhere.
"""

from __future__ import annotations

import hashlib
import random
from array import array
from collections import OrderedDict
from collections.abc import Sequence

from takeoff.ipc.messages import Submit

BLOCK = 32  # tokens
MOST_BLOCKS = 32_768  # that are remembered of a replica: a million tokens
OF_WAITING = 0.5  # of what is open at a replica, beside what of a prompt is new to it
BELIEVED_COMPLETION = 256  # tokens; who asks for more rarely gets them


def blocks_of(submit: Submit) -> list[bytes]:
    """Digests of the prompt's whole blocks, each of all that is before its end; by tenant and adapter."""
    digest = hashlib.blake2b(f"{submit.tenant}\0{submit.lora or ''}".encode(), digest_size=8).digest()
    tokens = array("I", submit.prompt_token_ids)
    blocks = []
    for end in range(BLOCK, len(tokens) + 1, BLOCK):
        digest = hashlib.blake2b(digest + tokens[end - BLOCK : end].tobytes(), digest_size=8).digest()
        blocks.append(digest)
    return blocks


class _Replica:
    """What a door knows of one."""

    def __init__(self) -> None:
        self.blocks: OrderedDict[bytes, None] = OrderedDict()  # the last used at the end
        self.num_open = 0  # calls of this door
        self.open_tokens = 0  # of them, to be computed

    def num_known(self, blocks: Sequence[bytes]) -> int:
        for number, block in enumerate(blocks):
            if block not in self.blocks:
                return number
        return len(blocks)

    def learn(self, blocks: Sequence[bytes]) -> None:
        for block in reversed(blocks):  # the first is used by the most: it is forgotten last
            self.blocks[block] = None
            self.blocks.move_to_end(block)
        while len(self.blocks) > MOST_BLOCKS:
            self.blocks.popitem(last=False)


class Affinity:
    """Chooses, and remembers what it chose. Knows no Ray."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()  # noqa: S311  (nothing secret)
        self._replicas: dict[str, _Replica] = {}
        self._open: dict[str, tuple[str, int]] = {}  # call: where it is, and its tokens

    def keep(self, replica_ids: Sequence[str]) -> None:
        """These are all there are; what was known of others is forgotten."""
        self._replicas = {name: self._replicas.get(name) or _Replica() for name in replica_ids}
        self._open = {call: at for call, at in self._open.items() if at[0] in self._replicas}

    def choose(self, blocks: Sequence[bytes], prompt: int, num_open: dict[str, int]) -> str:
        """The id of one of the replicas of `num_open`, which says how many calls each has from all doors.

        Args:
            blocks: of `blocks_of`.
            prompt: tokens of it.
            num_open: at least one replica.
        """
        names = list(num_open)
        drawn = names if len(names) <= 2 else self._rng.sample(names, 2)
        known = {name: self._replica(name).num_known(blocks) for name in names}
        best = max(names, key=known.__getitem__)
        ours = max(sum(replica.open_tokens for replica in self._replicas.values()), 1)
        each = ours / max(len(self._open), 1)  # tokens of a call, by our own

        def price(name: str) -> float:
            replica = self._replica(name)
            others = max(num_open[name] - replica.num_open, 0) * each
            return OF_WAITING * (replica.open_tokens + others) + prompt - known[name] * BLOCK

        candidates = dict.fromkeys([best, *drawn] if known[best] else drawn)
        return min(candidates, key=price)

    def placed(
        self, call: str, replica_id: str, blocks: Sequence[bytes], prompt: int, completion: int
    ) -> None:
        """A call went there, or went there in place of where it was said to go before."""
        self.ended(call)
        replica = self._replica(replica_id)
        new = prompt - replica.num_known(blocks) * BLOCK
        tokens = new + min(completion, BELIEVED_COMPLETION)
        replica.learn(blocks)
        replica.num_open += 1
        replica.open_tokens += tokens
        self._open[call] = replica_id, tokens

    def ended(self, call: str) -> None:
        """Idempotent."""
        replica_id, tokens = self._open.pop(call, ("", 0))
        if replica_id in self._replicas:
            self._replicas[replica_id].num_open -= 1
            self._replicas[replica_id].open_tokens -= tokens

    def _replica(self, name: str) -> _Replica:
        return self._replicas.setdefault(name, _Replica())
