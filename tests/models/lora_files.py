"""LoRA adapters of random weights for a real model: small, and with effects that can be seen."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from gguf.quants import quantize

from takeoff.models.gguf import read_gguf

F32, Q8_0 = gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.Q8_0


def write_lora(
    path: Path,
    base: Path,
    *,
    seed: int,
    rank: int,
    strength: float,
    targets: tuple[str, ...] = ("attn_q", "attn_v", "attn_output", "ffn_up", "ffn_down"),
    kind: gguf.GGMLQuantizationType = F32,
) -> Path:
    """Write an adapter for the matrices `targets` of every layer of `base`.

    `strength`: how long an adapter's contribution is beside a random vector as long as its input.
    """
    rng = np.random.default_rng(seed)
    model = read_gguf(base)
    writer = gguf.GGUFWriter(str(path), model.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(rank))
    for tensor in model.tensors:
        if tensor.name.split(".")[-2] in targets:
            num_inputs, num_outputs = tensor.shape
            a = rng.standard_normal((rank, num_inputs)) / num_inputs**0.5
            b = rng.standard_normal((num_outputs, rank)) * strength / rank**0.5
            for suffix, matrix in (("lora_a", a), ("lora_b", b)):
                data = quantize(matrix.astype(np.float32), kind)
                writer.add_tensor(f"{tensor.name}.{suffix}", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
