"""The rows of the table of goals: what is measured on which servers, and what its ratio is to be."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OTHERS = "vllm+openvino"  # what is not made of llama.cpp runs beside each other


@dataclass(frozen=True, slots=True)
class Reading:
    """A figure of a scenario on a server."""

    server: str
    scenario: str
    figure: str

    def values(self, result: dict[str, Any]) -> list[float]:
        """One for each round of a run; none where the run was of other work."""
        rounds = result["scenarios"].get(self.scenario, {}).get("rounds", {})
        return list(rounds.get(self.figure, {}).get(self.server, ()))


@dataclass(frozen=True, slots=True)
class Goal:
    """Ours by the peer's in the same round, and what the median of that is to be."""

    ours: Reading
    peer: Reading
    bound: float
    at_least: bool = True

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:.3g} x"

    def is_met(self, ratio: float) -> bool:
        return ratio >= self.bound if self.at_least else ratio <= self.bound

    def pairs(self, results: Sequence[dict[str, Any]]) -> Iterator[tuple[float, float]]:
        """(ours, the peer's) of each round in which both gave a figure."""
        for result in results:
            ours, peer = self.ours.values(result), self.peer.values(result)
            if len(ours) == len(peer):
                yield from zip(ours, peer, strict=True)


@dataclass(frozen=True, slots=True)
class Row:
    """`servers` names the set that runs side by side; `flags` are of `takeoff bench`."""

    work: str
    servers: str
    goal: Goal
    flags: tuple[str, ...] = ()

    @property
    def scenarios(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.goal.ours.scenario, self.goal.peer.scenario)))

    def markdown(self, pairs: Sequence[tuple[float, float]], shown: Callable[[float], str]) -> str:
        ratios = [ours / peer if peer else math.inf for ours, peer in pairs]
        ratio = statistics.median(ratios)
        ours, peer = (statistics.median(values) for values in zip(*pairs, strict=True))
        span = shown(ratio)
        if len(ratios) > 1:
            span += f" ({shown(min(ratios))} to {shown(max(ratios))}; {len(ratios)})"
        verdict = "met" if self.goal.is_met(ratio) else "**missed**"
        return f"| {self.work} | {shown(ours)} | {shown(peer)} | {span} | {self.goal} | {verdict} |"


def _against(
    peer: str, work: str, scenario: str, bound: float, *, figure: str = "rate", at_least: bool = True
) -> Row:
    """The same figure on ours and on a peer."""
    ours, theirs = Reading("takeoff", scenario, figure), Reading(peer, scenario, figure)
    servers = OTHERS if peer in OTHERS.split("+") else peer
    return Row(f"{work}, against {peer}", servers, Goal(ours, theirs, bound, at_least))


def _throughput(servers: str, name: str, work: str, scenario: str, peer: str, bound: float) -> Row:
    ours, theirs = Reading(name, scenario, "rate"), Reading(peer, scenario, "rate")
    return Row(work, servers, Goal(ours, theirs, bound))


def _promise(peer: str) -> Row:
    work = "Poisson arrivals: highest requests/s with TTFT p95 ≤ 1 s and ITL p99 ≤ 100 ms"
    return Row(
        f"{work}, against {peer}",
        peer,
        _against(peer, work, "goodput", 2.0, figure="max_rate").goal,
        ("--duration", "10"),
    )


_SHARED = "16 requests at once that share 800 tokens, cold: median TTFT, s"
_BESIDE = "8 streams beside four prompts of 900 tokens"

