"""Which files a reader's processes may open: those that their first message names."""

from __future__ import annotations

from takeoff.ipc.messages import Load, LoadEncoder, LoadVocabulary
from takeoff.sandbox.policy import Mode, Policy, with_companions


def policy_of(load: Load | LoadEncoder | LoadVocabulary, mode: Mode) -> Policy:
    """Read the model and what is loaded with it; write only prefixes, where they are kept on disk."""
    readable = [*with_companions(load.model_path)]
    if not isinstance(load, Load):
        return Policy(tuple(readable), mode=mode)
    readable += [lora.path for lora in load.loras]
    if load.projector_path is not None:
        readable.append(load.projector_path)
    writable: tuple[str, ...] = ()
    if load.disk_cache_bytes and load.disk_cache_folder is not None:
        writable = (load.disk_cache_folder,)
    return Policy(tuple(readable), writable, gpu=load.n_gpu_layers != 0, mode=mode)
