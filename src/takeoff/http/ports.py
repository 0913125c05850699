"""What the doors need of the service: the one seam that fakes replace in their tests."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol, Self

from takeoff.call_formats import CallFormat
from takeoff.request import Conversation, EncodeRequest, Encoding, FinishReason, Request, TokenEvent
from takeoff.settings import ReaderSettings
from takeoff.thoughts import ThoughtStart


class Generation(Protocol):
    """A submitted request; leaving the `with` cancels it if it has not ended."""

    @property
    def reader_id(self) -> str: ...
    @property
    def replica_ids(self) -> Sequence[str]: ...  # of the reader that have computed it
    @property
    def began_at(self) -> float: ...  # monotonic seconds
    @property
    def queue_s(self) -> float: ...  # that it waited for a slot
    @property
    def first_token_at(self) -> float | None: ...
    @property
    def ended_at(self) -> float | None: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def cached_tokens(self) -> int: ...
    @property
    def completion_tokens(self) -> int: ...
    @property
    def reasoning_tokens(self) -> int: ...  # of the completion's, those of its thought
    @property
    def accepted_prediction_tokens(self) -> int: ...  # computed ahead because the client predicted them
    @property
    def rejected_prediction_tokens(self) -> int: ...  # predicted and computed ahead in vain
    @property
    def call_format(self) -> CallFormat: ...
    @property
    def thought(self) -> ThoughtStart | None: ...  # that the text may begin with
    @property
    def finish_reason(self) -> FinishReason | None: ...
    def end(self, reason: FinishReason) -> None: ...  # unless it has
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def __aiter__(self) -> Self: ...
    async def __anext__(self) -> TokenEvent: ...


class Metrics(Protocol):
    """Documented at `takeoff.observe.metrics.Metrics`."""

    content_type: str

    def render(self) -> bytes: ...
    def observe_http(self, method: str, path: str, status: int, seconds: float) -> None: ...
    def observe_batch(self, group: str, num_texts: int) -> None: ...
    def observe_tokens(self, path: str, num_tokens: int) -> None: ...


class Tokens(Protocol):
    """A text cut into tokens."""

    @property
    def token_ids(self) -> list[int]: ...
    @property
    def tokens(self) -> list[str]: ...


class Vocabulary(Protocol):
    """What frames a model's prompts, as its vocabulary writes it; "" for a token that it doesn't have."""

    @property
    def bos_token(self) -> str: ...
    @property
    def eos_token(self) -> str: ...
    @property
    def adds_bos(self) -> bool: ...
    @property
    def chat_template(self) -> str | None: ...


class Replica(Protocol):
    """One of several engines of a reader."""

    @property
    def replica_id(self) -> str: ...
    @property
    def node(self) -> str: ...  # address of its machine
    @property
    def num_open(self) -> int: ...  # requests that this server has given it


class Reader(Protocol):
    """A loaded model, or one that loads, or failed to."""

    @property
    def reader_id(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def state(self) -> str: ...  # loading, live, draining, unloading, unloaded, failed, stopped
    @property
    def error(self) -> str | None: ...
    @property
    def progress(self) -> float: ...
    @property
    def pids(self) -> list[int]: ...
    @property
    def replicas(self) -> Sequence[Replica]: ...  # that serve it, where it has several engines
    @property
    def settings(self) -> ReaderSettings: ...
    @property
    def model_name(self) -> str: ...
    @property
    def num_bytes(self) -> int: ...  # of memory that its plan counts with
    @property
    def quantisation(self) -> str | None: ...  # of the weights that it serves; None: not known (yet)
    @property
    def device(self) -> str: ...  # cpu or cuda; before it is launched what was asked for
    @property
    def task(self) -> str: ...  # generate, embed, classify
    @property
    def max_tokens(self) -> int: ...  # of one sequence or text; of a live one


class Service(Protocol):
    """Documented at `takeoff.service.service.Service`."""

    @property
    def metrics(self) -> Metrics: ...
    @property
    def is_ready(self) -> bool: ...
    @property
    def has_started(self) -> bool: ...
    @property
    def status(self) -> str: ...
    @property
    def last_heartbeat_at(self) -> float: ...
    def models(self) -> list[str]: ...
    def readers(self) -> Sequence[Reader]: ...
    def model_config(self, reader_id: str) -> dict[str, Any]: ...
    async def add_reader(self, settings: ReaderSettings) -> Reader: ...
    async def replace_reader(self, reader_id: str, settings: ReaderSettings) -> Reader: ...
    async def remove_reader(self, reader_id: str) -> None: ...
    async def wait_state(self, state: str, timeout_s: float) -> bool: ...
    async def generate(self, request: Request) -> Generation: ...
    async def count_tokens(self, request: Request) -> int: ...
    async def encode(self, request: EncodeRequest) -> Encoding: ...
    async def tokenize(
        self,
        reader_id: str,
        text: str,
        *,
        use_chat_template: bool | None,
        skip_special_tokens: bool,
        add_special_tokens: bool = True,
    ) -> Tokens: ...
    async def tokenize_chat(self, reader_id: str, conversation: Conversation) -> Tokens: ...
    async def detokenize(
        self, reader_id: str, tokens: list[int | str], *, skip_special_tokens: bool
    ) -> str: ...
    async def describe_vocabulary(self, reader_id: str) -> Vocabulary: ...
    async def render_chat(
        self, reader_id: str, conversations: list[list[tuple[str, str]]], *, add_generation_prompt: bool
    ) -> list[str]: ...
