"""Images as clients send them, to pixels: a file of a stranger, decoded in a process that can be lost."""

from __future__ import annotations

import hashlib
import io
import warnings

from PIL import Image as Pillow
from PIL import ImageOps

from takeoff.errors import InvalidRequest
from takeoff.ipc.messages import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 50_000_000  # a photograph of the largest cameras of today; 150 MB decoded
MAX_SIDE = 2_048  # pixels that go on: projectors look at less, and what is sent is bounded at 12 MB
_WHITE = (255, 255, 255, 255)


def decode_image(data: bytes) -> Image:
    """The pixels of an image file: upright, on white where it is transparent, no side above MAX_SIDE.

    Raises:
        InvalidRequest: it is no image of FORMATS, damaged, too large, or has several frames.
    """
    try:
        with warnings.catch_warnings(), Pillow.open(io.BytesIO(data), formats=FORMATS) as file:
            warnings.simplefilter("ignore")  # of what a damaged file makes Pillow say
            _check(file)
            picture = _upright(file)
    except Pillow.DecompressionBombError as exc:  # before it has told its size
        raise _refusal(f"the image has more than {MAX_PIXELS} pixels, which is the limit") from exc
    except (InvalidRequest, MemoryError):
        raise
    except Exception as exc:  # of a damaged file Pillow raises whatever comes to it
        raise _refusal(f"the image can't be read: {exc or type(exc).__name__}") from exc
    return Image(hashlib.sha256(data).digest(), picture.width, picture.height, picture.tobytes())


def _check(file: Pillow.Image) -> None:
    """Before anything is decoded: the header has told size and frames."""
    if file.width * file.height > MAX_PIXELS:
        raise _refusal(f"the image has more than {MAX_PIXELS} pixels, which is the limit")
    frames = getattr(file, "n_frames", 1)
    if frames != 1:
        raise _refusal(f"the image has {frames} frames; one is read")


def _upright(file: Pillow.Image) -> Pillow.Image:
    if file.format == "JPEG":
        file.draft("RGB", (MAX_SIDE, MAX_SIDE))  # decodes at a fraction of the size where that is enough
    picture = ImageOps.exif_transpose(file)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Pillow.alpha_composite(Pillow.new("RGBA", picture.size, _WHITE), picture)
    picture = picture.convert("RGB")
    picture.thumbnail((MAX_SIDE, MAX_SIDE), Pillow.Resampling.LANCZOS)
    return picture


def _refusal(message: str) -> InvalidRequest:
    hint = f"send one {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image"
    return InvalidRequest(message, param="image_data", hint=hint)
