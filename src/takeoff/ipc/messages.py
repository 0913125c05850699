"""What the processes say to each other: one type per message, msgpack on the wire.

    service  --> engine      Load, Submit, Cancel
    engine   --> service     Progress, Loaded, LoadFailed, Step, Heartbeat
    service  --> preparer    LoadVocabulary, Prepare
    preparer --> service     VocabularyLoaded, LoadFailed, Prepared, PrepareFailed

A closed socket is the order to stop: a child whose parent is gone must not live on.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from takeoff.request import SamplingParams, TokenEvent


class Message(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Base of all messages; the tag on the wire is the class name."""


# --- service -> engine -------------------------------------------------------------------------


class Load(Message, frozen=True):
    """The first message to an engine. Everything in it was decided by the memory plan."""

    model_path: str
    n_slots: int
    n_ctx_slot: int  # tokens one sequence can hold
    n_batch: int
    n_ubatch: int
    n_threads: int
    n_threads_prefill: int
    n_gpu_layers: int
    flash_attention: bool
    deterministic: bool
    cache_bytes: int  # budget of the prefix cache's snapshots
    itl_slo_ms: float | None  # longest gap a prefill may cause; None: a multiple of the decode step


class Submit(Message, frozen=True):
    """A request with its prompt as token ids. `emitted` is what an earlier engine already sent."""

    request_id: int
    prompt_token_ids: list[int]
    sampling: SamplingParams  # seed is set
    tenant: str
    emitted_token_ids: list[int] = []


class Cancel(Message, frozen=True):
    request_id: int


# --- engine -> service -------------------------------------------------------------------------


class Progress(Message, frozen=True):
    share: float  # of loading, 0..1


class Loaded(Message, frozen=True):
    """The engine serves. Byte figures are llama.cpp's own, to hold against the plan."""

    pid: int
    n_ctx_slot: int
    n_slots: int
    n_vocab: int
    can_trim: bool  # False: sliding window or recurrent state, reuse only at exact snapshot points
    load_s: float


class LoadFailed(Message, frozen=True):
    error: str


class Step(Message, frozen=True):
    """The news of one step, all sequences in one frame."""

    events: list[TokenEvent]


class Heartbeat(Message, frozen=True):
    """Sent by a thread of its own, so that a long step is not mistaken for a dead process."""

    steps: int  # decode and prefill calls since start
    step_running_s: float  # how long the present call has been running; 0 when idle
    running: int
    waiting: int
    counters: dict[str, float]  # names of observe.metrics: sums since start


# --- service <-> preparer ----------------------------------------------------------------------


class LoadVocabulary(Message, frozen=True):
    model_path: str


class VocabularyLoaded(Message, frozen=True):
    pid: int
    n_vocab: int
    has_chat_template: bool


class Prepare(Message, frozen=True):
    """Turn text into token ids."""

    prepare_id: int
    text: str
    chat_template: Literal["auto", "on", "off"]  # auto: wrap where the model has a template, the text none
    max_tokens: int  # a longer prompt is refused, with its length in the error


class Prepared(Message, frozen=True):
    prepare_id: int
    token_ids: list[int]


class PrepareFailed(Message, frozen=True):
    prepare_id: int
    error: str
    code: Literal["invalid_request", "context_length_exceeded", "preparer_failed"]
    hint: str | None


ToEngine = Load | Submit | Cancel
FromEngine = Progress | Loaded | LoadFailed | Step | Heartbeat
ToPreparer = LoadVocabulary | Prepare
FromPreparer = VocabularyLoaded | LoadFailed | Prepared | PrepareFailed
