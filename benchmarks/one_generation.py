"""One way of generating, measured: `python -m benchmarks.one_generation JSON`, the fields of a Writing.

Prompts and answers are the peer's: 16 to 32 tokens of one text, answers of full length unless something stops them. A
warm-up comes first; then answers of full length and of one token are timed in turn. What a step of decoding takes is
the difference of the two medians over the steps between them.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch.nn import functional

from benchmarks.apart import argument
from benchmarks.generation import Writing
from benchmarks.host import host, peak_mb, wait
from benchmarks.inputs import peer_prompts

Rows = list[tuple[int, ...]]
PACKED = ("_reorder_linear_weight", "_linear_pointwise")
Write = Callable[[int], int]
"""Answers all prompts with at most so many tokens; returns how many tokens the answers have in all."""


def measured(writing: Writing) -> dict[str, Any]:
    """Tokens a second, the seconds of a step, peak memory."""
    if writing.threads:
        torch.set_num_threads(writing.threads)
    from clearppo.engines.local import keep_freed_memory, select_device
    from clearppo.models.loading import load_tokenizer

    device = select_device(writing.device)
    if writing.keep and device.type == "cpu":
        keep_freed_memory()
    tokenizer = load_tokenizer(writing.model)
    rows = peer_prompts(
        tokenizer, batch=writing.batch, iters=1, shortest=writing.prompt_min, longest=writing.prompt_max
    )[: writing.batch]
    stops = stop_ids(tokenizer, writing.stop)
    write, floor = WRITERS[writing.who](writing, tokenizer, rows, stops, device)
    write(min(2, writing.response_length))
    whole: list[float] = []
    first: list[float] = []
    tokens: list[int] = []
    for _ in range(writing.repeats):
        for length, seconds in ((writing.response_length, whole), (1, first)):
            wait(device)
            start = time.perf_counter()
            n = write(length)
            wait(device)
            seconds.append(time.perf_counter() - start)
            if length == writing.response_length:
                tokens.append(n)
    steps = writing.response_length - 1
    return {
        "writing": asdict(writing),
        "seconds": statistics.median(whole),
        "tokens": statistics.median(tokens),
        "tokens_per_s": statistics.median(n / s for n, s in zip(tokens, whole, strict=True)),
        "prefill_s": statistics.median(first),
        "step_ms": None if writing.stop or writing.slots or steps < 1 else _step_ms(whole, first, steps),
        "floor_ms": floor,
        "memory": {"peak_mb": peak_mb()},
        "host": host(),
    }


def _step_ms(whole: list[float], first: list[float], steps: int) -> float:
    return 1000 * (statistics.median(whole) - statistics.median(first)) / steps


def stop_ids(tokenizer: Any, text: str) -> frozenset[int]:
    """All tokens whose text holds this one; none for an empty one."""
    if not text:
        return frozenset()
    return frozenset(i for i in range(len(tokenizer)) if text in tokenizer.decode([i]))


def padded(rows: Rows, pad_id: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Left-padded ids and their mask."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad_id] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def clearppo_writer(
    writing: Writing, tokenizer: Any, rows: Rows, stops: frozenset[int], device: torch.device
) -> tuple[Write, float]:
    """ClearPPO's sampler, as a run of PPO uses it; float32, or the bfloat16 of autocast."""
    from clearppo.batch import Prompts
    from clearppo.models.build import make_policy
    from clearppo.models.loading import load_causal_lm
    from clearppo.rollout.decoder import make_decoder
    from clearppo.rollout.inprocess import InProcessSampler
    from clearppo.rollout.sampler import SamplingSettings

    policy = make_policy(load_causal_lm(writing.model).to(device), autocast=writing.dtype == "bfloat16")
    ids, mask = padded(rows, tokenizer.eos_token_id, device)
    prompts = Prompts(ids=ids, mask=mask.bool(), texts=("",) * len(rows), columns={})
    decoder = make_decoder(policy.actor, dtype=torch.bfloat16 if policy.actor.autocast else None)

    def write(length: int) -> int:
        settings = SamplingSettings(max_tokens=length, stop_token_ids=stops, max_batch_size=writing.slots or None)
        sampler = InProcessSampler(policy, tokenizer, settings, seed=0, decoder=decoder)
        return int(sampler.generate(prompts).mask.sum())

    return write, 1000 * matrix_floor(policy.actor.causal_lm, writing.slots or len(rows), getattr(torch, writing.dtype))


