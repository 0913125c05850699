"""What is computed for one tenant is found again for him alone: grammars and images."""

from __future__ import annotations

import numpy as np
import pytest
from llguidance import LLMatcher, LLTokenizer

import takeoff.engine.constraint as module
from takeoff.engine.constraint import ConstraintCompiler
from takeoff.engine.images import ImageReader
from takeoff.engine.llama.rows import ImageTokens, Piece
from takeoff.ipc.messages import Image, PlacedImage


def test_a_compiled_grammar_is_found_again_by_its_tenant_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def counted(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
        made.append(grammar)
        return new_matcher(tokenizer, grammar)

    new_matcher = module.new_matcher
    monkeypatch.setattr(module, "new_matcher", counted)
    tokenizer = LLTokenizer("byte")
    compiler = ConstraintCompiler(tokenizer, tokenizer.vocab_size)
    grammar = "start: /a+/"
    num_made = []
    for tenant in ("", "key:1", "key:1", "key:2", "", "key:2"):
        assert compiler.compile(grammar, tenant).accepts("aaa")
        num_made.append(len(made))
    assert num_made == [1, 2, 2, 3, 3, 3]


class CountingProjector:
    def __init__(self) -> None:
        self.num_read = 0

    def read(self, image: Image) -> list[Piece]:
        self.num_read += 1
        return [ImageTokens(np.zeros((4, 8), np.float32), sees_itself=False)]


def test_a_computed_image_is_found_again_by_its_tenant_alone() -> None:
    projector = CountingProjector()
    reader = ImageReader(projector)
    placed = [PlacedImage(Image(b"d" * 32, 1, 1, b"rgb"), 1)]
    num_read = []
    for tenant in ("key:1", "key:1", "key:2", "key:1", "key:2"):
        assert len(reader.place([7, 8], placed, tenant).token_ids) == 6
        num_read.append(projector.num_read)
    assert num_read == [1, 1, 2, 2, 2]
