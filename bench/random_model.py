"""Writes a Llama of random weights: the right amount of work for the kernels, and no sense in its text.

    python bench/random_model.py FILE.gguf [--layers 26 --width 896 --vocabulary 151936 ...]

The defaults make half a billion parameters with a vocabulary of 151,936 tokens, in Q8_0.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import quantize


def byte_tokens() -> list[str]:
    """The 256 tokens that byte-level vocabularies begin with: a printable character for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(moved)) for byte in range(256)]


def tensors(options: argparse.Namespace) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor; embedding and output share one."""
    width, hidden, kv = options.width, options.feed_forward, options.width // options.heads * options.kv_heads
    yield "token_embd.weight", (options.vocabulary, width)
    yield "output_norm.weight", (width,)
    for layer in range(options.layers):
        for name, shape in {
            "attn_norm": (width,),
            "attn_q": (width, width),
            "attn_k": (kv, width),
            "attn_v": (kv, width),
            "attn_output": (width, width),
            "ffn_norm": (width,),
            "ffn_gate": (hidden, width),
            "ffn_up": (hidden, width),
            "ffn_down": (width, hidden),
        }.items():
            yield f"blk.{layer}.{name}.weight", shape


def write(options: argparse.Namespace) -> int:
    """Write the file; returns its number of parameters."""
    writer = gguf.GGUFWriter(str(options.file), "llama")
    writer.add_name("random")
    writer.add_context_length(options.context)
    writer.add_embedding_length(options.width)
    writer.add_block_count(options.layers)
    writer.add_feed_forward_length(options.feed_forward)
    writer.add_head_count(options.heads)
    writer.add_head_count_kv(options.kv_heads)
    writer.add_rope_dimension_count(options.width // options.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(options.vocabulary)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    tokens = byte_tokens()
    tokens += [f"<{number}>" for number in range(options.vocabulary - len(tokens))]
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(tokens))
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(options.vocabulary - 1)
    rng = np.random.default_rng(options.seed)
    count = 0
    for name, shape in tensors(options):
        count += int(np.prod(shape))
        if len(shape) == 1:
            writer.add_tensor(name, np.ones(shape, np.float32))
            continue
        values = rng.standard_normal(shape, np.float32) / np.float32(shape[-1] ** 0.5)
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file(progress=True)
    writer.close()
    return count


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    for name, default in {
        "layers": 26, "width": 896, "heads": 14, "kv-heads": 2,
        "feed-forward": 4864, "vocabulary": 151_936, "context": 8192, "seed": 1,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    print(f"{write(options):,} parameters in {options.file}")


if __name__ == "__main__":
    main()
