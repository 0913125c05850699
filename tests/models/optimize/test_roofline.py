"""What limits a machine, in words that can be true."""

from __future__ import annotations

from takeoff.models.optimize.roofline import Roof, Share, limit

ROOF = Roof(bytes_s=30e9, flops_s=350e9)


def of(streams: int, *, reading: float, computing: float) -> Share:
    return Share(streams, reading * ROOF.bytes_s, computing * ROOF.flops_s, reading, computing)


def test_the_nearer_roof_limits_and_both_shares_are_told() -> None:
    text = limit([of(1, reading=0.9, computing=0.2), of(32, reading=0.3, computing=0.7)], ROOF)
    assert text == (
        "One stream reads 27.0 GB/s, 90% of the 30.0 that these threads can read, and computes 70 GFLOP/s, "
        "20% of the 350 that they reach in large products: bandwidth limits it. "
        "32 streams read 9.0 GB/s, 30% of the 30.0 that these threads can read, and compute 245 GFLOP/s, "
        "70% of the 350 that they reach in large products: compute limits them."
    )


def test_far_from_both_roofs_neither_is_blamed() -> None:
    assert "neither roof is near" in limit([of(8, reading=0.5, computing=0.55)], ROOF)
