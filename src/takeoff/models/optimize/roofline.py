"""What limits a machine: the share of its bandwidth and of its arithmetic that a decode step uses."""

from __future__ import annotations

from dataclasses import dataclass

from takeoff.models.gguf import GgufFile
from takeoff.models.optimize.goal import Measured
from takeoff.models.optimize.pace import DEPTH

SATURATED = 0.6  # of a roof: nearer than that few kernels come


@dataclass(frozen=True, slots=True)
class Roof:
    """What the machine can do with as many threads as the model has."""

    bytes_s: float  # reading memory
    flops_s: float  # multiplying matrices; each multiplication and each addition counts


@dataclass(frozen=True, slots=True)
class Share:
    """Of a step of so many streams."""

    streams: int
    bytes_s: float
    flops_s: float
    of_bandwidth: float
    of_compute: float


def share(model: GgufFile, measured: Measured, streams: int, kv_token_bytes: float, roof: Roof) -> Share:
    """A step reads all weights and every stream's cache, and takes two operations a weight and stream."""
    seconds = measured.step_s[streams]
    read = model.tensor_bytes + streams * DEPTH * kv_token_bytes
    flops = 2.0 * model.n_params * streams
    return Share(
        streams,
        read / seconds,
        flops / seconds,
        read / seconds / roof.bytes_s,
        flops / seconds / roof.flops_s,
    )


def limit(shares: list[Share], roof: Roof) -> str:
    """In words, what limits one stream, and what many."""
    return " ".join(_sentence(each, roof) for each in shares)


def _sentence(each: Share, roof: Roof) -> str:
    who = "One stream" if each.streams == 1 else f"{each.streams} streams"
    verb, does = ("reads", "computes") if each.streams == 1 else ("read", "compute")
    reading = f"{each.bytes_s / 1e9:.1f} GB/s, {each.of_bandwidth:.0%} of the {roof.bytes_s / 1e9:.1f}"
    computing = f"{each.flops_s / 1e9:.0f} GFLOP/s, {each.of_compute:.0%} of the {roof.flops_s / 1e9:.0f}"
    figures = (
        f"{who} {verb} {reading} that these threads can read, and {does} {computing} "
        "that they reach in large products"
    )
    if max(each.of_bandwidth, each.of_compute) < SATURATED:
        return f"{figures}: neither roof is near, the work is in unpacking weights, small calls and waiting."
    what = "bandwidth" if each.of_bandwidth >= each.of_compute else "compute"
    return f"{figures}: {what} limits it." if each.streams == 1 else f"{figures}: {what} limits them."
