"""An engine in this process, without server or sockets, for the scripts that time its parts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from takeoff.engine.engine import Engine
from takeoff.engine.llama.kernels import LlamaKernels
from takeoff.engine.llama.model import LlamaModel
from takeoff.ipc.messages import Load, Submit
from takeoff.models.machine import read_machine
from takeoff.request import SamplingParams, TokenEvent


def make_load(path: Path, *, n_slots: int, n_ctx_slot: int, **named: Any) -> Load:
    """For a model on all cores, without a prefix cache; `named` are more of its fields."""
    cores = read_machine().cores
    load = Load(
        model_path=str(path),
        n_slots=n_slots,
        n_ctx_slot=n_ctx_slot,
        n_batch=2048,
        n_ubatch=512,
        n_threads=cores,
        n_threads_prefill=cores,
        n_gpu_layers=0,
        flash_attention=True,
        deterministic=False,
        cache_bytes=0,
        itl_slo_ms=None,
    )
    return msgspec.structs.replace(load, **named)


class InProcess:
    """Submit requests, step, and read the counters. Close it: it holds the model."""

    def __init__(
        self,
        path: Path,
        *,
        n_slots: int = 32,
        n_ctx_slot: int = 512,
        deterministic: bool = False,
        itl_slo_ms: float | None = None,
        speculation: bool = False,
    ) -> None:
        load = make_load(
            path,
            n_slots=n_slots,
            n_ctx_slot=n_ctx_slot,
            flash_attention=not deterministic,
            deterministic=deterministic,
            itl_slo_ms=itl_slo_ms,
            speculation=speculation,
            n_outputs=16,
        )
        self.token_ids: dict[int, list[int]] = {}
        kernels = LlamaKernels(load, LlamaModel(load))
        self.engine = Engine(load, kernels, self._take)

    def _take(self, events: list[TokenEvent]) -> None:
        for event in events:
            self.token_ids.setdefault(event.request_id, []).extend(event.token_ids)

    def prompt(self, number: int, size: int) -> list[int]:
        """Some `size` token ids, others for each `number`."""
        n_vocab = self.engine.kernels.n_vocab
        return [(number * 977 + place * 31) % (n_vocab - 300) + 256 for place in range(size)]

    def submit(self, number: int, size: int, params: SamplingParams) -> None:
        """Ask to complete a prompt of `size` tokens."""
        self._submit(number, self.prompt(number, size), params)

    def start(self, numbers: range, size: int, params: SamplingParams) -> None:
        """Submit a prompt of `size` tokens for each number, and step until all of them decode."""
        self.start_prompts({number: self.prompt(number, size) for number in numbers}, params)

    def start_prompts(self, prompts: Mapping[int, list[int]], params: SamplingParams) -> None:
        """Submit these, and step until all of them decode."""
        for number, prompt in prompts.items():
            self._submit(number, prompt, params)
        while not all(self.token_ids[number] for number in prompts):
            self.engine.step()

    def _submit(self, number: int, prompt: list[int], params: SamplingParams) -> None:
        self.token_ids[number] = []
        self.engine.submit(Submit(number, prompt, params, tenant=""))

    def run_until_idle(self) -> None:
        while not self.engine.is_idle:
            self.engine.step()

    def time_steps(self, num_steps: int) -> dict[str, float]:
        """Milliseconds a step, in all and of each kind of work that the counters know."""
        before, started = self.engine.counters.snapshot(), time.perf_counter()
        for _ in range(num_steps):
            self.engine.step()
        seconds, after = time.perf_counter() - started, self.engine.counters.snapshot()
        parts = {
            name.removesuffix("_seconds"): 1e3 * (value - before.get(name, 0.0)) / num_steps
            for name, value in after.items()
            if name.endswith("_seconds")
        }
        return {"move": 0.0} | parts | {"step": 1e3 * seconds / num_steps}

    def cancel(self, numbers: range | list[int]) -> None:
        for number in numbers:
            self.engine.cancel(number)

    def close(self) -> None:
        self.engine.kernels.close()
