"""What an ONNX file is made of, read in bounded memory before onnxruntime opens it.

An ONNX file may keep its weights in other files, and names them itself: an absolute path or one with
`..` would have onnxruntime map whatever a stranger chose. So every tensor is looked at, wherever the
format allows one, and only a plain file of the model's own folder is let through.

Source: onnx/onnx.proto of ONNX 1.19; the protocol buffers' wire format.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from takeoff.errors import ModelError
from takeoff.models.disk import model_file

MAX_FIELDS = 4_000_000  # looked at in one file; a model of 24 layers has some 100,000
MAX_DEPTH = 32  # messages inside each other
MAX_STRING_BYTES = 4_096  # of a name that we keep
MAX_DIMENSIONS = 16

# What of each message we look into: field number -> the message inside. Everything else is skipped.
_MESSAGES: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 12: "Output", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "External"},
    "External": {},
    "Output": {},
}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}")

# TensorProto.DataType -> how people call the type
_TYPE_NAMES = {1: "F32", 2: "INT8", 3: "INT8", 10: "F16", 11: "F64", 16: "BF16", 21: "INT4", 22: "INT4"}
_ELEMENT_BYTES = {"F32": 4.0, "F16": 2.0, "BF16": 2.0, "F64": 8.0, "INT8": 1.0, "INT4": 0.5}
_QUANTISES_ACTIVATIONS = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """The checked facts of an ONNX file."""

    path: Path
    file_bytes: int  # with the files of its external data
    num_params: int
    quantisation: str  # the type that most bytes of the weights have
    outputs: tuple[str, ...]
    quantises_activations: bool  # by the largest of a whole call: a text's result depends on its neighbours
    external_files: tuple[Path, ...]


def read_onnx(path: Path) -> OnnxFile:
    """Read and check the structure of an ONNX file.

    Raises:
        ModelError: it is no ONNX file, or keeps data where we don't let it.
    """
    with model_file(path, buffering=1 << 16) as file:
        return _Reader(path, file).read()


class _Reader:
    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._pos = 0
        self._last_varint = 0  # value of the field at hand, where it is a number
        self._num_fields = 0
        self._type_bytes: Counter[str] = Counter()
        self._num_params = 0
        self._outputs: list[str] = []
        self._ops: set[str] = set()
        self._external: dict[str, None] = {}

    def read(self) -> OnnxFile:
        self._walk("Model", self._size, 0)
        if not self._ops:
            raise self._error("has no graph: it is not an ONNX model")
        files = tuple(self._check_external(name) for name in self._external)
        return OnnxFile(
            path=self._path,
            file_bytes=self._size + sum(file.stat().st_size for file in files),
            num_params=self._num_params,
            quantisation=max(self._type_bytes, key=lambda name: self._type_bytes[name], default="F32"),
            outputs=tuple(self._outputs),
            quantises_activations=not self._ops.isdisjoint(_QUANTISES_ACTIVATIONS),
            external_files=files,
        )

    def _walk(self, message: str, end: int, depth: int, outer: str = "") -> None:
        """Look through one message that reaches to `end`."""
        if depth > MAX_DEPTH:
            raise self._error(f"has messages inside each other deeper than {MAX_DEPTH}")
        if message == "Tensor":
            self._walk_tensor(end, depth, is_weight=outer == "Graph")
        elif message == "External":
            self._walk_external(end)
        else:
            for number, kind, inner_end in self._fields(end):
                inner = _MESSAGES[message].get(number)
                if kind != _BYTES:
                    continue
                if inner is not None:
                    self._walk(inner, inner_end, depth + 1, message)
                elif message == "Node" and number == 4:
                    self._ops.add(self._string(inner_end))
                elif message == "Output" and number == 1 and depth == 2:
                    self._outputs.append(self._string(inner_end))

    def _walk_tensor(self, end: int, depth: int, *, is_weight: bool) -> None:
        shape: list[int] = []
        data_type = 0
        for number, kind, inner_end in self._fields(end):
            if number == 1 and kind == _BYTES:
                while self._pos < inner_end and len(shape) <= MAX_DIMENSIONS:
                    shape.append(self._varint())
            elif number == 1 and kind == _VARINT:
                shape.append(self._last_varint)
            elif number == 2 and kind == _VARINT:
                data_type = self._last_varint
            elif number == 13 and kind == _BYTES:
                self._walk("External", inner_end, depth + 1)
            if len(shape) > MAX_DIMENSIONS:
                raise self._error(f"has a tensor of more than {MAX_DIMENSIONS} dimensions")
        if is_weight:
            count = 1
            for dimension in shape:
                count = min(count * dimension, 1 << 62)
            name = _TYPE_NAMES.get(data_type)
            if name is not None:
                self._num_params += count
                self._type_bytes[name] += int(count * _ELEMENT_BYTES[name])

    def _walk_external(self, end: int) -> None:
        key = value = ""
        for number, kind, inner_end in self._fields(end):
            if kind == _BYTES and number == 1:
                key = self._string(inner_end)
            elif kind == _BYTES and number == 2:
                value = self._string(inner_end)
        if key == "location":
            self._external[value] = None

    def _check_external(self, name: str) -> Path:
        """The file of that name beside the model; nothing else will do."""
        path = self._path.parent / name
        if not _PLAIN_NAME.fullmatch(name):
            raise self._error(f"keeps weights in {name!r}, which is not the name of a file in its folder")
        try:
            mode = path.lstat().st_mode
        except OSError as exc:
            raise self._error(f"keeps weights in {name!r}, which can't be read: {exc.strerror}") from exc
        if not stat.S_ISREG(mode):
            raise self._error(f"keeps weights in {name!r}, which is a link or no file")
        return path

    def _fields(self, end: int) -> Iterator[tuple[int, int, int]]:
        """(number, wire type, end) of each field up to `end`; whatever of it was not read is skipped."""
        while self._pos < end:
            self._num_fields += 1
            if self._num_fields > MAX_FIELDS:
                raise self._error(f"has more than {MAX_FIELDS} fields")
            tag = self._varint()
            number, kind = tag >> 3, tag & 7
            inner_end = self._pos
            if kind == _VARINT:
                self._last_varint = self._varint()
                inner_end = self._pos
            elif kind in (_FIXED64, _FIXED32):
                inner_end += 8 if kind == _FIXED64 else 4
            elif kind == _BYTES:
                length = self._varint()
                inner_end = self._pos + length
            else:
                raise self._error(f"has a field of wire type {kind} at byte {self._pos}: it is not ONNX")
            # A tag of more than 32 bits may be cut to some other field by whoever reads it next.
            if inner_end > end or not 0 < tag >> 3 < 1 << 29:
                raise self._error(f"is damaged at byte {self._pos}, or it is not ONNX")
            yield number, kind, inner_end
            if self._pos > inner_end:
                raise self._error(f"is damaged at byte {self._pos}")
            self._seek(inner_end)

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._file.read(1)
            if not byte:
                raise self._error(f"ends at byte {self._size}, in the middle of a field")
            self._pos += 1
            value |= (byte[0] & 0x7F) << shift
            if byte[0] < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF
        raise self._error(f"has a number of more than 64 bits at byte {self._pos}: it is not ONNX")

    def _string(self, end: int) -> str:
        if end - self._pos > MAX_STRING_BYTES:
            raise self._error(f"has a name of {end - self._pos} bytes; the limit is {MAX_STRING_BYTES}")
        data = self._file.read(end - self._pos)
        self._pos += len(data)
        return data.decode("utf-8", "replace")

    def _seek(self, to: int) -> None:
        if to != self._pos:
            self._file.seek(to - self._pos, os.SEEK_CUR)
            self._pos = to

    def _error(self, what: str) -> ModelError:
        return ModelError(f"{self._path.name} {what}", hint="the file is damaged or hostile: pull it again")
