"""What the processes say to each other: one type per message, msgpack on the wire.

    service  --> engine      Load, TakeOver, Submit, Cancel
    engine   --> service     Progress, StandsBy, Loaded, LoadFailed, ImagesRead, Step, Heartbeat
    service  --> encoder     LoadEncoder, Encode, Cancel
    encoder  --> service     EncoderLoaded, LoadFailed, Encoded, EncodeFailed, Heartbeat
    replicas --> service     as an engine or an encoder; and Placed, Lost
    service  --> preparer    LoadVocabulary, then questions
    preparer --> service     VocabularyLoaded, LoadFailed, then an answer or PrepareFailed to each

A closed socket is the order to stop: a child whose parent is gone must not live on.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from takeoff.call_formats import CallFormat
from takeoff.request import DEFAULT_PRIORITY, Constraint, Conversation, SamplingParams, Task, Text, TokenEvent
from takeoff.sandbox.confine import NOTHING, InForce
from takeoff.thoughts import ThoughtStart


class Message(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Base of all messages; the tag on the wire is the class name."""


# --- service -> engine -------------------------------------------------------------------------


class Lora(msgspec.Struct, frozen=True, array_like=True):
    """An adapter that requests may name; its file was checked against the model's."""

    name: str
    path: str
    scale: float = 1.0  # of its effect: 1 as it was trained


class SlotClass(msgspec.Struct, frozen=True, array_like=True):
    """Slots of one size: a context of llama.cpp."""

    n_slots: int
    n_ctx: int  # tokens that each of them holds


class Load(Message, frozen=True):
    """The first message to an engine. Everything in it was decided by the memory plan."""

    model_path: str
    n_slots: int  # of all classes
    n_ctx_slot: int  # tokens one sequence can hold, in the longest slots
    n_batch: int
    n_ubatch: int
    n_threads: int
    n_threads_prefill: int
    n_gpu_layers: int
    flash_attention: bool
    deterministic: bool
    cache_bytes: int  # budget of the prefix cache's snapshots in RAM
    itl_slo_ms: float | None  # longest gap a prefill may cause; None: a multiple of the decode step
    turns_fd: int | None = None  # file of the lock under which engines that share cores take turns
    beacon_fd: int | None = None  # file of its beacon; None: nobody watches
    arena_fd: int | None = None  # file of the prefix cache, which outlives the engine; None: it has none
    loras: list[Lora] = []  # names differ
    projector_path: str | None = None  # makes tokens of images; None: the model reads no images
    disk_cache_bytes: int = 0  # budget of the snapshots on disk
    disk_cache_folder: str | None = None  # where they lie; None: there are none
    slot_classes: list[SlotClass] = []  # together `n_slots`, the shortest first; empty: all are alike
    parking_bytes: int = 0  # for sequences that have outgrown their slot and wait for a longer one
    kv_type: str = "f16"  # of settings.fields.KvType
    speculation: bool = False  # compute drafts of what comes next where that pays
    n_outputs: int = 0  # tokens whose logits one call may want, at least one of each slot
    has_standby: bool = False  # whether another engine stands by, to take over
    stands_by: bool = False  # whether this one does: it makes ready, and waits for TakeOver
    is_checked: bool = False  # whether an engine of these weights has kept to `deterministic` before

    @property
    def classes(self) -> tuple[SlotClass, ...]:
        """The slots by their size, the shortest first."""
        return tuple(self.slot_classes) or (SlotClass(self.n_slots, self.n_ctx_slot),)

    @property
    def num_outputs(self) -> int:
        return max(self.n_outputs, self.n_slots)


class Image(msgspec.Struct, frozen=True, array_like=True, weakref=True):
    """A decoded image. `digest` names it wherever what was computed of it is found again."""

    digest: bytes  # SHA-256 of the file it came in
    width: int  # pixels
    height: int
    rgb: bytes  # [height, width, 3] uint8


