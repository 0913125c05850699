"""What a GGUF file says of itself, checked before anyone maps it: a model file is hostile input.

Every count, length and offset is held against the real length of the file. Memory is bounded:
long arrays (the vocabulary) are walked over, not kept.

Source: docs/gguf.md of ggml.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from takeoff.errors import ModelError
from takeoff.models.disk import model_file
from takeoff.models.gguf_types import ENCODERS, FILE_TYPES, RANK_POOLING, REPACKED_TYPES, TENSOR_TYPES
from takeoff.request import Task

MAX_ENTRIES = 100_000  # of metadata, and of tensors
MAX_KEY_BYTES = 65_535
MAX_KEPT_STRING_BYTES = 4 << 20  # a chat template is the longest that we know
MAX_KEPT_ARRAY = 4_096  # longer arrays are counted only
MAX_DIMENSIONS = 4
MAX_NESTING = 2
MAX_TOLD_CHARACTERS = 500  # of an error

FLOAT32 = 6  # in GgufFile.kinds
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
# Parts of keys: recurrent states, compressed keys, positions in two dimensions.
_OTHER_MEMORY = (".ssm.", ".wkv", ".shortconv.", ".kv_lora_rank", ".rope.dimension_sections")
_OTHER_FORMATS = {b"PK\x03\x04": "a zip archive", b"\x80\x02": "a Python pickle", b"ggjt": "a model of 2023"}


@dataclass(frozen=True, slots=True)
class Tensor:
    name: str
    type_name: str
    shape: tuple[int, ...]
    offset: int  # in bytes, from the beginning of the data
    num_bytes: int


@dataclass(frozen=True, slots=True)
class GgufFile:
    """The checked facts of a model file. Arrays longer than MAX_KEPT_ARRAY are None in `metadata`."""

    path: Path
    file_bytes: int
    metadata: dict[str, Any]
    array_lengths: dict[str, int]
    tensors: tuple[Tensor, ...]
    kinds: dict[str, int] = field(default_factory=dict)  # GGUF type of each value

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", "unknown"))

    @property
    def name(self) -> str:
        return str(self.metadata.get("general.name", self.path.stem))

    @property
    def task(self) -> Task:
        """What the model does, by its header: one that pools its tokens' vectors embeds, or ranks."""
        pooling = self._first("pooling_type", 1 if self.architecture in ENCODERS else 0)
        if pooling == RANK_POOLING:
            return Task.CLASSIFY
        return Task.GENERATE if pooling == 0 else Task.EMBED

    @property
    def quantisation(self) -> str:
        """The file's own name for its mixture of types, else its commonest type."""
        file_type = self.metadata.get("general.file_type")
        if isinstance(file_type, int) and file_type in FILE_TYPES:
            return FILE_TYPES[file_type]
        if not self.tensors:
            raise damage(self.path, "has no tensors", hint="it is not a language model")
        by_bytes: Counter[str] = Counter()
        for tensor in self.tensors:
            by_bytes[tensor.type_name] += tensor.num_bytes
        return by_bytes.most_common(1)[0][0]

    @property
    def context_length(self) -> int:
        return self._of_architecture("context_length")

    @property
    def n_layers(self) -> int:
        return self._of_architecture("block_count")

    @property
    def n_embd(self) -> int:
        return self._of_architecture("embedding_length")

    @property
    def n_ff(self) -> int:
        return self._first("feed_forward_length", 4 * self.n_embd)

    @property
    def n_heads(self) -> int:
        return self._first("attention.head_count", 1)

    @property
    def n_kv_heads(self) -> int:
        """The most of any layer."""
        return self._first("attention.head_count_kv", self.n_heads)

    @property
    def key_length(self) -> int:
        return self._first("attention.key_length", self.n_embd // max(1, self.n_heads))

    @property
    def value_length(self) -> int:
        return self._first("attention.value_length", self.n_embd // max(1, self.n_heads))

    @property
    def sliding_window(self) -> int:
        """Tokens that the sliding layers look back; 0 where no layer slides."""
        return self._first("attention.sliding_window", 0)

    @property
    def has_plain_cache(self) -> bool:
        """Whether all it remembers of a text are keys and values of each token, and its place."""
        return not any(name in key for key in self.metadata for name in _OTHER_MEMORY)

    @property
    def n_vocab(self) -> int:
        return self.array_lengths.get("tokenizer.ggml.tokens", 0)

    @property
    def has_chat_template(self) -> bool:
        return "tokenizer.chat_template" in self.metadata

    @property
    def tensor_bytes(self) -> int:
        return sum(tensor.num_bytes for tensor in self.tensors)

    @property
    def repacked_bytes(self) -> int:
        """Bytes of the matrices that the CPU backend keeps a second copy of."""
        return sum(
            tensor.num_bytes
            for tensor in self.tensors
            if tensor.type_name in REPACKED_TYPES and len(tensor.shape) == 2 and "embd" not in tensor.name
        )

    @property
    def n_params(self) -> int:
        return sum(prod(tensor.shape) for tensor in self.tensors)

    def _of_architecture(self, key: str) -> int:
        value = self._first(key, 0)
        if value <= 0:
            raise damage(self.path, f"does not say its {key}", hint="it is not a language model")
        return value

    def _first(self, key: str, default: int) -> int:
        """An integer of this architecture; of a list with one for each layer, the largest."""
        value = self.metadata.get(f"{self.architecture}.{key}", default)
        if isinstance(value, list):
            value = max((each for each in value if isinstance(each, int)), default=default)
        if not isinstance(value, int) or not 0 <= value < 2**31:
            raise damage(self.path, f"says {key} = {value}", hint="the file is damaged: pull it again")
        return value


def damage(path: Path, what: str, *, hint: str) -> ModelError:
    """What is wrong with a file, cut where it is long: the file may have said it of itself."""
    told = what if len(what) <= MAX_TOLD_CHARACTERS else f"{what[:MAX_TOLD_CHARACTERS]}…"
    return ModelError(f"{path.name} {told}", hint=hint)


def read_gguf(path: Path) -> GgufFile:
    """Read and check the head of a model file.

    Raises:
        ModelError: it is not a GGUF file that can be mapped safely; the message says what and where.
    """
    with model_file(path, buffering=1 << 20) as file:
        return _Reader(path, file).read()


class _Reader:
    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._metadata: dict[str, Any] = {}
        self._array_lengths: dict[str, int] = {}
        self._kinds: dict[str, int] = {}

    def read(self) -> GgufFile:
        self._check_magic()
        version = self._scalar("I")
        if version not in (2, 3):
            detail = "is big-endian" if version > 0xFFFF else f"has version {version}"
            raise self._error(f"{detail}; versions 2 and 3, little-endian, are read")
        num_tensors, num_entries = self._count("tensors"), self._count("metadata entries")
        for _ in range(num_entries):
            self._read_entry()
        tensors = tuple(self._read_tensor() for _ in range(num_tensors))
        self._check_layout(tensors)
        return GgufFile(self._path, self._size, self._metadata, self._array_lengths, tensors, self._kinds)

    def _check_magic(self) -> None:
        magic = self._file.read(4)
        if magic == b"GGUF":
            return
        found = next((what for start, what in _OTHER_FORMATS.items() if magic.startswith(start)), None)
        if found is None:
            found = "safetensors" if self._file.read(5)[4:5] == b"{" else f"a file that begins with {magic!r}"
        raise ModelError(f"{self._path.name} is {found}, not a GGUF file", hint="name a .gguf file")

    def _read_entry(self) -> None:
        key = self._string(MAX_KEY_BYTES)
        if key in self._metadata:
            raise self._error(f"has the key {key!r} twice")
        kind = self._kinds[key] = self._scalar("I")
        self._metadata[key] = self._value(key, kind, 0)

    def _value(self, key: str, kind: int, depth: int) -> Any:
        if kind in _SCALARS:
            return self._scalar(_SCALARS[kind])
        if kind == _STRING:
            return self._string(MAX_KEPT_STRING_BYTES)
        if kind == _ARRAY and depth < MAX_NESTING:
            return self._array(key, depth)
        raise self._error(f"has a value of unknown type {kind} at {key!r}")

    def _array(self, key: str, depth: int) -> list[Any] | None:
        kind, count = self._scalar("I"), self._scalar("Q")
        if depth == 0:
            self._array_lengths[key] = count
        if kind in _SCALARS:
            size = struct.calcsize("<" + _SCALARS[kind])
            self._check_room(count * size, f"the array {key!r} of {count} elements")
            if count > MAX_KEPT_ARRAY:
                self._file.seek(count * size, os.SEEK_CUR)
                return None
        self._check_room(count, f"the array {key!r} of {count} elements")
        if kind == _STRING and count > MAX_KEPT_ARRAY:
            for _ in range(count):
                self._skip_string(key)
            return None
        if count > MAX_KEPT_ARRAY:
            raise self._error(f"has an array of {count} arrays at {key!r}")
        return [self._value(key, kind, depth + 1) for _ in range(count)]

    def _read_tensor(self) -> Tensor:
        name = self._string(MAX_KEY_BYTES)
        num_dimensions = self._scalar("I")
        if not 1 <= num_dimensions <= MAX_DIMENSIONS:
            raise self._error(f"has a tensor {name!r} of {num_dimensions} dimensions")
        shape = tuple(self._scalar("Q") for _ in range(num_dimensions))
        kind, offset = self._scalar("I"), self._scalar("Q")
        if kind not in TENSOR_TYPES:
            raise self._error(f"has a tensor {name!r} of unknown type {kind}")
        type_name, block, block_bytes = TENSOR_TYPES[kind]
        if min(shape) < 1 or shape[0] % block:
            raise self._error(f"has a tensor {name!r} of shape {shape}, which {type_name} can't have")
        return Tensor(name, type_name, shape, offset, prod(shape) // block * block_bytes)

    def _check_layout(self, tensors: tuple[Tensor, ...]) -> None:
        """Tensors lie inside the file, aligned, one behind the other."""
        alignment = self._metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 8 <= alignment <= 65_536 or alignment & (alignment - 1):
            raise self._error(f"says general.alignment = {alignment}")
        if len({tensor.name for tensor in tensors}) < len(tensors):
            raise self._error("has two tensors of one name")
        start = -(-self._file.tell() // alignment) * alignment
        end = 0
        for tensor in sorted(tensors, key=lambda each: each.offset):
            if tensor.offset % alignment or tensor.offset < end:
                raise self._error(f"has the tensor {tensor.name!r} at {tensor.offset}, inside another one")
            end = tensor.offset + tensor.num_bytes
            if start + end > self._size:
                raise self._error(
                    f"ends at byte {self._size}, before its tensor {tensor.name!r} ends at {start + end}"
                )

    def _count(self, what: str) -> int:
        count: int = self._scalar("Q")
        if count > MAX_ENTRIES:
            raise self._error(f"says that it has {count} {what}; the limit is {MAX_ENTRIES}")
        return count

    def _string(self, max_bytes: int) -> str:
        length = self._scalar("Q")
        if length > max_bytes:
            raise self._error(f"has a string of {length} bytes; the limit is {max_bytes}")
        return self._bytes(length).decode("utf-8", "replace")

    def _skip_string(self, key: str) -> None:
        length = self._scalar("Q")
        self._check_room(length, f"a string of {length} bytes at {key!r}")
        self._file.seek(length, os.SEEK_CUR)

    def _check_room(self, num_bytes: int, what: str) -> None:
        if num_bytes > self._size - self._file.tell():
            raise self._error(f"ends at byte {self._size}, inside {what}")

    def _scalar(self, form: str) -> Any:
        return struct.unpack("<" + form, self._bytes(struct.calcsize("<" + form)))[0]

    def _bytes(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise self._error(f"ends at byte {self._size}, in the middle of its head")
        return data

    def _error(self, what: str) -> ModelError:
        return damage(self._path, what, hint="the file is damaged or hostile: pull it again")
