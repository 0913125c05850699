"""Images on real language models: the same tokens as mtmd's own loop, alone, in company, and found again."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import llama_cpp.llama_cpp as C  # noqa: N812
import llama_cpp.mtmd_cpp as M  # noqa: N812
import numpy as np
import pytest
from tests.engine.real import RealEngine
from tests.models.vision_files import NUM_TOKENS, write_projector

from takeoff.engine.llama.backends import keep_rows_alike
from takeoff.engine.llama.library import load_model
from takeoff.errors import InvalidRequest
from takeoff.ipc.messages import Image, PlacedImage, Submit
from takeoff.prepare.prompt import IMAGE_MARK, PromptBuilder
from takeoff.prepare.tokenizer import Tokenizer
from takeoff.request import SamplingParams

COUNT = 16
SURE = 8  # tokens after which another cut of the prompt has not yet tipped a near tie
GREEDY = SamplingParams(temperature=0.0, max_new_tokens=COUNT, ignore_eos=True, seed=0)
TEXT = f"A picture from the harbour: {IMAGE_MARK}\nWhat it shows is"


def picture(seed: int, side: int = 90) -> Image:
    """Coloured noise in blocks, so that resizing leaves something of it."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (side // 10, side // 10, 3), np.uint8)
    rgb = blocks.repeat(10, 0).repeat(10, 1).tobytes()
    return Image(hashlib.sha256(rgb).digest(), side, side, rgb)


@dataclass
class Case:
    """A language model with a projector for it, in our engine and in mtmd's own loop."""

    kind: str
    engine: RealEngine
    tokenizer: Tokenizer
    reference: Callable[[str, Image], list[int]]

    def submit(self, request_id: int, text: str, image: Image) -> list[int]:
        ids, (place,) = PromptBuilder(self.tokenizer).build_around(text, "off", 1)
        self.engine.submit_with_image(request_id, ids, place, image, GREEDY)
        return ids

    def complete(self, request_id: int, text: str, image: Image) -> list[int]:
        self.submit(request_id, text, image)
        self.engine.run_until_idle()
        return self.engine.token_ids(request_id)

    def num_cached(self, request_id: int) -> int:
        return self.engine.events[request_id][0].cached_tokens


def mtmd_loop(model_path: Path, projector: Path, tokenizer: Tokenizer) -> Callable[[str, Image], list[int]]:
    """llama.cpp's own way, from mtmd_tokenize to the last token, with nothing of ours."""
    model = load_model(str(model_path), n_gpu_layers=0)
    params = C.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = 1024, 1024, 512
    params.n_threads = params.n_threads_batch = 2
    params.flash_attn_type = 1
    context = C.llama_init_from_model(model, params)
    settings = M.mtmd_context_params_default()
    settings.n_threads = 1
    mtmd = M.mtmd_init_from_file(str(projector).encode(), model, settings)
    assert mtmd
    vocab = C.llama_model_get_vocab(model)
    n_vocab = C.llama_vocab_n_tokens(vocab)
    ends = [token_id for token_id in range(n_vocab) if C.llama_vocab_is_eog(vocab, token_id)]

    def complete(text: str, image: Image) -> list[int]:
        C.llama_memory_clear(C.llama_get_memory(context), True)
        marked = text.replace(IMAGE_MARK, M.mtmd_default_marker().decode()).encode()
        bos = tokenizer.adds_bos
        given = M.mtmd_input_text(text=marked, text_len=len(marked), add_special=bos, parse_special=True)
        pixels = (ctypes.c_uint8 * len(image.rgb)).from_buffer_copy(image.rgb)
        bitmaps = (M.mtmd_bitmap_p_ctypes * 1)(M.mtmd_bitmap_init(image.width, image.height, pixels))
        chunks = M.mtmd_input_chunks_init()
        assert M.mtmd_tokenize(mtmd, chunks, ctypes.byref(given), bitmaps, 1) == 0
        past = C.llama_pos(0)
        assert M.mtmd_helper_eval_chunks(mtmd, context, chunks, 0, 0, 1024, True, ctypes.byref(past)) == 0
        M.mtmd_input_chunks_free(chunks)
        M.mtmd_bitmap_free(bitmaps[0])
        said: list[int] = []
        while True:
            logits = np.ctypeslib.as_array(C.llama_get_logits_ith(context, -1), (n_vocab,)).copy()
            logits[ends] = -np.inf
            said.append(int(logits.argmax()))
            if len(said) == COUNT:
                return said
            token = (C.llama_token * 1)(said[-1])
            assert C.llama_decode(context, C.llama_batch_get_one(token, 1)) == 0

    return complete


