"""The default model's vocabulary with the control tokens of all big families, for their templates."""

from pathlib import Path

import gguf

CONTROL_TEXTS = (
    "<s>", "</s>", "<unk>", "<bos>", "<eos>",
    "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>",
    "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]",
    "[TOOL_RESULTS]", "[/TOOL_RESULTS]",
    "<start_of_turn>", "<end_of_turn>", "<start_of_image>",
    "<|system|>", "<|user|>", "<|assistant|>", "<|end|>",
    "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>",
    "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>", "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>",
    "[THINK]", "[/THINK]", "<|channel>", "<channel|>",
)  # fmt: skip
TEXTS = ("<think>", "</think>")  # tokens of their own that are text all the same


def write_family_vocabulary(model: Path, path: Path, name: str = "families") -> None:
    """Write a GGUF file of `model`'s vocabulary and CONTROL_TEXTS and TEXTS behind it, without weights."""
    fields = gguf.GGUFReader(str(model)).fields

    def value(name: str) -> object:
        return fields[f"tokenizer.ggml.{name}"].contents()

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name(name)  # by which llama.cpp knows Phi-3, whose control tokens take the blanks behind them
    writer.add_tokenizer_model(value("model"))
    writer.add_tokenizer_pre(value("pre"))
    writer.add_token_list([*value("tokens"), *CONTROL_TEXTS, *TEXTS])
    kinds = [gguf.TokenType.CONTROL] * len(CONTROL_TEXTS) + [gguf.TokenType.USER_DEFINED] * len(TEXTS)
    writer.add_token_types([*value("token_type"), *kinds])
    writer.add_token_merges(value("merges"))
    writer.add_bos_token_id(len(value("tokens")))
    writer.add_eos_token_id(len(value("tokens")) + 1)
    writer.add_add_bos_token(False)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
