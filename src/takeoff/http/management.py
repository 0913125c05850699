"""The management API: readers are listed, added, replaced and removed while others serve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from takeoff.errors import InvalidBody, InvalidRequest
from takeoff.http.bodies import parse_json
from takeoff.http.ports import Reader, Service
from takeoff.http.request_log import who
from takeoff.http.status import management_status, reader_facts, readers_by_group
from takeoff.http.visiting import current_visit
from takeoff.observe.lines import Tell
from takeoff.settings import ReaderSettings, Settings, load_reader_settings


def management_router(
    service: Service, settings: Settings, ports: Mapping[str, int], audit: Tell | None
) -> APIRouter:
    """The routes, over `service`; `audit` is told what they change."""
    router = APIRouter(tags=["Management"])

    def tell(event: str, reader: Reader) -> None:
        if audit is not None:
            told = {"id": reader.reader_id, "model": reader.settings.public_model, "group": reader.group}
            audit({"event": event, "by": who(current_visit.get().account), "reader": told})

    async def reader_body(http_request: HttpRequest) -> dict[str, Any]:
        body = await parse_json(http_request)
        if not isinstance(body, dict):
            raise InvalidBody("the body must be a JSON object with the reader's settings")
        return body

    def reader_settings(body: dict[str, Any]) -> ReaderSettings:
        try:
            return load_reader_settings(body, settings)
        except InvalidRequest as exc:
            raise InvalidBody(exc.message, param=exc.param, hint=exc.hint) from exc

    def told(reader: Reader) -> dict[str, Any]:
        return {**reader.settings.model_dump(mode="json"), **reader_facts(reader)}

    @router.get("/reader_groups")
    async def reader_groups() -> Response:
        """Every group with its readers."""
        return JSONResponse(readers_by_group(service.readers()))

    @router.post("/reader")
    async def create_reader(http_request: HttpRequest) -> Response:
        """Begin to load a model; answered when its memory is planned, with the id that it will have."""
        reader = await service.add_reader(reader_settings(await reader_body(http_request)))
        tell("reader_added", reader)
        return JSONResponse(told(reader), 201)

    @router.put("/reader/{reader_id}")
    async def replace_reader(reader_id: str, http_request: HttpRequest) -> Response:
        """Load a model in a reader's place; answered when it serves. No request fails meanwhile."""
        body = await reader_body(http_request)
        groups = [reader.group for reader in service.readers() if reader.reader_id == reader_id]
        if groups and not body.get("consumer_group"):
            body["consumer_group"] = groups[0]
        reader = await service.replace_reader(reader_id, reader_settings(body))
        tell("reader_replaced", reader)
        return JSONResponse(told(reader))

    @router.delete("/reader/{reader_id}", status_code=204)
    async def delete_reader(reader_id: str) -> Response:
        """Take a reader out of its group, let it finish what it has, and end it."""
        readers = [reader for reader in service.readers() if reader.reader_id == reader_id]
        await service.remove_reader(reader_id)
        for reader in readers:
            tell("reader_removed", reader)
        return Response(status_code=204)

    @router.get("/config/{reader_id}")
    async def reader_config(reader_id: str) -> Response:
        """What the file of a reader's model says of the model."""
        return JSONResponse(service.model_config(reader_id))

    @router.get("/status")
    async def status() -> Response:
        """What the server was told, and how its readers are."""
        return JSONResponse(management_status(service, settings, ports))

    return router