class PlacedImage(msgspec.Struct, frozen=True, array_like=True):
    image: Image
    place: int  # index of the prompt's token id before which it stands


class Submit(Message, frozen=True):
    """A request with its prompt as token ids. `emitted` is what an earlier engine already sent."""

    request_id: int
    prompt_token_ids: list[int]
    sampling: SamplingParams  # seed is set
    tenant: str
    emitted_token_ids: list[int] = []
    grammar: str | None = None  # that the completion matches; from ConstraintTried
    lora: str | None = None  # name of an adapter of `Load.loras`; None: the model as it is
    images: list[PlacedImage] = []  # in order of their places
    thought: ThoughtStart | None = None  # that the completion may begin with
    predicted_token_ids: list[int] = []  # what the completion may be
    priority: int = DEFAULT_PRIORITY  # the weight of its tenant's share


class Cancel(Message, frozen=True):
    request_id: int


class TakeOver(Message, frozen=True):
    """To an engine that stands by: the other one is gone."""


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
    sandbox: InForce = NOTHING  # of the process


class StandsBy(Message, frozen=True):
    """The weights are mapped and the vocabulary is read; memory for sequences there is none yet."""


class LoadFailed(Message, frozen=True):
    error: str


class ImagesRead(Message, frozen=True):
    """The images of a request are tokens now, and it waits for a slot; or why it can't."""

    request_id: int
    num_tokens: int  # of the images
    error: str | None = None  # the request's own fault


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


class Placed(Message, frozen=True):
    """Of several engines this one has a request now."""

    request_id: int
    replica_id: str


class Lost(Message, frozen=True):
    """Of several engines the one is gone that had these requests; the others would take them."""

    request_ids: list[int]


# --- service <-> encoder -------------------------------------------------------------------------


class LoadEncoder(Message, frozen=True):
    """The first message to an encoder: a model that embeds or classifies."""

    model_path: str  # a folder of the HF layout, or a GGUF file
    task: Task
    n_threads: int
    max_batch_size: int  # texts computed together
    batch_duration_s: float  # a text waits this long for others at most
    max_tokens: int | None  # of one text; None: what the model takes. A longer one is refused
    turns_fd: int | None = None
    beacon_fd: int | None = None


class EncoderLoaded(Message, frozen=True):
    pid: int
    num_dimensions: int  # of a vector, or classes
    max_tokens: int
    labels: tuple[str, ...]  # of the classes
    load_s: float
    sandbox: InForce = NOTHING  # of the process


class Encode(Message, frozen=True):
    request_id: int
    texts: list[Text]


class Encoded(Message, frozen=True):
    request_id: int
    vectors: bytes  # float32 in this machine's order, [num texts, num_dimensions]
    num_tokens: int
    replica_id: str = ""  # of the reader, where it has several engines


class EncodeFailed(Message, frozen=True):
    request_id: int
    error: str
    code: Literal["invalid_request", "context_length_exceeded", "engine_failed"]


class EncoderTokenize(Message, frozen=True):
    """Show how a text is cut into tokens."""

    request_id: int
    text: str
    skip_special_tokens: bool


class EncoderTokenized(Message, frozen=True):
    request_id: int
    token_ids: list[int]
    tokens: list[str]


class EncoderDetokenize(Message, frozen=True):
    request_id: int
    tokens: list[int | str]
    skip_special_tokens: bool


class EncoderDetokenized(Message, frozen=True):
    request_id: int
    text: str


# --- service <-> preparer ----------------------------------------------------------------------


class LoadVocabulary(Message, frozen=True):
    model_path: str
    tries_constraints: bool = False  # then the vocabulary is made ready for them, which takes a second


class VocabularyLoaded(Message, frozen=True):
    pid: int
    n_vocab: int
    has_chat_template: bool
    call_format: CallFormat = CallFormat.JSON  # of tools, as the template writes it


