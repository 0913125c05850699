"""What a call to the kernels computes: its rows, and how much work they are."""

from __future__ import annotations

from takeoff.engine.call_cost import Work
from takeoff.engine.llama.rows import Rows
from takeoff.engine.scheduler import Slice
from takeoff.engine.sequence import Sequence
from takeoff.errors import EngineFailed


def decode_work(decoding: list[Sequence], num_tokens: int = 1) -> Work:
    """What it takes to decode so many tokens of each."""
    num_calls = len({(seq.slot_class, seq.lora) for seq in decoding})
    return Work.of(((seq.num_computed_tokens, num_tokens) for seq in decoding), num_calls)


def prefill_work(slices: list[Slice]) -> Work:
    """What it takes to compute slices together: a pass for each length."""
    num_passes = len({piece.size for piece in slices})
    return Work.of(((piece.seq.num_computed_tokens, piece.size) for piece in slices), num_passes)


def rows_of(piece: Slice) -> Rows:
    """The next tokens of a sequence, in its slot."""
    seq = piece.seq
    if seq.slot is None:
        raise EngineFailed(f"request {seq.request_id} was planned without a slot")
    start = seq.num_computed_tokens
    token_ids = seq.token_ids[start : start + piece.size]
    return Rows(seq.slot, start, token_ids, piece.completes_prompt, piece.image, piece.wants_all)