def transformers_writer(
    writing: Writing, tokenizer: Any, rows: Rows, stops: frozenset[int], device: torch.device
) -> tuple[Write, None]:
    """`generate` of transformers, with its weights in this precision; in slices of `slots` rows."""
    from transformers import GenerationConfig

    from clearppo.models.loading import load_causal_lm

    model: Any = load_causal_lm(writing.model, dtype=getattr(torch, writing.dtype)).to(device)
    size = writing.slots or len(rows)

    @torch.no_grad()
    def write(length: int) -> int:
        how = GenerationConfig(
            max_new_tokens=length, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
            pad_token_id=tokenizer.eos_token_id, eos_token_id=sorted(stops) or None,
        )  # fmt: skip
        n = 0
        for start in range(0, len(rows), size):
            ids, mask = padded(rows[start : start + size], tokenizer.eos_token_id, device)
            out = model.generate(input_ids=ids, attention_mask=mask, generation_config=how)
            n += sum(_until(answer, stops) for answer in out[:, ids.shape[1] :].tolist())
        return n

    return write, None


def vllm_writer(
    writing: Writing, tokenizer: Any, rows: Rows, stops: frozenset[int], device: torch.device
) -> tuple[Write, None]:
    """vLLM, where it is installed."""
    from vllm import LLM, SamplingParams  # noqa: TID251  (the peer, in a process of its own)

    engine = LLM(model=writing.model, dtype=writing.dtype, max_num_seqs=writing.slots or len(rows))
    prompts: Any = [{"prompt_token_ids": list(row)} for row in rows]

    def write(length: int) -> int:
        how = SamplingParams(
            max_tokens=length, temperature=1.0, ignore_eos=True, stop_token_ids=sorted(stops), detokenize=False
        )
        return sum(len(answer.outputs[0].token_ids) for answer in engine.generate(prompts, how, use_tqdm=False))

    return write, None


WRITERS: dict[str, Callable[..., tuple[Write, float | None]]] = {
    "clearppo": clearppo_writer,
    "transformers": transformers_writer,
    "vllm": vllm_writer,
}


def _until(tokens: list[int], stops: frozenset[int]) -> int:
    """Tokens up to and with the first stop."""
    return next((i + 1 for i, token in enumerate(tokens) if token in stops), len(tokens))


@torch.no_grad()
def matrix_floor(model: Any, rows: int, dtype: torch.dtype, repeats: int = 5) -> float:
    """Seconds of the matrix products alone that one step of decoding needs for so many rows: nothing can be faster.

    Each weight once, in the order of the model, packed by oneDNN beforehand where torch can; the best of `repeats`.
    """
    weights = [part.weight.detach() for part in model.modules() if isinstance(part, torch.nn.Linear)]
    inputs = [torch.zeros(rows, weight.shape[1], dtype=dtype, device=weight.device) for weight in weights]
    products = [product(weight.to(dtype, copy=True), rows) for weight in weights]
    device, best = weights[0].device, float("inf")
    for _ in range(repeats):
        wait(device)
        start = time.perf_counter()
        for multiply, x in zip(products, inputs, strict=True):
            multiply(x)
        wait(device)
        best = min(best, time.perf_counter() - start)
    return best


def product(weight: torch.Tensor, rows: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """The fastest product of so many rows with this weight that torch has."""
    if weight.device.type == "cpu":
        pack, multiply = (getattr(torch.ops.mkldnn, name, None) for name in PACKED)
        try:  # private operations: absent in some builds, and for some precisions
            packed = pack(weight, rows)
            multiply(weight.new_zeros(rows, weight.shape[1]), packed, None, "none", [], "")
        except (TypeError, RuntimeError):  # then the floor is that of plain products
            pass
        else:
            return lambda x: multiply(x, packed, None, "none", [], "")
    return lambda x: functional.linear(x, weight)


if __name__ == "__main__":
    print(json.dumps(measured(Writing(**argument()))))
