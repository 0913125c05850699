"""What a folder of the HF layout says of a model that embeds or classifies; checked, nothing loaded.

    model.onnx or onnx/model.onnx     the network
    tokenizer.json, config.json       beside it, or one folder above
    modules.json, 1_Pooling/config.json, sentence_bert_config.json, config_sentence_transformers.json,
    tokenizer_config.json             where the model has them

A folder without modules.json does not say how token vectors become a text's: then it is their mean,
scaled to length 1. Every file is hostile input: its size is bounded, its types are checked.

Source: sentence_transformers/models of sentence-transformers 5; transformers' configuration files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import msgspec

from takeoff.errors import ModelError
from takeoff.models.disk import model_file
from takeoff.models.onnx import OnnxFile, read_onnx
from takeoff.request import Task

ONNX_NAMES = ("model.onnx", "onnx/model.onnx")
MAX_CONFIG_BYTES = 16 << 20  # of a JSON file but the tokenizer's; a thousand labels take 50 KB
MAX_TOKENIZER_BYTES = 128 << 20  # 250,000 tokens take 17 MB
MAX_LABELS = 100_000
MAX_MODULES = 16
DEFAULT_MAX_TOKENS = 512  # where neither positions nor settings bound it

# Their positions begin behind that of the padding token.
_SHIFTED_POSITIONS = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet"})
_UNBOUNDED = 1_000_000  # transformers writes 10**30 where a tokenizer has no limit
_PLAIN_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_POOLING_FLAG = "pooling_mode_"


class Pooling(StrEnum):
    """How the vectors of a text's tokens become one."""

    MEAN = "mean"
    CLS = "cls"  # the first token's
    LAST = "last"  # the last token's
    MAX = "max"  # the largest of each dimension


_POOLINGS = {
    "mean": Pooling.MEAN,
    "cls": Pooling.CLS,
    "lasttoken": Pooling.LAST,
    "max": Pooling.MAX,
}


class Scores(StrEnum):
    """How a classifier's logits become scores."""

    SOFTMAX = "softmax"  # one class is right
    SIGMOID = "sigmoid"  # each class for itself
    LOGITS = "logits"  # as they are: a regression


@dataclass(frozen=True, slots=True)
class EncoderModel:
    """The checked facts of a folder."""

    folder: Path
    onnx: OnnxFile
    tokenizer_path: Path
    config_path: Path
    file_bytes: int
    architecture: str
    task: Task
    max_tokens: int  # of one text, by the model's settings
    max_positions: int  # that the network has; max_tokens or more
    n_layers: int
    n_heads: int
    n_embd: int
    n_ff: int
    pooling: Pooling
    scales_to_unit: bool  # an embedding's length is made 1
    lower_case: bool  # texts are lowered before the tokenizer sees them
    prompt: str  # put before every text
    pad_token_id: int
    labels: tuple[str, ...]
    scores: Scores


class _Config(msgspec.Struct, frozen=True):
    model_type: str = "unknown"
    architectures: tuple[str, ...] | None = None
    max_position_embeddings: int | None = None
    pad_token_id: int | None = None
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None
    hidden_size: int | None = None
    intermediate_size: int | None = None
    id2label: dict[str, str] | None = None
    problem_type: str | None = None


class _Module(msgspec.Struct, frozen=True):
    type: str
    path: str = ""


class _PoolingConfig(msgspec.Struct, frozen=True):
    """1_Pooling/config.json, as older releases write it and as newer ones do."""

    pooling_mode_cls_token: bool = False
    pooling_mode_mean_tokens: bool = False
    pooling_mode_max_tokens: bool = False
    pooling_mode_mean_sqrt_len_tokens: bool = False
    pooling_mode_weightedmean_tokens: bool = False
    pooling_mode_lasttoken: bool = False
    pooling_mode: str | None = None
    include_prompt: bool = True

    def modes(self) -> list[str]:
        """The modes that are on, without "pooling_mode_" and "_tokens"."""
        named = [] if self.pooling_mode is None else [self.pooling_mode]
        flags = [name for name in self.__struct_fields__ if name.startswith(_POOLING_FLAG)]
        names = named + [name.removeprefix(_POOLING_FLAG) for name in flags if getattr(self, name)]
        return sorted({name.removesuffix("_tokens").removesuffix("_token") for name in names})


