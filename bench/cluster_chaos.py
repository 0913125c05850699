"""Kills replicas and their engines under streams, and compares what each client got with an undisturbed run.

    python bench/cluster_chaos.py [--kills 10] [--tokens 200] [--replicas 2] [--deterministic] [--json FILE]

An independent client, as in `chaos.py`: sixteen streams with fixed seeds, twice without kills, then again and
again with `kill -9` to a replica, which takes its engine with it, or to the engine alone. Exits with 1 if a
client saw an error, or a text lacks characters or has some twice, or has another number of tokens than was
asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from pathlib import Path

import httpx
from chaos import LIMIT_S, all_streams, has_work
from local_cluster import Cluster, cluster_of

from takeoff.bench.told import Kill, Verdict, judged

REST_S = (1.0, 4.0)  # between two kills


async def kill_one(cluster: Cluster, chance: random.Random) -> Kill | None:
    """A replica or an engine, if one is there that serves."""
    what = chance.choice(("replica", "engine"))
    victims = cluster.replicas() if what == "replica" else cluster.engines()
    if not victims:
        return None
    chance.choice(victims).kill()
    return Kill(time.monotonic(), f"SIGKILL of a {what}")


async def disturb(cluster: Cluster, chance: random.Random, most: int) -> list[Kill]:
    while not await has_work(cluster.url):  # noqa: ASYNC110  (there is no event)
        await asyncio.sleep(0.01)
    kills: list[Kill] = []
    while len(kills) < most:
        await asyncio.sleep(chance.uniform(*REST_S))
        if not await has_work(cluster.url):
            break
        if (kill := await kill_one(cluster, chance)) is not None:
            kills.append(kill)
    return kills


async def run(cluster: Cluster, num_kills: int, tokens: int, seed: int) -> Verdict:
    chance, done = random.Random(seed), 0
    async with httpx.AsyncClient(base_url=cluster.url, timeout=httpx.Timeout(LIMIT_S)) as client:
        await all_streams(client, tokens)
        plain = await all_streams(client, tokens)
        again = await all_streams(client, tokens)
        verdict = Verdict(num_noisy=sum(a.text != b.text for a, b in zip(plain, again, strict=True)))
        while done < num_kills and not verdict.errors[8:]:
            running = asyncio.create_task(all_streams(client, tokens))
            kills = await disturb(cluster, chance, min(3, num_kills - done))
            for before, after in zip(plain, await running, strict=True):
                judged(verdict, before, after, kills)
            for _, what in kills:
                verdict.kills[what] = verdict.kills.get(what, 0) + 1
            done += len(kills)
            print(f"{done} kills of {num_kills}", file=sys.stderr)
    return verdict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=200, help="of each stream")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--deterministic", action="store_true")
    parser.add_argument("--seed", type=int, default=1, help="of the moments and the victims")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()
    reader = {"model_name": "smollm2", "device": "cpu", "consumer_group": "primary", "max_slots": 16}
    reader |= {"context": 2048, "deterministic": options.deterministic}
    replicas = {"chat": {"replicas": options.replicas, "cpus": 0.5}}
    with cluster_of({"chat": reader}, replicas, request_log="off") as cluster:
        verdict = asyncio.run(run(cluster, options.kills, options.tokens, options.seed))
    if options.json is not None:
        options.json.write_text(json.dumps(verdict.figures(), indent=1) + "\n")
    print(verdict.report())
    sys.exit(0 if verdict.is_kept(exact=options.deterministic) else 1)


if __name__ == "__main__":
    main()
