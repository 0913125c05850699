"""Model files, adapters and projectors: heads of real ones, changed, and all that a load makes of them."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf as gguf_files
from bench.fuzzing.gguf_parts import (
    ARRAY,
    FLOAT32,
    STRING,
    UINT32,
    Entry,
    Head,
    Tensor,
    array,
    changed,
    read_head,
    text,
)
from bench.fuzzing.nasty import damaged
from bench.fuzzing.target import Found, Place

from takeoff.errors import StartError
from takeoff.models.gguf import read_gguf
from takeoff.models.lora import read_lora
from takeoff.models.machine import read_machine
from takeoff.models.projector import read_projector
from takeoff.models.stored import in_place
from takeoff.service.planning import plan_reader
from takeoff.settings import ReaderSettings

HEAD_BYTES = 8 << 20  # of the real file; its vocabulary is in them
NUM_ELEMENTS = 24  # of its arrays that are kept
LAYERS = (b"blk.0.", b"token_embd", b"output")
ALIGNMENT = 32
SIZE = struct.Struct("<Q")


class ModelFiles:
    """Heads of files, written and read again. A case is the length of the file, and its head."""

    limit_s = 10.0
    may_be_late = False
    memory_bytes: int | None = 1 << 30
    watches_caller = True

    def __init__(self, head: Head, path: Path, read: Callable[[Path], object]) -> None:
        self._head = head
        self._path = path
        self._read = read

    def make(self, chance: random.Random) -> bytes:
        head = self._head
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            head = changed(head, chance)
        written = head.written()
        if chance.random() < 0.25:
            written = damaged(written, chance)
        return SIZE.pack(max(0, head.file_bytes)) + written

    def run(self, case: bytes) -> bool:
        size = int.from_bytes(case[: SIZE.size], "little")
        with self._path.open("wb") as file:
            file.write(case[SIZE.size :])
            if file.tell() < size < 1 << 40:
                file.truncate(size)
        try:
            self._read(self._path)
        except StartError as exc:
            _check_told(exc)
            return False
        return True


def _check_told(exc: StartError) -> None:
    """A refusal is a line or some that a person can read."""
    if not exc.message or len(exc.told) > 20_000:
        raise Found(
            "a refusal that says nothing, or too much", f"{len(exc.told)} characters: {exc.told[:300]}"
        )
    exc.told.encode()


def gguf(place: Place) -> ModelFiles:
    """A language model."""
    machine, settings = read_machine(), ReaderSettings(device="cpu")
    path = place.folder / "model.gguf"

    def load(path: Path) -> None:
        """What becomes of a file that is served: its facts, a plan, and what /config says of it."""
        stored = in_place(path)
        planned = plan_reader(stored, settings, machine)
        json.dumps(planned.launch.config, allow_nan=False, ensure_ascii=False).encode()
        if stored.num_params < 0 or planned.plan.total_bytes < 0:
            raise Found(
                "impossible sizes", f"{stored.num_params} parameters, {planned.plan.total_bytes} bytes"
            )

    return ModelFiles(cut_head(place.model), path, load)


def lora(place: Place) -> ModelFiles:
    """An adapter, held against the real model."""
    base = read_gguf(place.model)
    return ModelFiles(
        lora_head(cut_head(place.model)), place.folder / "a.gguf", lambda path: read_lora(path, base)
    )


def projector(place: Place) -> ModelFiles:
    """A projector, held against the real model."""
    base = read_gguf(place.model)
    head = projector_head()
    return ModelFiles(head, place.folder / "p.gguf", lambda path: read_projector(path, base))


def cut_head(model: Path, most_elements: int = NUM_ELEMENTS) -> Head:
    """The head of a real file with a layer of it, and its arrays cut short."""
    with model.open("rb") as file:
        head = read_head(file.read(HEAD_BYTES), most_elements=most_elements)
    kept = tuple(each for each in head.tensors if each.name.startswith(LAYERS))
    entries = tuple(
        replace(each, value=struct.pack("<I", 1)) if each.key.endswith(b".block_count") else each
        for each in head.entries
    )
    return laid_out(replace(head, entries=entries, tensors=kept))


def lora_head(base: Head) -> Head:
    """An adapter of rank 4 for each matrix of a layer."""
    architecture = next(each for each in base.entries if each.key == b"general.architecture")
    entries = (
        Entry(b"general.type", STRING, text(b"adapter")),
        architecture,
        Entry(b"adapter.type", STRING, text(b"lora")),
        Entry(b"adapter.lora.alpha", FLOAT32, struct.pack("<f", 8.0)),
    )
    tensors: list[Tensor] = []
    for each in base.tensors:
        if len(each.shape) == 2 and each.name.startswith(b"blk."):
            inputs, outputs = each.shape
            tensors += [Tensor(each.name + b".lora_a", (inputs, 4), 0, 0)]
            tensors += [Tensor(each.name + b".lora_b", (4, outputs), 0, 0)]
    return laid_out(Head(entries, tuple(tensors), 0))


def projector_head() -> Head:
    """An mlp of a vision model."""
    numbers = {
        b"image_size": 64,
        b"patch_size": 16,
        b"embedding_length": 64,
        b"feed_forward_length": 128,
        b"attention.head_count": 4,
        b"block_count": 1,
        b"projection_dim": 576,
    }
    entries = [
        Entry(b"general.architecture", STRING, text(b"clip")),
        Entry(b"clip.has_vision_encoder", 7, b"\1"),
        Entry(b"clip.projector_type", STRING, text(b"mlp")),
        *(Entry(b"clip.vision." + key, UINT32, struct.pack("<I", number)) for key, number in numbers.items()),
    ]
    means = array(FLOAT32, [struct.pack("<f", 0.5)] * 3)
    entries += [Entry(b"clip.vision." + key, ARRAY, means) for key in (b"image_mean", b"image_std")]
    return laid_out(Head(tuple(entries), (Tensor(b"mm.0.weight", (64, 576), 0, 0),), 0))


def laid_out(head: Head) -> Head:
    """`head` with its tensors one behind the other, in a file that holds them."""
    tensors, end = [], 0
    for each in head.tensors:
        tensors.append(replace(each, offset=end))
        end += -(-_num_bytes(each) // ALIGNMENT) * ALIGNMENT
    head = replace(head, tensors=tuple(tensors))
    start = -(-len(head.written()) // ALIGNMENT) * ALIGNMENT
    return replace(head, file_bytes=start + end + ALIGNMENT)


def _num_bytes(tensor: Tensor) -> int:
    block, block_bytes = gguf_files.GGML_QUANT_SIZES[gguf_files.GGMLQuantizationType(tensor.kind)]
    count = 1
    for size in tensor.shape:
        count *= size
    return count // block * block_bytes
