"""The process that makes a variant of a model: `python -m ... SOURCE TARGET THREADS RECIPE`.

RECIPE is a `models.variants.Recipe` in JSON. Lines `done SHARE` on standard output tell how far it is,
other lines are llama.cpp's warnings. It ends when its standard input does.

Source: llama_model_quantize in include/llama.h of the llama.cpp that llama-cpp-python 0.3.36 builds.
"""

from __future__ import annotations

import ctypes
import re
import sys

import llama_cpp.llama_cpp as C  # noqa: N812  (the C API, as its documentation calls it)
import msgspec

from takeoff.engine.llama.backends import load_backends
from takeoff.ipc.lifeline import die_with_parent, end_with_stdin
from takeoff.models.gguf_types import FILE_TYPES, TENSOR_TYPES
from takeoff.models.requantise import DONE
from takeoff.models.variants import Recipe

MAX_BUFFER_BYTES = 256 << 20  # of a tensor's rows in memory; llama.cpp's own default is 8 GiB
_WARNING = 3  # GGML_LOG_LEVEL_WARN
_AT_TENSOR = re.compile(r"\[ *(\d+)/ *(\d+)\]")

_TENSOR_TYPES = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}
_FILE_TYPES = {name: number for number, name in FILE_TYPES.items()}


@C.llama_log_callback  # type: ignore[untyped-decorator]
def _log(level: int, text: bytes, _user_data: object) -> None:
    line = text.decode("utf-8", "replace").strip()
    if found := _AT_TENSOR.match(line):
        _say(f"{DONE}{int(found[1]) / int(found[2]):.4f}")
    elif level >= _WARNING and line and "manual override" not in line:
        _say(line)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def quantise(source: str, target: str, threads: int, recipe: Recipe) -> bool:
    """Write `source` to `target` as the recipe says; whether llama.cpp did it."""
    overrides = (C.llama_model_tensor_override * (len(recipe.tensor_types) + 1))()  # ends with a null
    for override, (pattern, type_name) in zip(overrides, recipe.tensor_types, strict=False):
        override.pattern, override.type = pattern.encode(), _TENSOR_TYPES[type_name]
    params = C.llama_model_quantize_default_params()
    params.nthread = threads
    params.ftype = _FILE_TYPES[recipe.file_type]
    params.allow_requantize = True
    params.pure = recipe.pure
    params.max_buf_size = MAX_BUFFER_BYTES
    if recipe.output_type is not None:
        params.output_tensor_type = _TENSOR_TYPES[recipe.output_type]
    if recipe.embedding_type is not None:
        params.token_embedding_type = _TENSOR_TYPES[recipe.embedding_type]
    if recipe.tensor_types:
        params.tt_overrides = ctypes.cast(overrides, ctypes.POINTER(C.llama_model_tensor_override))
    return bool(C.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)) == 0)


def main() -> None:
    die_with_parent()
    end_with_stdin()
    source, target, threads, order = sys.argv[1:]
    recipe = msgspec.json.decode(order, type=Recipe)
    C.llama_log_set(_log, None)
    C.llama_backend_init()
    load_backends()
    if not quantise(source, target, int(threads), recipe):
        sys.exit(1)


if __name__ == "__main__":
    main()
