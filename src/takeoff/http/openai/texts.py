"""What the routes of the OpenAI API have in common that send texts to an encoder."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, StrictStr
from starlette.requests import Request as HttpRequest

from takeoff.http.answers import unless_client_leaves
from takeoff.http.bodies import Texts
from takeoff.http.openai.fields import OpenAIBody, told_as
from takeoff.http.openai.sampling import MAX_MODEL_CHARACTERS
from takeoff.http.ports import Service
from takeoff.http.texts import check_texts
from takeoff.request import EncodeRequest, Encoding
from takeoff.settings import Settings
from takeoff.settings.values import DEFAULT_GROUP


def _no_token_ids(value: Any) -> Any:
    """Refuse token ids: clients make them with the vocabularies of OpenAI's models, not with this one's."""
    if isinstance(value, list) and value and isinstance(value[0], int | list):
        raise ValueError("token ids are not taken, they may be of another model's vocabulary; send texts")
    return value


TextInput = Annotated[StrictStr | Texts, BeforeValidator(_no_token_ids)]


class TextsBody(OpenAIBody):
    """The fields that all have."""

    texts_field: ClassVar[str]  # where a client puts the texts

    model: StrictStr | None = Field(
        None,
        max_length=MAX_MODEL_CHARACTERS,
        description="A model, a reader or a group; default: the group `primary`",
    )
    user: str | None = Field(None, max_length=1_024, description="Who asks")

    @property
    def group(self) -> str:
        return self.model or DEFAULT_GROUP

    async def encode(
        self, http_request: HttpRequest, service: Service, settings: Settings, request: EncodeRequest
    ) -> Encoding:
        """What an encoder makes of the texts of `request`, which the client put into `texts_field`.

        Raises:
            RequestValidationError, PayloadTooLarge: too many texts, or too long ones.
            InvalidRequest, NotFound: they can't be encoded, or there is no such model; `param` is a field.
        """
        check_texts(request.texts, settings, self.texts_field)
        with self.in_its_names():
            return await unless_client_leaves(http_request, lambda: service.encode(request))

    def in_its_names(self) -> AbstractContextManager[None]:
        """A refusal from here on names fields of this body."""
        return told_as({"group": "model", "text": self.texts_field, None: self.texts_field})