@pytest.fixture(scope="module", params=["mlp", "gemma3"])
def case(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    smollm2_path: Path,
    gemma_q8_path: Path,
) -> Iterator[Case]:
    path, n_embd = {"mlp": (smollm2_path, 576), "gemma3": (gemma_q8_path, 640)}[request.param]
    projector = tmp_path_factory.mktemp("vision") / "mmproj.gguf"
    write_projector(projector, n_embd=n_embd, kind=request.param)
    keep_rows_alike()  # a row alone is computed by another kernel than rows in company
    engine = RealEngine(path, n_slots=4, n_ctx_slot=1024, projector=projector)
    tokenizer = Tokenizer(str(path))
    yield Case(request.param, engine, tokenizer, mtmd_loop(path, projector, tokenizer))
    engine.close()


def test_the_tokens_are_those_of_mtmds_own_loop(case: Case) -> None:
    answers = []
    for number in range(2):
        got = case.complete(100 + number, TEXT, picture(number))
        assert got[:SURE] == case.reference(TEXT, picture(number))[:SURE]
        answers.append(tuple(got))
    assert len(set(answers)) == 2, "an image changes what is said of it"


def test_an_image_is_read_in_company_as_alone(case: Case) -> None:
    alone = [case.complete(200 + number, TEXT, picture(10 + number)) for number in range(2)]
    case.engine.submit(210, case.tokenizer.tokenize("Once upon a time", parse_special=True), GREEDY)
    case.engine.engine.step()
    for number in range(2):
        case.submit(220 + number, TEXT, picture(10 + number))
    case.engine.run_until_idle()
    assert [case.engine.token_ids(220 + number) for number in range(2)] == alone
    assert len(case.engine.token_ids(210)) == COUNT


def test_the_same_image_is_not_computed_twice_and_another_is(case: Case) -> None:
    first = case.complete(300, TEXT, picture(30))
    before = len(case.tokenizer.tokenize("A picture from the harbour: ", parse_special=True))
    assert case.num_cached(300) < before + NUM_TOKENS[case.kind]
    if case.kind == "gemma3":  # a sliding window: the second prompt shows where to fork, the third forks
        case.complete(303, TEXT, picture(30))
    again = case.complete(301, TEXT, picture(30))
    assert again == first
    assert case.num_cached(301) >= before + NUM_TOKENS[case.kind]
    other = case.complete(302, TEXT, picture(31))
    assert other[:SURE] == case.reference(TEXT, picture(31))[:SURE]
    assert case.num_cached(302) <= before + 2  # the text before the image, and its opening tokens


def test_two_images_stand_where_the_text_says(case: Case) -> None:
    """The order is what distinguishes the two prompts."""
    text = f"One: {IMAGE_MARK}\nTwo: {IMAGE_MARK}\nTogether they are"
    ids, places = PromptBuilder(case.tokenizer).build_around(text, "off", 2)
    assert case.engine.images
    said = []
    for request_id, seeds in ((400, (40, 41)), (401, (41, 40))):
        placed = [PlacedImage(picture(seed), place) for seed, place in zip(seeds, places, strict=True)]
        prompt = case.engine.images.place(ids, placed)
        assert len(prompt.spans) == 2
        case.engine.engine.submit(Submit(request_id, ids, GREEDY, ""), prompt=prompt)
        case.engine.run_until_idle()
        said.append(case.engine.token_ids(request_id))
    assert said[0] != said[1]


def test_an_image_too_large_for_a_call_is_refused(case: Case) -> None:
    if case.kind == "mlp":
        return
    projector = case.engine.images._projector  # type: ignore[union-attr]
    projector._max_whole = 8  # type: ignore[attr-defined]
    try:
        with pytest.raises(InvalidRequest, match=r"the image has 16 tokens, and 8 can be computed at once"):
            projector.read(picture(50))
    finally:
        projector._max_whole = 512  # type: ignore[attr-defined]
