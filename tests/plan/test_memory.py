"""Bytes by role and phase, by hand."""

from dataclasses import replace

import pytest

from clearppo.plan.job import KEPT_LOGITS
from clearppo.plan.memory import (
    HOLES,
    KERNELS,
    KERNELS_OF_STEP,
    MOST,
    MOST_KERNELS,
    budget,
    kept_and_logits,
    kv_cache,
    lean,
    memory,
    passing_bytes,
    tokens_in,
)
from clearppo.plan.shape import kept_numbers, layer_bytes, token_bytes
from tests.plan.shapes import SMALL, job


def test_what_a_token_keeps_in_a_layer() -> None:
    sizes = {"hidden": 8, "attention": 8, "keys": 4, "wide": 16}
    assert kept_numbers(**sizes, fused=True) == (16, 16 + 16 + 8 + 32)
    assert kept_numbers(**sizes, fused=False) == (16, 16 + 16 + 8 + 16 + 64)
    # 16 numbers of 4 bytes, 72 of 2; and queries and keys once more, or 4 heads' weights of 10 tokens
    assert layer_bytes(SMALL, length=10, stream=4, work=2, scores=False) == 64 + 144 + 24
    assert layer_bytes(SMALL, length=10, stream=4, work=2, scores=True) == 64 + 144 + 80
    whole = token_bytes(SMALL, length=10, stream=4, work=4)
    assert whole == 2 * (16 + 72 + 12) * 4
    assert token_bytes(SMALL, length=10, stream=4, work=4, frozen=1) == whole // 2
    assert token_bytes(SMALL, length=10, stream=4, work=4, checkpointing=True) == 2 * 8 * 4 + whole // 2


def test_weights_of_every_role() -> None:
    assert SMALL.parameters == 1840
    found = memory(job(), process=0).phases["sampling"]
    assert found["policy"] == found["reference"] == 4 * 1840
    assert found["critic"] == 8 * 4
    assert found["optimiser"] == 2 * 4 * (1840 + 8)
    assert found["decoder"] == 4 * 1800
    assert found["KV cache"] == 2 * 2 * 8 * 4 * 64 * 4  # both, layers, rows, keys, one bucket of columns, float32
    separate = memory(job(critic="separate", judge=SMALL.classifier(), average=True), process=0).phases["sampling"]
    assert separate["critic"] == 4 * (1840 + 8)
    assert separate["reward model"] == separate["average"] == 4 * 1840


def test_frozen_networks_are_lean_under_autocast() -> None:
    """Linear layers and the head in two bytes, the rest in four."""
    assert lean(SMALL) == 2 * 1000 + 4 * 40 + 2 * 800 + 4 * 800
    assert memory(job(autocast=True), process=0).phases["feedback"]["reference"] == lean(SMALL)


def test_adapters_learn_alone() -> None:
    found = memory(job(lora_rank=2), process=0).phases["learning"]
    assert found["reference"] == 0
    assert found["optimiser"] == 2 * 4 * (600 + 8)
    assert memory(job(lora_rank=2), process=0).phases["saving"]["policy"] == 4 * (2 * 1840 + 600)


def test_frozen_layers_learn_nothing() -> None:
    frozen = job(frozen_layers=1)
    assert frozen.learned_by_policy == 520  # half of the layers; the head is the frozen embedding
    assert memory(frozen, process=0).phases["learning"]["reference"] == 4 * 520
    untied = replace(SMALL, tied=False)
    assert job(frozen_layers=1, policy=untied).learned_by_policy == 520 + 800


def test_one_micro_batch_or_several() -> None:
    """In one, activations go while gradients come; in several, both are there."""
    one, several = job(), job(micro_rows=2)
    passing = 5 * 16 * 4 + 4 * 8 * 4  # of one layer, while it goes back
    assert passing_bytes(several) == passing
    kept = several.tokens * (several.kept_by_token + passing)
    assert several.tokens == 20
    learning = memory(several, process=0).phases["learning"]
    assert learning["gradients"] == 4 * (1840 + 8 + 800)  # the tied embedding's own comes last
    assert learning["activations"] == kept
    alone = memory(one, process=0).phases["learning"]
    assert one.tokens * one.kept_by_token > 4 * 1840
    assert alone["gradients"] == 4 * (8 + 800)
    assert alone["activations"] == 4 * kept
    large = job(policy=replace(SMALL, matrices=10**6))
    assert "activations" not in {n for n, v in memory(large, process=0).phases["learning"].items() if v}


def test_logits_are_kept_while_they_are_few() -> None:
    tokens = KEPT_LOGITS // (100 * 4)
    assert job().kept_logits(tokens) == tokens * 400
    assert job().kept_logits(tokens + 1) == 0
    assert kept_and_logits(job(step="reward"))[1] == 0


def test_a_cpu_has_holes_where_learning_comes_and_goes() -> None:
    here = job(device="cpu")
    found = memory(here, process=7.0)
    moved = 4 * (1840 + 8) + sum(kept_and_logits(here))
    assert found.phases["learning"]["holes"] == pytest.approx(HOLES * moved)
    assert "holes" not in found.phases["sampling"]
    assert found.peak == max(found.total(phase) for phase in found.phases)
    assert found.total(found.peak_phase) == found.peak


def test_the_cache_of_rows_that_are_sampled_at_once() -> None:
    assert kv_cache(job(rows_at_once=2)) == kv_cache(job()) / 4
    assert kv_cache(job(response=61)) == 2 * kv_cache(job())  # 65 tokens: two buckets


def test_tokens_of_a_budget() -> None:
    assert tokens_in(2 * 1000 * 8, 0, 8) == 512
    assert tokens_in(3 * 100 + 2 * 1024 * 8, 100, 8) == 1024
    assert tokens_in(5, 100, 8) == 1
    assert tokens_in(1e18, 0, 8) == MOST
    assert budget(job(), 1e12) == MOST
    assert budget(job(critic="separate"), 1e5) <= budget(job(), 1e5)


def test_kernels_of_decode_steps() -> None:
    """In bfloat16 on a CPU one set for each length of an answer, more with time, and at most what the cache holds."""
    few, many = (job(device="cpu", autocast=True, rounds=rounds) for rounds in (2, 1000))
    process = [memory(one, process=0).phases["sampling"]["process"] for one in (few, many)]
    assert process == [KERNELS + 6 * KERNELS_OF_STEP, KERNELS + 12 * KERNELS_OF_STEP]
    long = memory(replace(many, response=5000), process=0).phases["sampling"]
    assert long["process"] == MOST_KERNELS
    assert memory(replace(few, autocast=False), process=0).phases["sampling"]["process"] == KERNELS
    assert memory(job(), process=5.0).phases["sampling"]["process"] == 5.0


def test_weights_in_half_precision_run_by_other_layers() -> None:
    """Transformers' own keep more, and their norms in float32."""
    one = job(stream=2)
    per_layer = 2 * 8 * 4 + (4 * 8 + 2 * 8 + 2 * 4 + 4 * 16) * 2
    assert one.kept_by_token == 2 * per_layer
    scores = replace(one, device="cpu")
    assert scores.kept_by_token == 2 * (per_layer + 4 * 10 * 2)
    assert replace(scores, response=300).kept_by_token == 2 * per_layer