class _SentenceBert(msgspec.Struct, frozen=True):
    max_seq_length: int | None = None
    do_lower_case: bool = False


class _Prompts(msgspec.Struct, frozen=True):
    prompts: dict[str, str] | None = None
    default_prompt_name: str | None = None


class _TokenizerConfig(msgspec.Struct, frozen=True):
    model_max_length: float | None = None


class _Tokenizer(msgspec.Struct, frozen=True):
    """Only that it is one; the rest is for the tokenizers library."""

    model: msgspec.Raw


@dataclass(frozen=True, slots=True)
class _Modules:
    pooling: Pooling
    scales_to_unit: bool
    includes_prompt: bool


Shape = TypeVar("Shape")


def find_onnx(folder: Path) -> Path | None:
    """The ONNX file of a folder of the HF layout."""
    return next((folder / name for name in ONNX_NAMES if (folder / name).is_file()), None)


def read_encoder(folder: Path) -> EncoderModel:
    """Read and check a folder.

    Raises:
        ModelError: it is not a model that we can run; the message says which file, and why.
    """
    path = find_onnx(folder)
    if path is None:
        raise ModelError(f"{folder} has no {' or '.join(ONNX_NAMES)}", hint="export the model to ONNX")
    onnx = read_onnx(path)
    tokenizer_path = _beside(folder, path, "tokenizer.json")
    _decode(tokenizer_path, _Tokenizer, MAX_TOKENIZER_BYTES)
    config_path = _beside(folder, path, "config.json")
    config = _decode(config_path, _Config)
    task = _task(config, onnx)
    modules = _read_modules(folder)
    sentence_bert = _optional(folder / "sentence_bert_config.json", _SentenceBert, _SentenceBert())
    labels = _labels(config, path) if task is Task.CLASSIFY else ()
    max_positions, max_tokens = _limits(folder, config, sentence_bert)
    return EncoderModel(
        folder=folder,
        onnx=onnx,
        tokenizer_path=tokenizer_path,
        config_path=config_path,
        file_bytes=onnx.file_bytes + tokenizer_path.stat().st_size,
        architecture=config.model_type[:100],
        task=task,
        max_tokens=max_tokens,
        max_positions=max_positions,
        n_layers=_count("num_hidden_layers", config.num_hidden_layers, 12),
        n_heads=_count("num_attention_heads", config.num_attention_heads, 12),
        n_embd=_count("hidden_size", config.hidden_size, 768),
        n_ff=_count("intermediate_size", config.intermediate_size, 4 * (config.hidden_size or 768)),
        pooling=modules.pooling,
        scales_to_unit=modules.scales_to_unit,
        lower_case=sentence_bert.do_lower_case,
        prompt=_prompt(folder, modules) if task is Task.EMBED else "",
        pad_token_id=max(config.pad_token_id or 0, 0),
        labels=labels,
        scores=_scores(config, len(labels)),
    )


def _task(config: _Config, onnx: OnnxFile) -> Task:
    if config.architectures:
        is_classifier = any(name.endswith("ForSequenceClassification") for name in config.architectures)
    else:
        is_classifier = onnx.outputs == ("logits",)
    return Task.CLASSIFY if is_classifier else Task.EMBED


def _labels(config: _Config, path: Path) -> tuple[str, ...]:
    """The names of the classes, by number."""
    named = config.id2label or {"0": "LABEL_0", "1": "LABEL_1"}  # transformers' default: two classes
    numbers = [str(number) for number in range(len(named))]
    if len(named) > MAX_LABELS or set(named) != set(numbers):
        raise ModelError(
            f"config.json of {path.name} names {len(named)} classes whose numbers are not 0, 1, 2, …",
            hint="id2label must name every class once",
        )
    return tuple(named[number] for number in numbers)


