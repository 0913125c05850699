"""/v1/models: what `model` may be."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from takeoff.errors import NotFound
from takeoff.http.ports import Reader, Service
from takeoff.settings.values import DEFAULT_GROUP


def reader_of(model: str | None, service: Service) -> Reader:
    """Who knows the vocabulary of `model`: of a group's or a model's readers a live one, if any is.

    Raises:
        NotFound: nothing has that name.
    """
    name = model or DEFAULT_GROUP
    readers = service.readers()
    named = (
        [reader for reader in readers if reader.group == name]
        or [reader for reader in readers if reader.reader_id == name]
        or [reader for reader in readers if reader.model_name == name]
    )
    if not named:
        raise NotFound(f"there is no model {name!r}, only {', '.join(service.models())}", param="model")
    return next((reader for reader in named if reader.state == "live"), named[0])


def models_router(service: Service) -> APIRouter:
    """The two routes, over `service`."""
    router = APIRouter(prefix="/v1", tags=["OpenAI"])
    created = int(time.time())

    def told(name: str) -> dict[str, Any]:
        readers = [each for each in service.readers() if name in (each.group, each.model_name)]
        quantisations = (each.quantisation for each in readers if each.quantisation is not None)
        states = [each.state for each in readers]
        facts = {"id": name, "object": "model", "created": created, "owned_by": "takeoff"}
        state = "live" if "live" in states else next(iter(states), None)
        return {**facts, "quantization": next(quantisations, None), "state": state}

    @router.get("/models")
    async def models() -> Response:
        """What `model` may be."""
        return JSONResponse({"object": "list", "data": [told(name) for name in service.models()]})

    @router.get("/models/{name:path}")
    async def model(name: str) -> Response:
        """One of them."""
        if name not in service.models():
            raise NotFound(f"there is no model {name!r}, only {', '.join(service.models())}", param="model")
        return JSONResponse(told(name))

    return router
