"""Image files of strangers: what comes out of good ones, and that bad ones are refused before they cost."""

from __future__ import annotations

import hashlib
import io
import struct
import time
import zlib

import pytest
from PIL import Image as Pillow

from takeoff.errors import InvalidRequest
from takeoff.prepare.images import MAX_SIDE, decode_image

RED, BLUE = (250, 10, 20), (10, 20, 250)


def two_coloured(width: int = 40, height: int = 20) -> Pillow.Image:
    """Red on the left, blue on the right."""
    image = Pillow.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def saved(image: Pillow.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "WEBP"])
def test_pixels_come_out_as_they_went_in(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(two_coloured(), kind, **options)
    image = decode_image(data)
    assert (image.width, image.height) == (40, 20)
    assert image.rgb == two_coloured().tobytes()
    assert image.digest == hashlib.sha256(data).digest()


def test_a_jpeg_comes_out_nearly_so() -> None:
    image = decode_image(saved(two_coloured(64, 64), "JPEG", quality=95))
    first, last = image.rgb[:3], image.rgb[-3:]
    assert all(abs(a - b) < 8 for a, b in zip([*first, *last], [*RED, *BLUE], strict=True))


def test_a_photograph_is_turned_upright() -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6  # taken with the camera on its side
    image = decode_image(saved(two_coloured(64, 32), "JPEG", quality=95, exif=exif))
    assert (image.width, image.height) == (32, 64)
    assert image.rgb[0] > 200  # red is on top now
    assert image.rgb[-1] > 200  # blue below


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(mode: str) -> None:
    picture = Pillow.new("RGBA", (8, 8), (0, 0, 0, 0)).convert(mode)
    options = {"transparency": 0} if mode == "P" else {}
    assert set(decode_image(saved(picture, "PNG", **options)).rgb) == {255}


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "CMYK"])
def test_every_mode_becomes_three_bytes_a_pixel(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    image = decode_image(saved(Pillow.new(mode, (16, 8)), kind))
    assert len(image.rgb) == 16 * 8 * 3


def test_a_large_image_goes_on_smaller() -> None:
    image = decode_image(saved(two_coloured(5000, 1000), "PNG"))
    assert (image.width, image.height) == (MAX_SIDE, 410)
    assert tuple(image.rgb[:3]) == RED


def bomb(width: int, height: int) -> bytes:
    """A PNG that says it is huge and has no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def animation() -> bytes:
    frames = [two_coloured(), two_coloured().rotate(180)]
    return saved(frames[0], "GIF", save_all=True, append_images=frames[1:])


BAD = {
    "the image can't be read": [
        b"",
        b"hello",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7\n",
        saved(two_coloured(), "PNG")[:-30],
        saved(two_coloured(400, 400), "JPEG")[:900],
        saved(two_coloured(), "TIFF"),
        bytes.fromhex("474946383961002c00002c00002c00002c00002c00002c00002c"),  # a GIF that ends in a frame
        saved(two_coloured(), "PPM"),
        bomb(100, 100),
    ],
    "more than 50000000 pixels": [bomb(10_000, 6_000), bomb(20_000, 20_000), bomb(2**31 - 1, 2**31 - 1)],
    "the image has 2 frames; one is read": [animation()],
}


@pytest.mark.parametrize(
    ("message", "data"), [(message, data) for message, each in BAD.items() for data in each]
)
def test_a_bad_file_is_refused_at_once(message: str, data: bytes) -> None:
    started = time.monotonic()
    with pytest.raises(InvalidRequest, match=message) as refusal:
        decode_image(data)
    assert refusal.value.param == "image_data"
    assert time.monotonic() - started < 1