def _scores(config: _Config, num_labels: int) -> Scores:
    match config.problem_type:
        case "regression":
            return Scores.LOGITS
        case "multi_label_classification":
            return Scores.SIGMOID
        case "single_label_classification" | None:
            return Scores.SIGMOID if num_labels == 1 else Scores.SOFTMAX
        case other:
            raise ModelError(f"config.json says problem_type = {other!r}, which we don't know")


def _limits(folder: Path, config: _Config, sentence_bert: _SentenceBert) -> tuple[int, int]:
    """(positions of the network, tokens of one text by the model's settings)."""
    tokenizer = _optional(folder / "tokenizer_config.json", _TokenizerConfig, _TokenizerConfig())
    positions = config.max_position_embeddings
    if positions is not None and config.model_type in _SHIFTED_POSITIONS:
        positions -= (config.pad_token_id or 0) + 1
    told = tokenizer.model_max_length
    named = int(told) if told is not None and told < _UNBOUNDED else None
    max_positions = _count("max_position_embeddings", positions, named or DEFAULT_MAX_TOKENS)
    max_tokens = sentence_bert.max_seq_length or named or max_positions
    return max_positions, _count("max_seq_length", min(max_tokens, max_positions), max_positions)


def _prompt(folder: Path, modules: _Modules) -> str:
    prompts = _optional(folder / "config_sentence_transformers.json", _Prompts, _Prompts())
    prompt = (prompts.prompts or {}).get(prompts.default_prompt_name or "", "")
    if prompt and not modules.includes_prompt:
        raise ModelError(f"{folder.name} pools without its prompt {prompt!r}, which we can't do")
    return prompt


def _read_modules(folder: Path) -> _Modules:
    """What sentence-transformers would do behind the network."""
    path = folder / "modules.json"
    if not path.exists():
        return _Modules(Pooling.MEAN, scales_to_unit=True, includes_prompt=True)
    modules = _decode(path, tuple[_Module, ...])
    kinds = [module.type.rpartition(".")[2] for module in modules[:MAX_MODULES]]
    unknown = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    if unknown or kinds[:2] != ["Transformer", "Pooling"] or len(modules) > MAX_MODULES:
        chain = ", ".join(kinds)
        raise ModelError(
            f"modules.json of {folder.name} has the modules {chain}",
            hint="Transformer, Pooling and Normalize, in this order, are what we can run",
        )
    pooling, includes_prompt = _read_pooling(folder, modules[1].path)
    return _Modules(pooling, "Normalize" in kinds, includes_prompt)


def _read_pooling(folder: Path, name: str) -> tuple[Pooling, bool]:
    if not _PLAIN_FOLDER.fullmatch(name):
        raise ModelError(f"modules.json names the folder {name!r}, which is not one of {folder.name}")
    config = _decode(folder / name / "config.json", _PoolingConfig)
    modes = config.modes()
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise ModelError(
            f"{name}/config.json pools by {' and '.join(modes) or 'nothing'}",
            hint=f"one of {', '.join(sorted(_POOLINGS))} is what we can do",
        )
    return _POOLINGS[modes[0]], config.include_prompt


def _beside(folder: Path, path: Path, name: str) -> Path:
    """The file of that name in the folder, or beside the network."""
    for candidate in (folder / name, path.parent / name):
        if candidate.is_file():
            return candidate
    raise ModelError(f"{folder} has no {name}", hint="a folder of the HF layout has one")


def _optional(path: Path, shape: type[Shape], default: Shape) -> Shape:
    return _decode(path, shape) if path.exists() else default


def _decode(path: Path, shape: type[Shape], max_bytes: int = MAX_CONFIG_BYTES) -> Shape:
    with model_file(path) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ModelError(
            f"{path.name} has more than {max_bytes} bytes", hint="the file is damaged or hostile"
        )
    try:
        return msgspec.json.decode(data, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ModelError(f"{path.name} of {path.parent.name} is not what it should be: {exc}") from exc


def _count(name: str, value: int | None, default: int) -> int:
    """`value`, or what to take where there is none.

    Raises:
        ModelError: it is not a count that a model can have.
    """
    found = default if value is None else value
    if not 1 <= found <= 10_000_000:
        raise ModelError(f"config.json says {name} = {found}", hint="the file is damaged or hostile")
    return found
