"""An engine on real kernels and weights, in this process: no sockets, no threads."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from takeoff.engine.engine import Engine
from takeoff.engine.images import ImageReader
from takeoff.engine.llama.kernels import make_kernels
from takeoff.engine.llama.model import LlamaModel
from takeoff.ipc.messages import Image, Load, Lora, PlacedImage, SlotClass, Submit
from takeoff.request import FinishReason, SamplingParams, TokenEvent


class RealEngine:
    """Submit prompts as token ids, run, read what came out. Close it: it holds hundreds of MB."""

    def __init__(
        self,
        model: Path,
        *,
        n_slots: int = 4,
        n_ctx_slot: int = 2048,
        flash_attention: bool = True,
        deterministic: bool = False,
        speculation: bool = False,
        itl_slo_ms: float | None = None,
        cache_mb: int = 256,
        loras: Sequence[Lora] = (),
        projector: Path | None = None,
        slot_classes: Sequence[SlotClass] = (),
        kv_type: str = "f16",
        arena_fd: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        slot_classes = slot_classes or (SlotClass(n_slots, n_ctx_slot),)
        load = Load(
            model_path=str(model),
            n_slots=sum(slots.n_slots for slots in slot_classes),
            n_ctx_slot=slot_classes[-1].n_ctx,
            n_batch=2048,
            n_ubatch=512,
            n_threads=2,
            n_threads_prefill=2,
            n_gpu_layers=0,
            flash_attention=flash_attention,
            deterministic=deterministic,
            cache_bytes=cache_mb << 20,
            arena_fd=arena_fd,
            itl_slo_ms=itl_slo_ms,
            loras=list(loras),
            slot_classes=list(slot_classes),
            parking_bytes=64 << 20,
            kv_type=kv_type,
            speculation=speculation,
            n_outputs=16,
        )
        load, self.kernels = make_kernels(load, LlamaModel(load))
        self.images = projector and ImageReader(self.kernels.open_projector(str(projector), n_threads=1))
        self.events: defaultdict[int, list[TokenEvent]] = defaultdict(list)
        self.engine = Engine(load, self.kernels, self._note, clock)

    def _note(self, events: list[TokenEvent]) -> None:
        for event in events:
            self.events[event.request_id].append(event)

    def submit(
        self,
        request_id: int,
        prompt: list[int],
        params: SamplingParams,
        tenant: str = "",
        lora: str | None = None,
    ) -> None:
        self.engine.submit(Submit(request_id, prompt, params, tenant, lora=lora))

    def submit_with_image(
        self, request_id: int, prompt: list[int], place: int, image: Image, params: SamplingParams
    ) -> None:
        """A prompt with an image before its token number `place`."""
        assert self.images, "made with a projector"
        submit = Submit(request_id, prompt, params, "")
        self.engine.submit(submit, prompt=self.images.place(prompt, [PlacedImage(image, place)]))

    def is_done(self, request_id: int) -> bool:
        events = self.events[request_id]
        return bool(events) and events[-1].finish_reason is not None

    def run_until_idle(self) -> None:
        while not self.engine.is_idle:
            self.engine.step()

    def complete(
        self,
        request_id: int,
        prompt: list[int],
        params: SamplingParams,
        tenant: str = "",
        lora: str | None = None,
    ) -> list[int]:
        """The completion of one request that runs alone."""
        self.submit(request_id, prompt, params, tenant, lora)
        self.run_until_idle()
        return self.token_ids(request_id)

    def token_ids(self, request_id: int) -> list[int]:
        return [token_id for event in self.events[request_id] for token_id in event.token_ids]

    def text(self, request_id: int) -> str:
        return "".join(event.text for event in self.events[request_id])

    def finish_reason(self, request_id: int) -> FinishReason | None:
        return self.events[request_id][-1].finish_reason

    def close(self) -> None:
        self.kernels.close()
