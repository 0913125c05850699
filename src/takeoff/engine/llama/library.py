"""llama.cpp as a library: how it starts, where its log lines go, how a model is loaded.

Source: include/llama.h of the llama.cpp that llama-cpp-python 0.3.36 builds.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import llama_cpp.llama_cpp as C  # noqa: N812  (the C API, as its documentation calls it)

from takeoff.engine.llama.backends import load_backends
from takeoff.errors import ModelError

logger = logging.getLogger(__name__)

# As it should be: an adapter of a repacked matrix is not repacked itself, which is said of every matrix; and
# a GPU is hidden from who has nothing on it.
_EXPECTED = ("fallback to CPU", "no CUDA-capable device is detected")
_GGML_LEVELS = {3: logging.WARNING, 4: logging.ERROR}


@C.llama_log_callback  # type: ignore[untyped-decorator]
def log_callback(level: int, text: bytes, _user_data: object) -> None:
    """llama.cpp's own lines, at the level they came with; its information is our debugging."""
    line = text.decode("utf-8", "replace").rstrip()
    expected = line.endswith(_EXPECTED)
    logger.log(logging.DEBUG if expected else _GGML_LEVELS.get(level, logging.DEBUG), line)


def start_library() -> None:
    """Take its log lines and choose its kernels. Idempotent."""
    C.llama_log_set(log_callback, None)
    C.llama_backend_init()
    load_backends()


def load_model(
    path: str, *, n_gpu_layers: int, on_progress: Callable[[float], None] = lambda _share: None
) -> C.llama_model_p:
    """Map the weights; `on_progress` is told the share that is done.

    Raises:
        ModelError: llama.cpp refused the file, or has no GPU for its layers.
    """

    @C.llama_progress_callback  # type: ignore[untyped-decorator]
    def progress(share: float, _user_data: object) -> bool:
        on_progress(share)
        return True

    start_library()
    if n_gpu_layers > 0 and not C.llama_supports_gpu_offload():
        raise ModelError(
            f"{n_gpu_layers} layers are to be on the GPU, and llama.cpp finds none that it can use",
            hint="--device cpu; the log (--log-level debug) says what the driver answers",
        )
    params = C.llama_model_default_params()
    params.n_gpu_layers = n_gpu_layers
    params.progress_callback = progress
    model: C.llama_model_p | None = C.llama_model_load_from_file(path.encode(), params)
    if not model:
        raise ModelError(f"llama.cpp can't load {path}", hint="its log (--log-level debug) says why")
    return model


def engine_build() -> str:
    """What tells this build of llama.cpp, on this kind of processor, from any other. After `load_model`."""
    digest = hashlib.blake2b(C.llama_print_system_info(), digest_size=16)
    for path in sorted(path for path in Path(C._base_path).iterdir() if path.is_file()):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
