"""Writes a GGUF model of Llama's kind for servers that read safetensors: the same weights in bfloat16.

PEERS/vllm/bin/python bench/peers/hf_model.py MODEL.gguf FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def main() -> None:
    source, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    place = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    AutoTokenizer.from_pretrained(**place).save_pretrained(folder)
    whole = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.bfloat16, quantization_config=whole)
    model.config.quantization_config = None  # a server that reads it must not look for packed weights
    model.save_pretrained(folder)
    print(folder)


if __name__ == "__main__":
    main()
