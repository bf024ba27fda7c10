"""Shapes by hand, for the tests of plans."""

from clearppo.plan.job import Job
from clearppo.plan.shape import Shape

SMALL = Shape(
    layers=2, hidden=8, wide=16, heads=4, kv_heads=2, head_dim=2, vocabulary=100, embeddings=800, matrices=1000,
    others=40, head=800, tied=True, lora=300, fused=True,
)  # fmt: skip
"""Numbers that are easy to add up, and no real model's."""
LLAMA_70B = Shape(
    layers=80, hidden=8192, wide=28672, heads=64, kv_heads=8, head_dim=128, vocabulary=128256, embeddings=1050673152,
    matrices=68451041280, others=1318912, head=1050673152, tied=False, lora=80 * 210000, fused=True,
)  # fmt: skip


def job(**more: object) -> Job:
    """A run of PPO with `SMALL`: 8 answers of 4 + 6 tokens, in one micro-batch."""
    given: dict[str, object] = {
        "step": "ppo", "device": "cuda", "policy": SMALL, "critic": "shared", "batch": 8, "micro_rows": 8, "prompt": 4,
        "response": 6, "mean": 9.0, "distinct": 8, "rows_at_once": 8, "rounds": 10,
    }  # fmt: skip
    return Job(**{**given, **more})  # pyright: ignore[reportArgumentType]
