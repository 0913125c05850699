"""A network in ONNX with its tokenizer: the HF layout, run by onnxruntime.

The only importer of onnxruntime. Libraries of custom operators are never loaded.

A text's result does not depend on its neighbours. Padding is masked; of float networks, and of those
that keep only their weights in int8 (as `takeoff pull minilm` does), a vector computed in a batch
equals the one computed alone within 1e-5. A network that quantises its activations scales them by the
largest of the whole call, so its texts are computed one by one, a thread for each: the same bytes
alone and beside others, and no slower than a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]
from numpy.typing import NDArray

from takeoff.engine.encoder.hf_tokenizer import HfTokenizer
from takeoff.engine.encoder.model import Tokens
from takeoff.engine.encoder.pooling import pool, score, unit_length
from takeoff.errors import EngineFailed, InvalidRequest, ModelError
from takeoff.ipc.messages import LoadEncoder
from takeoff.models.encoder import EncoderModel
from takeoff.request import Task, Text

MAX_DIMENSIONS = 65_536
_INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids"})
_TOKEN_OUTPUTS = ("last_hidden_state", "token_embeddings")
_POOLED_OUTPUT = "sentence_embedding"
_LOGITS = "logits"
_INTEGERS = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}


class OnnxModel:
    """See `takeoff.engine.encoder.model.Model`."""

    def __init__(self, model: EncoderModel, load: LoadEncoder) -> None:
        """Load the network and run it once.

        Raises:
            ModelError: onnxruntime refused it, or it is not of a kind we can run.
        """
        self._model = model
        self.max_tokens = load.max_tokens or model.max_tokens
        if self.max_tokens > model.max_positions:
            raise ModelError(
                f"texts of {self.max_tokens} tokens were asked for, "
                f"and this model has {model.max_positions} positions"
            )
        self._tokenizer = HfTokenizer(model.tokenizer_path, prompt=model.prompt, lower_case=model.lower_case)
        self._session = _open(model, load.n_threads)
        self._inputs = {each.name: _INTEGERS.get(each.type) for each in self._session.get_inputs()}
        self._output = self._choose_output()
        self._pool = ThreadPoolExecutor(load.n_threads) if model.onnx.quantises_activations else None
        self.labels = model.labels
        self.num_dimensions = self._try()

    def tokenize(self, text: Text) -> Tokens:
        """See `Model`."""
        if self._model.task is Task.EMBED and not isinstance(text, str):
            raise InvalidRequest("a pair of texts can be classified, not embedded", param="text")
        return self._tokenizer.tokenize(text)

    def spell(self, text: Text, *, skip_special_tokens: bool) -> tuple[list[int], list[str]]:
        """See `Model`."""
        return self._tokenizer.spell(text, skip_special_tokens=skip_special_tokens)

    def detokenize(self, tokens: list[int | str], *, skip_special_tokens: bool) -> str:
        """See `Model`."""
        return self._tokenizer.detokenize(tokens, skip_special_tokens=skip_special_tokens)

    def compute(self, batch: Sequence[Tokens]) -> NDArray[np.float32]:
        """See `Model`."""
        if self._pool is None:
            return self._run(batch)
        return np.concatenate(list(self._pool.map(lambda tokens: self._run([tokens]), batch)))

    def _run(self, batch: Sequence[Tokens]) -> NDArray[np.float32]:
        ids, types, mask = self._padded(batch)
        arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        feed = {name: arrays[name].astype(kind, copy=False) for name, kind in self._inputs.items()}
        try:
            (output,) = self._session.run([self._output], feed)
        except Exception as exc:  # onnxruntime raises many kinds, most of them its own
            raise EngineFailed(f"onnxruntime failed: {_first_line(exc)}") from exc
        return self._rows(np.asarray(output, np.float32), mask)

    def _padded(
        self, batch: Sequence[Tokens]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Ids, type ids and mask, [texts, longest] each."""
        shape = len(batch), max(map(len, batch))
        ids = np.full(shape, self._model.pad_token_id, np.int64)
        types, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens)] = tokens.ids
            types[row, : len(tokens)] = tokens.type_ids
            mask[row, : len(tokens)] = 1
        return ids, types, mask

    def _rows(self, output: NDArray[np.float32], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        wanted = mask.shape if self._output in _TOKEN_OUTPUTS else mask.shape[:1]
        if output.shape[:-1] != wanted:
            raise EngineFailed(f"the network answered {output.shape} for texts of {mask.shape}")
        if self._model.task is Task.CLASSIFY:
            return score(output, self._model.scores)
        vectors = pool(output, mask, self._model.pooling) if self._output in _TOKEN_OUTPUTS else output
        return unit_length(vectors) if self._model.scales_to_unit else vectors

    def _choose_output(self) -> str:
        """The output to read.

        Raises:
            ModelError: inputs or outputs are not those of a model that embeds or classifies.
        """
        odd = [name for name, kind in self._inputs.items() if name not in _INPUTS or kind is None]
        if odd or "input_ids" not in self._inputs:
            raise ModelError(
                f"the network wants {', '.join(sorted(self._inputs))}, which are not only ids and mask"
            )
        names = [each.name for each in self._session.get_outputs()]
        wanted = (_LOGITS,) if self._model.task is Task.CLASSIFY else (*_TOKEN_OUTPUTS, _POOLED_OUTPUT)
        for name in wanted:
            if name in names:
                return name
        raise ModelError(
            f"the network's outputs are {', '.join(names)}",
            hint=f"a model that can {self._model.task} has one of {', '.join(wanted)}",
        )

    def _try(self) -> int:
        """Run the network on a short text; returns the dimensions of a row."""
        try:
            rows = self._run([self._tokenizer.tokenize("a")])
        except (EngineFailed, InvalidRequest) as exc:
            raise ModelError(f"a trial run failed: {exc.message}") from exc
        num_dimensions = int(rows.shape[1])
        if self.labels and num_dimensions != len(self.labels):
            raise ModelError(
                f"the network has {num_dimensions} classes, and config.json names {len(self.labels)}"
            )
        if not 1 <= num_dimensions <= MAX_DIMENSIONS:
            raise ModelError(f"the network's vectors have {num_dimensions} dimensions")
        return num_dimensions


def _open(model: EncoderModel, n_threads: int) -> Any:
    """A session of the network; onnxruntime publishes no types.

    Raises:
        ModelError: onnxruntime refused the file.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1 if model.onnx.quantises_activations else n_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_mem_pattern = False  # a pattern would be kept for every shape of a batch
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.load_model_format", "ONNX")
    try:
        return ort.InferenceSession(str(model.onnx.path), options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # onnxruntime raises many kinds, most of them its own
        raise ModelError(f"onnxruntime can't load {model.onnx.path}: {_first_line(exc)}") from exc


def _first_line(exc: Exception) -> str:
    return next(iter(str(exc).splitlines()), type(exc).__name__)[:500]
