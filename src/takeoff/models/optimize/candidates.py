"""The settings that a search tries, and how they are called."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from takeoff.models.gguf import GgufFile
from takeoff.models.machine import Machine
from takeoff.models.requantise import BITS
from takeoff.models.variants import Recipe
from takeoff.settings import ReaderSettings

WIDE_BITS = 16  # a source of as many bits can become any format without being requantised
FORMATS = ("Q8_0", "Q4_1", "BF16", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_NL", "Q4_0")
MIXED_IN = ("IQ4_NL", "Q4_0")  # of a few tensors, where the whole model would lose too much
PREFIX = "opt-"  # of the names of variants that a search makes
UBATCHES = (256, 1024)
KV_TYPES = ("q8_0",)

# Tensors that are of one kind, by their names (gguf-py/gguf/constants.py, TENSOR_NAMES).
GROUPS = {
    "ffn_up, ffn_gate": r"ffn_(up|gate)",
    "ffn_down": r"ffn_down",
    "attn_q, attn_k": r"attn_(q|k|qkv)\.",
    "attn_v, attn_output": r"attn_(v|output)",
    "embedding, output": r"^(token_embd|output)\.weight",
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """One setting. `recipe` None: the weights as they are."""

    threads: int
    threads_prefill: int
    batch: int
    ubatch: int
    flash_attention: bool = True
    kv_type: str = "f16"
    recipe: Recipe | None = None
    label: str = field(default="as shipped", compare=False)

    @property
    def names(self) -> dict[str, Any]:
        """Reader settings by their names, without the weights."""
        return {
            "threads": self.threads,
            "threads_prefill": self.threads_prefill,
            "batch": self.batch,
            "ubatch": self.ubatch,
            "flash_attention": "on" if self.flash_attention else "off",
            "kv_type": self.kv_type,
        }


def default_candidate(settings: ReaderSettings, machine: Machine) -> Candidate:
    """What `serve --no-optimize` would run."""
    threads = settings.threads or machine.cores
    return Candidate(threads, settings.threads_prefill or threads, settings.batch, settings.ubatch)


def formats(model: GgufFile) -> Iterator[Recipe]:
    """Whole-model formats that differ from the model's own, the likeliest first."""
    own = BITS.get(model.quantisation, 0)
    for name in FORMATS:
        if name == model.quantisation or (own < WIDE_BITS and name in ("Q5_K_M", "Q4_K_M")):
            continue  # the mixtures are for sources that nobody has quantised before
        yield Recipe(f"{PREFIX}{name}", name)


def mixture(base: Recipe, small: str, groups: list[str]) -> Recipe:
    """`base` with the tensors of some groups in a smaller format."""
    patterns = tuple((GROUPS[group], small) for group in groups)
    letters = "".join(str(list(GROUPS).index(group)) for group in groups)
    embedding = small if "embedding, output" in groups else None
    name = f"{base.name}-{small}-{letters}"
    return Recipe(name, base.file_type, patterns, output_type=embedding, embedding_type=embedding)


def group_bytes(model: GgufFile) -> dict[str, int]:
    """What the matrices of each group of tensors take; groups that the model does not have are left out."""
    sizes = {
        group: sum(
            each.num_bytes
            for each in model.tensors
            if len(each.shape) > 1 and re.search(pattern, each.name) is not None
        )
        for group, pattern in GROUPS.items()
    }
    return {group: size for group, size in sizes.items() if size}


def bearing_groups(costs: Mapping[str, float], sizes: Mapping[str, int], room: float) -> list[str]:
    """The groups to make coarser: those first that shrink most for what they cost, as long as there is room.

    Args:
        costs: by group, what it alone adds to the divergence; together they add about the sum.
        sizes: by group, bytes of its tensors: what a step reads and computes is in proportion.
        room: for divergence.
    """
    chosen: list[str] = []
    for group in sorted(costs, key=lambda each: costs[each] / sizes[each]):
        if costs[group] <= room:
            room -= costs[group]
            chosen.append(group)
    return chosen


def thread_counts(machine: Machine, logical: int) -> list[int]:
    """Numbers of threads worth a try beside one for each core."""
    counts = {max(1, machine.cores // 2), machine.cores - 1, logical}
    return sorted(counts - {machine.cores, 0}, reverse=True)


def variations(best: Candidate, machine: Machine, logical: int, *, with_memory: bool) -> Iterator[Candidate]:
    """Settings that differ from `best` in one point other than the weights."""
    for count in thread_counts(machine, logical):
        yield replace(best, threads=count, label=f"{count} threads that decode")
        yield replace(best, threads_prefill=count, label=f"{count} threads that prefill")
    for size in UBATCHES:
        if size != best.ubatch and size <= best.batch:
            yield replace(best, ubatch=size, label=f"ubatch {size}")
    if best.batch > 512:
        yield replace(best, batch=512, ubatch=min(512, best.ubatch), label="batch 512")
    if best.kv_type in ("f16", "bf16"):
        yield replace(
            best,
            flash_attention=not best.flash_attention,
            label=f"flash attention {_on(not best.flash_attention)}",
        )
    if with_memory and best.flash_attention:
        for kv_type in KV_TYPES:
            yield replace(best, kv_type=kv_type, label=f"KV cache {kv_type}")


def described(recipe: Recipe) -> str:
    """A recipe's name for people."""
    base = recipe.file_type
    names = {pattern: group for group, pattern in GROUPS.items()}
    small = [names.get(pattern, pattern) for pattern, _ in recipe.tensor_types]
    if not small:
        return base
    kind = recipe.tensor_types[0][1]
    return f"{base}, {kind} in {re.sub(', ', ' ', ' and '.join(small))}"


def _on(value: bool) -> str:
    return "on" if value else "off"
