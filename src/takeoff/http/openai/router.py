"""The OpenAI API: all routes of it, for the front door and the door that has nothing else."""

from __future__ import annotations

from fastapi import APIRouter

from takeoff.http.openai.chat import chat_router
from takeoff.http.openai.classify import classify_router
from takeoff.http.openai.completions import completions_router
from takeoff.http.openai.embeddings import embeddings_router
from takeoff.http.openai.models import models_router
from takeoff.http.openai.rerank import rerank_router
from takeoff.http.openai.responses.router import responses_router
from takeoff.http.openai.tokens import token_router
from takeoff.http.ports import Service
from takeoff.settings import Settings


def openai_routers(service: Service, settings: Settings) -> list[APIRouter]:
    """The routers, over `service`."""
    return [
        models_router(service),
        chat_router(service, settings),
        completions_router(service, settings),
        responses_router(service, settings),
        embeddings_router(service, settings),
        classify_router(service, settings),
        rerank_router(service, settings),
        token_router(service, settings),
    ]
