"""The cheap part of making a model fast, which `serve` does by itself: a format with fast kernels, once.

Only some formats have kernels on this processor that compute several tokens for one reading of the weights.
A model whose matrices are mostly in others is requantised to Q8_0, which keeps more bits than they have;
it stays so only if a trial of a few seconds finds it faster and as good.
"""

from __future__ import annotations

import re
from pathlib import Path

from takeoff.errors import ModelError
from takeoff.models import disk
from takeoff.models.gguf import GgufFile, Tensor
from takeoff.models.optimize.quick_trial import Trial, try_variant
from takeoff.models.profile import Figures, Fingerprint, Profile, Speed, find_profile, save_profile
from takeoff.models.progress import Progress
from takeoff.models.requantise import BITS, requantise
from takeoff.models.stored import StoredModel
from takeoff.models.variants import (
    Recipe,
    Variant,
    discard_variant,
    model_place,
    source_key,
    variant_model,
)

GOAL = "automatic"
TARGET = "Q8_0"
TARGET_BLOCK = 32  # columns of a matrix come in such blocks
MAX_FILE_BYTES = 512 * 10**6  # of the source: larger ones take minutes, which nobody asked for
LEAST_SHARE = 0.25  # of the matrices' bytes that are slow, for a try
MAX_KL = 0.01
LEAST_GAIN = 1.1  # in tokens/s of the most streams that are tried
LEAST_SINGLE = 0.9  # in tokens/s of one stream: larger weights take longer to read

# Types of fast kernels, by processor: tinyBLAS (ggml/src/ggml-cpu/llamafile/sgemm.cpp) and repacked matrices
# (ggml/src/ggml-cpu/repack.cpp, ggml_repack_get_optimal_repack_type) of the llama.cpp we pin.
_FAST_X86 = frozenset({"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_0", "IQ4_NL", "Q4_K", "MXFP4"})
_FAST_ARM = frozenset({"F32", "F16", "Q8_0", "Q4_0", "IQ4_NL", "Q4_K", "Q5_K", "Q6_K", "MXFP4"})


def fast_types(features: frozenset[str], processor: str, own: frozenset[str] = frozenset()) -> frozenset[str]:
    """Types that compute fast on a processor with these features; none where we don't know.

    `own`: those that our kernels compute there (`own_types`).
    """
    if processor in ("x86_64", "AMD64") and "avx2" in features:
        return _FAST_X86 | own | ({"Q2_K"} if "avx512f" in features else set())
    if processor in ("aarch64", "arm64") and features & {"asimddp", "dotprod"}:
        return _FAST_ARM
    return frozenset()


def faster_format(model: GgufFile, fast: frozenset[str]) -> Recipe | None:
    """How to make its slow matrices fast without losing bits; None where that is not worth a try."""
    matrices = [each for each in model.tensors if len(each.shape) > 1]
    slow = [each for each in matrices if fast and _is_slow(each, fast)]
    share = sum(each.num_bytes for each in slow) / max(1, sum(each.num_bytes for each in matrices))
    if share < LEAST_SHARE:
        return None
    changed = {each.name for each in slow}
    kept = [each for each in matrices if each.name not in changed]
    return Recipe(TARGET, TARGET, tuple((f"^{re.escape(each.name)}$", each.type_name) for each in kept))


def make_automatic_profile(
    model: StoredModel,
    recipe: Recipe,
    home: Path,
    fingerprint: Fingerprint,
    threads: int,
    progress: Progress,
) -> Profile:
    """Make the variant, try it, and keep what came of it; a variant that is no gain is deleted.

    Raises:
        ModelError, PullError: it could not be made, or not be tried now; nothing is kept but the variant.
    """
    place = model_place(model, home)
    with disk.disk_errors(place), disk.locked(place / ".profile.lock", model.name, progress, doing="trying"):
        made = find_profile(model, home, fingerprint, lambda _why: None)
        if made is not None:
            return made.profile
        variant = requantise(model, recipe, home, threads, progress)
        progress.stage(f"trying {recipe.name} beside {model.quantisation}", None)
        trial = try_variant(model.path, variant_model(model, home, variant).path, threads)
        is_gain = _is_gain(trial)
        if not is_gain and trial.is_disturbed:
            raise ModelError("the machine is too busy for a trial; the next start tries again")
        if not is_gain:
            discard_variant(place, variant)
        profile = Profile(
            source=source_key(model),
            fingerprint=fingerprint,
            goal=GOAL,
            sentence=_sentence(model, variant, trial) if is_gain else _no_gain(recipe, trial),
            weights=variant.file if is_gain else None,
            weights_sha256=variant.sha256 if is_gain else None,
            figures=Figures(
                speeds=tuple(
                    Speed(each.streams, each.streams / each.source_s, each.streams / each.variant_s)
                    for each in trial.paces
                ),
                memory_bytes=(model.file_bytes, variant.file_bytes),
                kl=trial.kl,
                perplexity_ratio=trial.perplexity_ratio,
            ),
        )
        save_profile(model, home, profile)
    return profile


def _is_gain(trial: Trial) -> bool:
    single, *_, many = (pace.gain for pace in trial.paces)
    return trial.kl <= MAX_KL and many >= LEAST_GAIN and single >= LEAST_SINGLE


def _sentence(model: StoredModel, variant: Variant, trial: Trial) -> str:
    most, *fewer = reversed(trial.paces)
    gains = f"{most.gain:.1f} × the tokens/s with {most.streams} streams"
    gains += "".join(f", {pace.gain:.1f} × with {pace.streams}" for pace in fewer)
    cost = (variant.file_bytes - model.file_bytes) / 1e6
    made = f"{variant.recipe.name} made of its {model.quantisation}"
    return f"{made}: {gains}, for {cost:,.0f} MB more memory (KL {trial.kl:.4f})"


def _no_gain(recipe: Recipe, trial: Trial) -> str:
    gains = ", ".join(f"{pace.gain:.2f} × of {pace.streams}" for pace in trial.paces)
    return f"{recipe.name} was tried and is no gain: tokens/s {gains}, KL {trial.kl:.4f}"


def _is_slow(tensor: Tensor, fast: frozenset[str]) -> bool:
    """Whether it is computed by slow kernels, and keeps all its bits as TARGET."""
    return (
        tensor.type_name not in fast
        and BITS[tensor.type_name] <= BITS[TARGET]
        and tensor.name.endswith("weight")
        and tensor.shape[0] % TARGET_BLOCK == 0
    )
