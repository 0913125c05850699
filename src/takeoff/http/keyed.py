"""The service as the key of a request may use it: its models alone, in its own name, on its account.

Every door that serves models has this in the place of the service, so no route can forget it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from takeoff.errors import NotFound
from takeoff.http.notes import current_note
from takeoff.http.ports import Generation, Metrics, Reader, Service, Tokens, Vocabulary
from takeoff.http.resuming import refuse_resume
from takeoff.http.visiting import current_visit
from takeoff.keys.account import Account, Visit
from takeoff.request import Conversation, EncodeRequest, Encoding, Request
from takeoff.settings import ReaderSettings


class KeyedService:
    """See `takeoff.http.ports.Service`; only inside a request."""

    def __init__(self, service: Service) -> None:
        self._service = service

    @property
    def metrics(self) -> Metrics:
        return self._service.metrics

    @property
    def is_ready(self) -> bool:
        return self._service.is_ready

    @property
    def has_started(self) -> bool:
        return self._service.has_started

    @property
    def status(self) -> str:
        """The word alone for strangers: the reason behind it may name files."""
        status = self._service.status
        return status.partition(":")[0] if _account().is_stranger else status

    @property
    def last_heartbeat_at(self) -> float:
        return self._service.last_heartbeat_at

    def models(self) -> list[str]:
        return [name for name in self._service.models() if self._is_allowed(name)]

    def readers(self) -> Sequence[Reader]:
        """Those that the key may use; strangers are told of none."""
        if _account().is_stranger:
            return []
        return [reader for reader in self._service.readers() if _may_use(reader)]

    def model_config(self, reader_id: str) -> dict[str, Any]:
        return self._service.model_config(reader_id)

    async def add_reader(self, settings: ReaderSettings) -> Reader:
        return await self._service.add_reader(settings)

    async def replace_reader(self, reader_id: str, settings: ReaderSettings) -> Reader:
        return await self._service.replace_reader(reader_id, settings)

    async def remove_reader(self, reader_id: str) -> None:
        await self._service.remove_reader(reader_id)

    async def wait_state(self, state: str, timeout_s: float) -> bool:
        return await self._service.wait_state(state, timeout_s)

    async def generate(self, request: Request) -> Generation:
        """Raises NotFound: the key has no such model. RateLimited, InvalidRequest: see `Visit.work`.

        Cancelled: its client ended it.
        """
        self._check_group(request.group)
        current_note.get().add_prompt(request)
        visit = current_visit.get()
        with visit.work():
            async with visit.until_ended():
                generation = await self._service.generate(_in_name_of(visit, request))
            visit.add(generation)
            return generation

    async def count_tokens(self, request: Request) -> int:
        """Raises as `generate`."""
        refuse_resume("a count")
        self._check_group(request.group)
        current_note.get().add_prompt(request)
        visit = current_visit.get()
        with visit.work():
            async with visit.until_ended():
                return await self._service.count_tokens(_in_name_of(visit, request))

    async def encode(self, request: EncodeRequest) -> Encoding:
        """Raises as `generate`."""
        refuse_resume("an encoding")
        self._check_group(request.group)
        current_note.get().add_prompt(request)
        visit = current_visit.get()
        with visit.work():
            async with visit.until_ended():
                encoding = await self._service.encode(
                    replace(request, tenant=visit.account.tenant, deadline_s=visit.left_s)
                )
            visit.add_tokens(encoding.num_tokens, encoding.reader_id, encoding.replica_id)
            return encoding

    async def tokenize(
        self,
        reader_id: str,
        text: str,
        *,
        use_chat_template: bool | None,
        skip_special_tokens: bool,
        add_special_tokens: bool = True,
    ) -> Tokens:
        self._check_reader(reader_id)
        return await self._service.tokenize(
            reader_id,
            text,
            use_chat_template=use_chat_template,
            skip_special_tokens=skip_special_tokens,
            add_special_tokens=add_special_tokens,
        )

    async def tokenize_chat(self, reader_id: str, conversation: Conversation) -> Tokens:
        self._check_reader(reader_id)
        return await self._service.tokenize_chat(reader_id, conversation)

    async def detokenize(self, reader_id: str, tokens: list[int | str], *, skip_special_tokens: bool) -> str:
        self._check_reader(reader_id)
        return await self._service.detokenize(reader_id, tokens, skip_special_tokens=skip_special_tokens)

    async def describe_vocabulary(self, reader_id: str) -> Vocabulary:
        self._check_reader(reader_id)
        return await self._service.describe_vocabulary(reader_id)

    async def render_chat(
        self, reader_id: str, conversations: list[list[tuple[str, str]]], *, add_generation_prompt: bool
    ) -> list[str]:
        self._check_reader(reader_id)
        return await self._service.render_chat(
            reader_id, conversations, add_generation_prompt=add_generation_prompt
        )

    def _is_allowed(self, name: str) -> bool:
        """Whether every reader that a request for `name` may come to is one of the key's."""
        allowed = _account().models
        if not allowed:
            return True
        readers = self._service.readers()
        named = [each for each in readers if name in (each.group, each.reader_id, each.model_name)]
        return all(map(_may_use, named)) if named else name in allowed

    def _check_group(self, name: str) -> None:
        if not self._is_allowed(name):
            raise NotFound(
                f"there is no model {name!r} for this API key, only {', '.join(self.models()) or 'none'}",
                param="group",
            )

    def _check_reader(self, reader_id: str) -> None:
        """One that is not there is the service's to refuse."""
        readers = [reader for reader in self._service.readers() if reader.reader_id == reader_id]
        if not all(map(_may_use, readers)):
            raise NotFound(f"there is no reader {reader_id!r} for this API key", param="reader_id")


def _account() -> Account:
    return current_visit.get().account


def _in_name_of(visit: Visit, request: Request) -> Request:
    account = visit.account
    return replace(request, tenant=account.tenant, priority=account.priority, deadline_s=visit.left_s)


def _may_use(reader: Reader) -> bool:
    allowed = _account().models
    return not allowed or not allowed.isdisjoint((reader.group, reader.reader_id, reader.model_name))
