"""Projectors of random weights, in the shapes of LLaVA's and of Gemma 3's.

What they say of an image means nothing, but depends on all of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import gguf
import numpy as np

IMAGE_SIDE, PATCH = 56, 7
NUM_PATCHES = (IMAGE_SIDE // PATCH) ** 2
NUM_TOKENS = {"mlp": NUM_PATCHES, "gemma3": NUM_PATCHES // 4}  # of one image


def write_projector(
    path: Path,
    *,
    n_embd: int,
    kind: Literal["mlp", "gemma3"] = "mlp",
    seed: int = 11,
    strength: float = 1.0,
) -> Path:
    """Write a two-layer vision transformer that projects to `n_embd` numbers, about `strength` each."""
    rng = np.random.default_rng(seed)
    width, inner, layers = 64, 128, 2
    writer = gguf.GGUFWriter(str(path), "clip")
    writer.add_string("general.type", "mmproj")
    writer.add_string("clip.projector_type", kind)
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_bool("clip.use_gelu", True)
    for key, value in {
        "image_size": IMAGE_SIDE,
        "patch_size": PATCH,
        "embedding_length": width,
        "feed_forward_length": inner,
        "block_count": layers,
        "projection_dim": n_embd,
        "attention.head_count": 2,
    }.items():
        writer.add_uint32(f"clip.vision.{key}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])

    def add(name: str, *shape: int, scale: float | None = None) -> None:
        by = scale if scale is not None else float(np.prod(shape[1:])) ** -0.5
        writer.add_tensor(name, (rng.standard_normal(shape) * by).astype(np.float32))

    def add_norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(width, np.float32))

    def add_linear(name: str, num_inputs: int, num_outputs: int, scale: float | None = None) -> None:
        add(f"{name}.weight", num_outputs, num_inputs, scale=scale)
        writer.add_tensor(f"{name}.bias", np.zeros(num_outputs, np.float32))

    add("v.patch_embd.weight", width, 3, PATCH, PATCH)
    if kind == "mlp":
        add("v.class_embd", width, scale=1.0)
        add("v.position_embd.weight", NUM_PATCHES + 1, width, scale=0.3)
        add_norm("v.pre_ln")
        add_linear("mm.0", width, width)
        add_linear("mm.2", width, n_embd, scale=strength * width**-0.5)
    else:
        writer.add_uint32("clip.vision.projector.scale_factor", 2)
        add("v.position_embd.weight", NUM_PATCHES, width, scale=0.3)
        add_norm("v.post_ln")
        writer.add_tensor("mm.soft_emb_norm.weight", np.ones(width, np.float32))
        add("mm.input_projection.weight", width, n_embd, scale=strength * width**-0.5)
    for layer in range(layers):
        block = f"v.blk.{layer}"
        add_norm(f"{block}.ln1")
        add_norm(f"{block}.ln2")
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            add_linear(f"{block}.{name}", width, width)
        add_linear(f"{block}.ffn_up", width, inner)
        add_linear(f"{block}.ffn_down", inner, width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