ROWS: Mapping[str, Row] = {
    "one": _against("llama-server", "1 stream: tokens/s", "one", 1.0),
    "eight": _against("llama-server", "8 streams: tokens/s", "eight", 1.05),
    "thirty-two": _against("llama-server", "32 streams: tokens/s", "thirty-two", 1.1),
    "vllm-one": _against("vllm", "1 stream: tokens/s", "one", 1.0),
    "vllm-eight": _against("vllm", "8 streams: tokens/s", "eight", 1.0),
    "vllm": _against("vllm", "32 streams: tokens/s", "thirty-two", 1.0),
    "openvino-one": _against("openvino", "1 stream: tokens/s", "one", 1.0),
    "openvino-eight": _against("openvino", "8 streams: tokens/s", "eight", 1.0),
    "openvino": _against("openvino", "32 streams: tokens/s", "thirty-two", 1.0),
    "llama-cpp-python-one": _against("llama-cpp-python", "1 stream: tokens/s", "one", 1.0),
    "llama-cpp-python-eight": _against("llama-cpp-python", "8 streams: tokens/s", "eight", 1.05),
    "newcomer": _throughput(
        "newcomer", "takeoff", "32 streams, ours optimised, llama-server with the shipped file: tokens/s",
        "thirty-two", "llama-server", 2.0,
    ),
    "newcomer-same-file": _throughput(
        "newcomer", "takeoff", "32 streams, both with the optimised file: tokens/s",
        "thirty-two", "llama-server, optimised file", 1.1,
    ),
    "shared-prefix": _against(
        "llama-server", _SHARED, "shared-prefix", 0.1, figure="ttft_p50", at_least=False
    ),
    "vllm-shared-prefix": _against("vllm", _SHARED, "shared-prefix", 0.5, figure="ttft_p50", at_least=False),
    "gaps": Row(
        f"{_BESIDE}: their p99 gap by their undisturbed median, s",
        "llama-server",
        Goal(
            Reading("takeoff", "prompts-between", "gap_p99"),
            Reading("takeoff", "prompts-between", "gap_alone"),
            4.0,
            at_least=False,
        ),
    ),
    "gaps-rate": _against("llama-server", f"{_BESIDE}: tokens/s of all", "prompts-between", 1.0),
    "goodput": _promise("llama-server"),
    "leavers": _against(
        "llama-server", "16 clients leave, then a small request: s", "clients-leave", 1.0,
        figure="after", at_least=False,
    ),
    "repeat": _throughput(
        "no speculation", "takeoff", "1 stream that repeats its input: tokens/s, with speculation",
        "repeat-input", "no speculation", 1.5,
    ),
    "prose": _throughput(
        "no speculation", "takeoff", "1 stream of prose: tokens/s, with speculation",
        "one", "no speculation", 0.98,
    ),
    "bandwidth": Row(
        "1 stream: weights read, GB/s, against a test that only reads, with as many threads",
        "bandwidth",
        Goal(Reading("takeoff", "one", "read"), Reading("read test", "one", "read"), 0.85),
    ),
    "deterministic-eight": _throughput(
        "deterministic", "deterministic", "8 streams: tokens/s, with --deterministic and without",
        "eight", "takeoff", 0.8,
    ),
    "deterministic": _throughput(
        "deterministic", "deterministic", "32 streams: tokens/s, with --deterministic and without",
        "thirty-two", "takeoff", 0.8,
    ),
    "promises-one": _throughput(
        "no promises", "takeoff", "1 stream: tokens/s, with keys, limits, sandbox, journal, log; without",
        "one", "no promises", 0.97,
    ),
    "promises": _throughput(
        "no promises", "takeoff", "32 streams: tokens/s, with keys, limits, sandbox, journal, log; without",
        "thirty-two", "no promises", 0.97,
    ),
    "growth": Row(
        "64 clients and 32 at 32 slots: tokens/s",
        "takeoff",
        Goal(Reading("takeoff", "streams-64", "rate"), Reading("takeoff", "thirty-two", "rate"), 1.0),
        ("--streams", "32", "--streams", "64"),
    ),
    "restart": Row(
        "a prompt of 800 tokens after a restart and cold: TTFT, s",
        "restart",
        Goal(Reading("restarted", "again", "ttft"), Reading("cold", "again", "ttft"), 0.1, at_least=False),
    ),
}  # fmt: skip
