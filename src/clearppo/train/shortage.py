"""Out of memory, in a sentence: in which phase, how much there was, and what to lower first."""

import contextlib
import re
import traceback
from collections.abc import Callable, Iterator

from clearppo.config import PPOConfig, RewardModelConfig, SFTConfig
from clearppo.errors import ShortOfMemoryError

SAID = (
    "out of memory",  # CUDA, HIP and MPS, also from inside a library: "CUDA error: out of memory"
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""How allocators say it; torch.OutOfMemoryError is a RuntimeError with such words too."""
OTHERWISE = "Use a smaller model, smaller batches, or another --device."
"""What to do where nothing is known of sizes."""
ASKED = re.compile(r"tried to allocate ([\d.]+) ?(bytes|KiB|MiB|GiB)", re.IGNORECASE)
UNITS = {"bytes": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30}
TrainConfig = SFTConfig | RewardModelConfig | PPOConfig
Free = Callable[[], int | None]
"""How many bytes can still be allocated, if anybody knows."""


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that memory does not suffice."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words.lower() in said for words in SAID)
    )


@contextlib.contextmanager
def memory_told(
    config: TrainConfig | None, phase: Callable[[], str], *, tokens: int | None = None, free: Free = lambda: None
) -> Iterator[None]:
    """Turn what allocators say into ShortOfMemoryError, one sentence. `tokens` is what a micro-batch may hold at most,
    as resolved; without a config (other commands) nothing is known of sizes. Other errors pass through."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        asked, left = _asked(error), free()
        # The frames of what failed hold its tensors, and saving what was learned will need memory.
        traceback.clear_frames(error.__traceback__)
        sizes = [f"asked for {_size(asked)}"] if asked else []
        sizes += [f"{_size(left)} free"] if left is not None else []
        numbers = f" ({', '.join(sizes)})" if sizes else ""
        raise ShortOfMemoryError(f"out of memory, {phase()}{numbers}. {_mend(config, phase(), tokens)}") from error


def _mend(config: TrainConfig | None, phase: str, tokens: int | None) -> str:
    """What to lower, the most useful first."""
    if config is None:
        return OTHERWISE
    if phase.startswith("loading"):
        return f"Use a smaller model or --dtype bfloat16 (now {config.model.dtype}){_other(config)}."
    run = config.run
    if isinstance(config, PPOConfig) and phase.startswith(("sampling", "checking", "measuring")):
        sampling = config.sampling
        at_once = sampling.generation_batch_size or run.batch_size
        first, then = f"--generation_batch_size (now {at_once})", f"--response_length (now {sampling.response_length})"
    else:
        first = f"--max_tokens_per_microbatch (now {'none' if tokens is None else tokens})"
        then = f"--micro_batch_size (now {run.micro_batch_size})"
    return f"Lower {first} first, then {then}{_other(config)}."


def _other(config: TrainConfig) -> str:
    """What saves memory in other ways and is not used yet."""
    model = config.model
    unused = [] if model.gradient_checkpointing else ["--gradient_checkpointing true"]
    unused += [] if model.use_peft else ["--use_peft true"]
    return f"; or use {' or '.join(unused)}" if unused else ""


def _asked(error: BaseException) -> int | None:
    found = ASKED.search(str(error))
    return None if found is None else int(float(found[1]) * UNITS[found[2].lower()])


def _size(n: int) -> str:
    return f"{n / 1e9:.2f} GB" if n >= 1e7 else f"{n / 1e6:.2f} MB"
