"""One process and two give the same numbers and weights; what differs is the order of sums."""

from pathlib import Path
from typing import Any

import pytest

import clearppo
from tests.distributed.pair import difference, lines_of, read, together
from tests.resume.runs import options_of
from tests.rollout.vllm_server import VLLMServer
from tests.tiny import tiny_causal_lm, tiny_reward_model

TRAIN = {"ppo": clearppo.ppo, "sft": clearppo.sft, "reward": clearppo.reward}
SHORT = {"save_steps": "0", "dtype": "float64"}
PPO = {"total_episodes": "100", "batch_size": "10", "micro_batch_size": "2", "num_mini_batches": "2"}
# Odd numbers of rows, unequal lengths, and every part of the mathematics that looks at a whole batch.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "ppo": ("ppo", {**PPO, "whiten_advantages": "true", "kl_controller": "adaptive", "num_ppo_epochs": "2"}),
    "ppo, float32": ("ppo", {**PPO, "dtype": "float32"}),
    "ppo, a process with nothing to learn": (
        "ppo", {"total_episodes": "15", "batch_size": "3", "num_mini_batches": "3", "whiten_rewards": "true"},
    ),
    "ppo, RLOO": (
        "ppo",
        {**PPO, "batch_size": "9", "num_mini_batches": "1", "advantage_estimator": "rloo", "num_generations": "3"},
    ),
    "ppo, separate critic, LoRA, ptx, reward model, evaluation": (
        "ppo",
        {
            **PPO, "total_episodes": "50", "critic": "separate", "use_peft": "true", "lora_r": "4", "ptx_coef": "0.5",
            "reward_model_path": "RM", "ptx_dataset_name": "TEXTS", "eval_steps": "2", "eval_fraction": "0.3",
            "score_scaling": "running", "kl_loss_coef": "0.1", "kl_loss_estimator": "full", "ema_decay": "0.9",
        },
    ),
    "ppo, weights shared out": ("ppo", {**PPO, "total_episodes": "30", "sharding": "full", "num_ppo_epochs": "2"}),
    "ppo, LoRA, separate critic, reward model, weights shared out": (
        "ppo",
        {
            **PPO, "batch_size": "3", "num_mini_batches": "3", "total_episodes": "9", "sharding": "full", "lora_r": "4",
            "use_peft": "true", "critic": "separate", "reward_model_path": "RM", "critic_warmup_steps": "1",
        },
    ),
    "ppo, answered by two engines of vLLM's protocol": (
        "ppo",
        {
            **PPO, "total_episodes": "30", "sampler": "vllm", "vllm_mode": "server", "vllm_server_base_url": "ENGINES",
            "importance_cap": "2", "importance_level": "sequence",
        },
    ),
    "ppo, frozen layers, average, layers computed again, weights shared out": (
        "ppo",
        {
            **PPO, "total_episodes": "30", "sharding": "full", "num_ppo_epochs": "2", "freeze_layers": "1",
            "gradient_checkpointing": "true", "ema_decay": "0.9", "kl_loss_coef": "0.1", "kl_loss_estimator": "full",
        },
    ),
    "reward, LoRA, weights shared out": (
        "reward",
        {"batch_size": "3", "micro_batch_size": "3", "sharding": "full", "use_peft": "true", "save_steps": "2"},
    ),
    "sft, weights shared out if need be": ("sft", {"batch_size": "5", "micro_batch_size": "2", "sharding": "auto"}),
    "sft, weights shared out": ("sft", {"batch_size": "5", "micro_batch_size": "2", "sharding": "full"}),
    "reward, weights shared out": ("reward", {"batch_size": "3", "micro_batch_size": "3", "sharding": "full"}),
    "sft": ("sft", {"batch_size": "5", "micro_batch_size": "2", "num_train_epochs": "1.6"}),
    "reward": ("reward", {"batch_size": "3", "micro_batch_size": "3", "num_train_epochs": "1"}),
    "reward, pieces": (
        "reward", {"batch_size": "2", "micro_batch_size": "1", "max_steps": "4", "rm_loss": "pairwise"},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """All cases, run by two processes in one go: where each run is, and its options."""
    folder = tmp_path_factory.mktemp("pair")
    model = tiny_causal_lm(folder / "model")
    engines = [VLLMServer(model), VLLMServer(model)]
    named = {
        "RM": tiny_reward_model(folder / "rm"),
        "TEXTS": lines_of(folder / "texts.jsonl"),
        "ENGINES": ",".join(engine.url for engine in engines),
    }
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    for number, (name, (kind, more)) in enumerate(CASES.items()):
        (data := folder / f"data{number}").mkdir()
        options = {**options_of(kind, data, model), **SHORT, **{k: named.get(v, v) for k, v in more.items()}}
        found[name] = (folder / f"two{number}", options)
    runs = [{"kind": CASES[name][0], "options": {**o, "output_dir": str(at)}} for name, (at, o) in found.items()]
    ended = together([{"kind": "contract"}, *runs])
    assert ended.codes == [0, 0], ended.err
    assert ended.out[1] == ""
    return found


@pytest.mark.parametrize("name", CASES)
def test_one_and_two_processes_are_equal(name: str, places: dict[str, tuple[Path, dict[str, Any]]]) -> None:
    two, options = places[name]
    one = two.with_name(two.name.replace("two", "one"))
    TRAIN[CASES[name][0]](**{**options, "output_dir": str(one), "sharding": "none"})
    assert "communication/" not in (one / "timings.jsonl").read_text(encoding="utf-8")
    gap, where = difference(one, two)
    exact = options["dtype"] == "float64" and "reward_model_path" not in options  # which reads in float32
    assert gap <= (1e-9 if exact else 1e-4), where
    records, others = (
        sorted(file.relative_to(run) for file in run.rglob("*") if file.is_file() and file.parent.name != "shards")
        for run in (one, two)
    )
    assert records == others


@pytest.mark.parametrize("name", ["ppo", "ppo, weights shared out", "sft, weights shared out"])
def test_the_time_with_others_is_known(name: str, places: dict[str, tuple[Path, dict[str, Any]]]) -> None:
    two, _ = places[name]
    for row in read(two / "timings.jsonl"):
        of_phases = [phase.removeprefix("time/") for phase in row if phase.startswith("time/")]
        for phase in of_phases:
            assert 0.0 <= row[f"communication/{phase}"] <= row[f"time/{phase}"]
        assert row["communication/learning"] > 0.0


def test_the_record_holds_what_both_have_read(places: dict[str, tuple[Path, dict[str, Any]]]) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    two, _ = places["ppo"]
    table = pq.read_table(two / "record" / "step-000010.parquet").to_pylist()
    assert len(table) == 10
    for row in table:
        assert all(ratio > 0 for epoch in row["ratios"] for ratio in epoch)
    assert len(read(two / "samples.jsonl")) == 20