class Prepare(Message, frozen=True):
    """Turn text into token ids."""

    ask_id: int
    text: str
    chat_template: Literal["auto", "on", "off"]  # auto: wrap where the model has a template, the text none
    max_tokens: int  # a longer prompt is refused, with its length in the error
    keep_tokens: int | None = None  # a longer prompt loses the beginning of its text first
    images: list[bytes] = []  # files as they were sent


class PrepareChat(Message, frozen=True):
    """Turn a conversation into token ids, by the model's chat template."""

    ask_id: int
    conversation: Conversation
    max_tokens: int  # a longer prompt is refused, with its length in the error
    images: list[bytes] = []  # files as they were sent, for the conversation's parts of the type image


class Prepared(Message, frozen=True):
    ask_id: int
    token_ids: list[int]
    images: list[PlacedImage] = []
    thought: ThoughtStart | None = None  # that may follow


class Tokenize(Message, frozen=True):
    """Show how a text is cut into tokens."""

    ask_id: int
    text: str
    chat_template: Literal["auto", "on", "off"]
    skip_special_tokens: bool
    add_special_tokens: bool = True  # BOS, where the vocabulary wants it; without a chat template only


class Spell(Message, frozen=True):
    """Show how the vocabulary writes tokens."""

    ask_id: int
    token_ids: list[int]


class Tokenized(Message, frozen=True):
    ask_id: int
    token_ids: list[int]
    tokens: list[str]  # as the vocabulary writes them


class Detokenize(Message, frozen=True):
    ask_id: int
    tokens: list[int | str]
    skip_special_tokens: bool


class Detokenized(Message, frozen=True):
    ask_id: int
    text: str


class DescribeVocabulary(Message, frozen=True):
    """Tell what a client needs that writes prompts of its own."""

    ask_id: int


class VocabularyDescribed(Message, frozen=True):
    ask_id: int
    bos_token: str  # as the vocabulary writes it; "": it has none
    eos_token: str
    adds_bos: bool  # before a prompt
    chat_template: str | None


class ChatMessage(msgspec.Struct, frozen=True, array_like=True):
    role: str
    content: str


class RenderChat(Message, frozen=True):
    """Write conversations as the model's chat template does."""

    ask_id: int
    conversations: list[list[ChatMessage]]
    add_generation_prompt: bool


class ChatRendered(Message, frozen=True):
    ask_id: int
    texts: list[str]


class TryConstraint(Message, frozen=True):
    """Make a grammar of a constraint, and see that it can be enforced."""

    ask_id: int
    constraint: Constraint
    thought: ThoughtStart | None = None  # that stands before what it constrains


class ConstraintTried(Message, frozen=True):
    ask_id: int
    grammar: str  # in llguidance's own language


class PrepareFailed(Message, frozen=True):
    """The answer to any question that can't be answered."""

    ask_id: int
    error: str
    code: Literal["invalid_request", "context_length_exceeded", "preparer_failed"]
    hint: str | None = None
    param: str | None = None


ToEngine = Load | TakeOver | Submit | Cancel
FromEngine = Progress | StandsBy | Loaded | LoadFailed | ImagesRead | Step | Heartbeat | Placed | Lost
ToEncoder = LoadEncoder | Encode | EncoderTokenize | EncoderDetokenize | Cancel
FromEncoder = (
    EncoderLoaded | LoadFailed | Encoded | EncodeFailed | EncoderTokenized | EncoderDetokenized | Heartbeat
)
Question = (
    Prepare | PrepareChat | Tokenize | Spell | Detokenize | DescribeVocabulary | RenderChat | TryConstraint
)
Answer = Prepared | Tokenized | Detokenized | VocabularyDescribed | ChatRendered | ConstraintTried
ToPreparer = LoadVocabulary | Question
FromPreparer = VocabularyLoaded | LoadFailed | Answer | PrepareFailed
