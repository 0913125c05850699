"""What a cluster does beside computing: replicas whose engines compute nothing, a fixed time a step.

    python bench/cluster_stub.py [--replicas 1,2,4,8,16] [--step-ms 200] [--streams 4] [--tokens 60]
    python bench/cluster_stub.py --affinity both [--requests 160]

The first: as many streams for each replica; tokens a second, which should be so many for each replica, and
the processor time of the door and of a replica for each token. The second: prompts of sixteen groups with a
beginning of 1,600 tokens each, over four replicas, by our router and in turn; tokens of prompts that engines
would have computed, by the same rule for both: a block of 32 tokens that a replica has seen is not computed
again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
from local_cluster import Cluster, cluster_of
from server import target_at

from takeoff.bench.client import Trace, Work, complete
from takeoff.bench.prompts import Prompts
from takeoff.bench.target import Target
from takeoff.service.engines import Commands

HERE = Path(__file__).parent
READER = {"model_name": "smollm2", "device": "cpu", "consumer_group": "primary", "optimize": False}
READER |= {"max_slots": 16, "context": 4096, "prefix_cache_mb": 16, "standby": "off"}
GROUPS, BEGINNING_WORDS, TAIL_WORDS, AT_ONCE, SHORT = 16, 1_600, 12, 8, 4


def stub(step_ms: float) -> Commands:
    return Commands(engine=(sys.executable, str(HERE / "stub_engine.py"), f"{step_ms:g}"), preparer=())


# --- throughput -----------------------------------------------------------------------------------------


def throughput(cluster: Cluster, streams: int, tokens: int) -> dict[str, float]:
    """Of so many streams that begin together, while all of them run."""
    target, door = target_at(cluster.url), cluster.door()
    replica = cluster.replicas()[0]

    async def work() -> list[Trace]:
        await complete(target, Work("A first one.", 4))
        return await asyncio.gather(*(complete(target, Work(f"Stream {n}.", tokens)) for n in range(streams)))

    before = [busy_s(process) for process in (door, replica)]
    traces = asyncio.run(work())
    door_s, replica_s = (busy_s(process) - was for process, was in zip((door, replica), before, strict=True))
    errors = [trace.error for trace in traces if trace.error is not None]
    assert not errors, errors[0]
    begin = max(trace.text_at[0] for trace in traces)
    end = min(trace.text_at[-1] for trace in traces)
    got = sum(begin < at <= end for trace in traces for at in trace.text_at)
    num_tokens = sum(trace.completion_tokens for trace in traces)
    return {
        "tokens_per_s": got / (end - begin),
        "door_ms_per_token": 1e3 * door_s / num_tokens,
        "replica_ms_per_token": 1e3 * replica_s / (num_tokens / len(cluster.replicas())),
    }


def busy_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def scaled(options: argparse.Namespace) -> list[dict[str, float]]:
    rows = []
    with cluster_of(
        {"chat": READER}, {"chat": {"replicas": 1}}, commands=stub(options.step_ms), request_log="off"
    ) as cluster:
        for number in map(int, options.replicas.split(",")):
            cluster.manifest["cluster_config"]["readers"]["chat"] = {"replicas": number, "cpus": 0.01}
            cluster.up()
            row = {"replicas": number} | throughput(cluster, number * options.streams, options.tokens)
            should = number * options.streams / (options.step_ms / 1e3)
            rows.append(row | {"of_linear": row["tokens_per_s"] / should})
            print(rows[-1], file=sys.stderr)
    return rows


# --- affinity -------------------------------------------------------------------------------------------


def prompts(number: int) -> list[str]:
    """Of groups with a beginning in common, in a drawn order."""
    words = Prompts(5)
    beginnings = [words.text(BEGINNING_WORDS) for _ in range(GROUPS)]
    drawn = random.Random(6)
    return [
        f"{beginnings[drawn.randrange(GROUPS)]} {words.text(TAIL_WORDS)} {place}" for place in range(number)
    ]


async def ask_all(target: Target, texts: list[str]) -> list[Trace]:
    room = asyncio.Semaphore(AT_ONCE)

    async def ask(text: str) -> Trace:
        async with room:
            return await complete(target, Work(text, SHORT))

    return await asyncio.gather(*map(ask, texts))


def computed(cluster: Cluster, requests: int) -> dict[str, Any]:
    """Tokens of prompts that each replica's engine has computed."""
    traces = asyncio.run(ask_all(target_at(cluster.url), prompts(requests)))
    errors = [trace.error for trace in traces if trace.error is not None]
    assert not errors, errors[0]
    time.sleep(2.5)  # for the replicas to say it
    page = httpx.get(f"{cluster.url}/metrics").text
    name = "takeoff_replica_prefilled_tokens{"
    each = sorted(int(float(line.split()[-1])) for line in page.splitlines() if line.startswith(name))
    return {
        "prompt_tokens": sum(trace.prompt_tokens for trace in traces),
        "computed": sum(each),
        "each": each,
    }


def routed(options: argparse.Namespace) -> dict[str, Any]:
    router = None if options.affinity == "prefix" else "round_robin:RoundRobin"
    with cluster_of(
        {"chat": READER}, {"chat": {"replicas": 4}}, commands=stub(20), router=router, request_log="off"
    ) as cluster:
        return computed(cluster, options.requests)


def compared(options: argparse.Namespace) -> dict[str, Any]:
    """Each in a process of its own: Ray remembers for ever the first cluster's token."""
    told: dict[str, Any] = {}
    for way in ("prefix", "turn"):
        command = [sys.executable, __file__, "--affinity", way, "--requests", str(options.requests)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=600)
        told[way] = json.loads(done.stdout)
    told["ratio"] = told["turn"]["computed"] / told["prefix"]["computed"]
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicas", default="1,2,4,8,16")
    parser.add_argument("--step-ms", type=float, default=200.0)
    parser.add_argument("--streams", type=int, default=4, help="for each replica")
    parser.add_argument("--tokens", type=int, default=60, help="of each stream")
    parser.add_argument("--affinity", choices=("prefix", "turn", "both"), help="how these are routed")
    parser.add_argument("--requests", type=int, default=160)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = str(HERE)  # where Ray's workers find the other router
    told: Any
    if options.affinity in ("prefix", "turn"):
        told = routed(options)
        print(json.dumps(told))
    elif options.affinity:
        told = compared(options)
        print(json.dumps(told, indent=1))
        print(f"in turn {told['ratio']:.2f} times as many tokens of prompts are computed as by prefix")
    else:
        told = scaled(options)
        print("| replicas | tokens/s | of linear | door, ms a token | replica, ms a token |")
        print("|--:|--:|--:|--:|--:|")
        for row in told:
            print(
                f"| {row['replicas']} | {row['tokens_per_s']:.1f} | {row['of_linear']:.3f} | "
                f"{row['door_ms_per_token']:.2f} | {row['replica_ms_per_token']:.2f} |"
            )
    if options.json is not None:
        options.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
