"""A GGUF file of a few kilobytes whose structure is right, for tests that never load it."""

from pathlib import Path

import gguf
import numpy as np


def write_tiny_gguf(path: Path, num_floats: int = 65_536) -> bytes:
    """Write a one-block model with `num_floats` floats of weights; returns the file's bytes."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_context_length(2048)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"token {i}" for i in range(num_floats // 32)])
    values = np.random.default_rng(7).standard_normal(num_floats).astype(np.float32)
    writer.add_tensor("token_embd.weight", values.reshape(-1, 32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()
