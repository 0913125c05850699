"""From images to what stands for them in a sequence: their vectors, and ids that name these.

The ids are negative, so that no token has them, and made of the image's hash: sequences with the same
image share it as they share text, in snapshots and with those that run.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from takeoff.engine.llama.rows import ImageTokens, Piece, Projector
from takeoff.ipc.messages import Image, PlacedImage

CACHE_BYTES = 64 << 20  # of the vectors of images that were read last
_ID_BITS = 0x7FFFFFFF


@dataclass(frozen=True, slots=True)
class ImageSpan:
    """Where a part of an image stands in a sequence."""

    start: int
    tokens: ImageTokens

    @property
    def end(self) -> int:
        return self.start + len(self.tokens.vectors)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt with its images in it."""

    token_ids: list[int]  # negative where an image stands
    spans: tuple[ImageSpan, ...] = ()


class ImageReader:
    """Puts images into prompts; keeps what was computed of the last ones, by tenant. One thread calls it."""

    def __init__(self, projector: Projector, *, cache_bytes: int = CACHE_BYTES) -> None:
        self._projector = projector
        self._cache_bytes = cache_bytes
        self._read: OrderedDict[tuple[str, bytes], list[Piece]] = OrderedDict()

    def place(self, token_ids: Sequence[int], images: Sequence[PlacedImage], tenant: str = "") -> Prompt:
        """The prompt of `token_ids` with each image before the token that it names.

        Raises:
            InvalidRequest, EngineFailed: see `Projector.read`.
        """
        ids: list[int] = []
        spans: list[ImageSpan] = []
        done = 0
        for placed in images:
            ids += token_ids[done : placed.place]
            done = placed.place
            for number, piece in enumerate(self._pieces(placed.image, tenant)):
                if isinstance(piece, ImageTokens):
                    spans.append(ImageSpan(len(ids), piece))
                    ids += _ids(placed.image.digest, number, len(piece.vectors))
                else:
                    ids += piece
        return Prompt([*ids, *token_ids[done:]], tuple(spans))

    def _pieces(self, image: Image, tenant: str) -> list[Piece]:
        pieces = self._read.pop((tenant, image.digest), None) or self._projector.read(image)
        self._read[tenant, image.digest] = pieces
        while sum(map(_bytes, self._read.values())) > self._cache_bytes and len(self._read) > 1:
            self._read.popitem(last=False)
        return pieces


def _bytes(pieces: list[Piece]) -> int:
    return sum(piece.vectors.nbytes for piece in pieces if isinstance(piece, ImageTokens))


def _ids(digest: bytes, number: int, count: int) -> list[int]:
    """`count` negative ids of 31 bits, all of which another image has with no probability worth a name."""
    stream = hashlib.shake_256(digest + number.to_bytes(4, "little")).digest(4 * count)
    bits = np.frombuffer(stream, np.uint32) & _ID_BITS
    ids: list[int] = (-1 - bits.astype(np.int64)).tolist()
    return ids
