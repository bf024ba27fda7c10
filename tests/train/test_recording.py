"""The record of real runs, of tiny models: what stands in it, held against computations apart, and what it costs."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from clearppo.build.ppo import build_ppo
from clearppo.config import PPOConfig, load_config
from clearppo.errors import RunDirError
from clearppo.record import Iteration, iteration_path, steps
from clearppo.record.schema import SCALARS, TOKENS
from clearppo.train.listener import Silence
from clearppo.train.run import PPORun
from tests.tiny import tiny_causal_lm

TEXTS = ("The film was", "I think that", "The food and the people are", "What do you say", "It is a", "The dog")
CHAT = [{"role": "user", "content": "What do you say?"}]
REWARD = """
def letters(prompts, completions, **columns):
    return [float(c.count("e")) + 0.01 * i for i, c in enumerate(completions)]

def some(prompts, completions, **columns):
    return [None if i % 4 == 1 else float(i % 3) for i, c in enumerate(completions)]
"""


class Noted(Silence):
    """What people are told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_causal_lm(tmp_path_factory.mktemp("model"))


@pytest.fixture
def options(tmp_path: Path, model: str) -> dict[str, Any]:
    rows = [{"prompt": text} for text in TEXTS]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "reward.py").write_text(REWARD)
    return {
        "model_name_or_path": model,
        "dataset_name": str(tmp_path / "prompts.jsonl"),
        "reward_funcs": f"{tmp_path / 'reward.py'}:letters",
        "output_dir": str(tmp_path / "run"),
        "total_episodes": 24,
        "batch_size": 8,
        "micro_batch_size": 3,
        "response_length": 6,
        "learning_rate": 1e-2,
        "num_ppo_epochs": 2,
        "num_mini_batches": 1,
        "kl_coef": 0.2,
        "dtype": "float64",
        "bf16": False,
        "device": "cpu",
    }


def built(options: dict[str, Any], **more: Any) -> tuple[PPORun, Noted]:
    listener = Noted()
    return build_ppo(load_config(PPOConfig, flags={**options, **more}), listener=listener), listener


def trained(options: dict[str, Any], **more: Any) -> Path:
    run, _ = built(options, **more)
    run.train()
    run.run_dir.release()
    return run.run_dir.path


def iteration(path: Path, step: int) -> Iteration:
    return Iteration(iteration_path(path, step))


def answers(found: Iteration) -> Iterator[dict[str, Any]]:
    return (found.answer(row) for row in range(found.n_rows))


def log_probs_of(model: Any, answer: dict[str, Any], temperature: float) -> list[float]:
    """By a plain forward pass over one text."""
    prompt, tokens = answer["prompt_ids"], answer["token_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([prompt + tokens])).logits[0].double() / temperature
    table = torch.log_softmax(logits, dim=-1)
    return [float(table[len(prompt) - 1 + j, token]) for j, token in enumerate(tokens)]


def close(a: Any, b: Any, tolerance: float = 1e-9) -> None:
    assert a == pytest.approx(b, abs=tolerance, rel=tolerance)


def test_the_first_iteration_is_that_of_the_start_model(options: dict[str, Any], model: str) -> None:
    path = trained(options, temperature=0.7)
    found, start = iteration(path, 1), AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64).eval()
    assert steps(path) == [1, 2, 3]
    for answer in answers(found):
        log_probs = log_probs_of(start, answer, 0.7)
        close(answer["log_probs"], log_probs, 1e-5)
        close(answer["ref_log_probs"], log_probs, 1e-5)
        close(answer["sampler_log_probs"], log_probs, 1e-5)
        close(answer["ratios"][0], [1.0] * answer["length"], 1e-5)
        assert {*answer} == {*SCALARS, *TOKENS, "ratios", "prompt_ids"}
        assert answer["prompt"] in TEXTS
    assert found.scalars.schema.field("score").type == "double"
    assert any(abs(kl) > 1e-4 for kl in found.columns("kl")["kl"].to_pylist()) is False
    assert all(abs(kl) > 1e-4 for kl in iteration(path, 3).columns("kl")["kl"].to_pylist())


def test_texts_tokens_and_lengths(options: dict[str, Any]) -> None:
    run, _ = built(options)
    run.train()
    finishes = set()
    for answer in answers(iteration(run.run_dir.path, 2)):
        ids, special = answer["token_ids"], {str(token) for token in run.tokenizer.added_tokens_decoder.values()}
        assert answer["length"] == len(ids) == len(answer["tokens"])
        assert "".join(answer["tokens"]) == run.tokenizer.decode(ids)
        assert "".join(t for t in answer["tokens"] if t not in special) == answer["completion"]
        assert run.tokenizer.decode(answer["prompt_ids"]) == answer["prompt"]
        assert (answer["finish_reason"] == "stop") == (ids[-1] == run.tokenizer.eos_token_id)
        finishes.add(answer["finish_reason"])
    assert "length" in finishes


class Snapshots:
    """An engine that keeps the weights as they are before each step."""

    def __init__(self, run: PPORun) -> None:
        self.engine, self.model, self.weights = run.engine, run.policy.actor.causal_lm, list[dict[str, torch.Tensor]]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def step(self, *args: Any) -> float:
        self.weights.append({name: w.detach().clone() for name, w in self.model.state_dict().items()})
        return self.engine.step(*args)


@pytest.mark.parametrize("parts", [1, 2])
def test_the_ratios_of_each_epoch_are_those_of_its_weights(options: dict[str, Any], model: str, parts: int) -> None:
    run, _ = built(options, num_ppo_epochs=3, num_mini_batches=parts, total_episodes=16, temperature=0.7)
    snapshots = Snapshots(run)
    object.__setattr__(run, "engine", snapshots)
    run.train()
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64).eval()
    for step in (1, 2):
        of_step = snapshots.weights[(step - 1) * 3 * parts : step * 3 * parts]
        read = [0] * len(of_step)
        for answer in answers(iteration(run.run_dir.path, step)):
            for epoch, ratios in enumerate(answer["ratios"]):
                fits = []
                for number in range(epoch * parts, (epoch + 1) * parts):
                    plain.load_state_dict(of_step[number])
                    now = log_probs_of(plain, answer, 0.7)
                    expected = [math.exp(a - b) for a, b in zip(now, answer["log_probs"], strict=True)]
                    fits.append(ratios == pytest.approx(expected, rel=1e-5))
                assert fits.count(True) == 1  # that of the mini-batch which it was in
                read[epoch * parts + fits.index(True)] += 1
        assert read == [8 // parts] * len(of_step)
    assert max(abs(ratio - 1) for ratio in answer["ratios"][2]) > 1e-3


def earned(found: Iteration, answer: dict[str, Any]) -> tuple[list[float], list[float], list[float]]:
    """Equations (1) to (4) in plain Python from an answer's log-probs, score and values: rewards, advantages, returns,
    whitened as the metadata say."""
    meta, n = found.meta, answer["length"]
    kls = [a - b for a, b in zip(answer["log_probs"], answer["ref_log_probs"], strict=True)]
    rewards = [-meta["kl_coef"] * kl for kl in kls]
    rewards[-1] += answer["score"]
    rewards = whitened(rewards, meta["whiten_rewards"])
    values = answer["values"] or [0.0] * n
    advantage, advantages, critics, returns = 0.0, [0.0] * n, 0.0, [0.0] * n
    for j in reversed(range(n)):
        delta = rewards[j] + meta["gamma"] * (values[j + 1] if j + 1 < n else 0.0) - values[j]
        advantage = delta + meta["gamma"] * meta["lam"] * advantage
        critics = delta + meta["gamma"] * (meta["critic_lam"] or meta["lam"]) * critics
        advantages[j], returns[j] = advantage, critics + values[j]
    return rewards, whitened(advantages, meta["whiten_advantages"]), returns


def whitened(values: list[float], how: dict[str, float] | None) -> list[float]:
    return values if how is None else [(value + how["shift"]) * how["scale"] for value in values]


@pytest.mark.parametrize(
    "more",
    [
        {"whiten_advantages": False},
        {"whiten_advantages": True, "lam": 0.9, "gamma": 0.95, "critic_lam": 1.0},
        {"whiten_rewards": True, "unbiased_whitening": True},
        {"whiten_rewards": True, "critic": "separate", "kl_controller": "adaptive", "kl_target": 0.01},
    ],
)
def test_equations_1_to_4_follow_from_what_is_recorded(options: dict[str, Any], more: dict[str, Any]) -> None:
    path = trained(options, **more)
    for step in (1, 2, 3):
        found = iteration(path, step)
        assert (found.meta["whiten_rewards"] is not None) == more.get("whiten_rewards", False)
        assert (found.meta["whiten_advantages"] is not None) == more.get("whiten_advantages", True)
        recorded = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()][step - 1]
        assert found.meta["kl_coef"] == recorded["objective/kl_coef"]
        tokens = 0
        for answer in answers(found):
            rewards, advantages, returns = earned(found, answer)
            close(answer["rewards"], rewards)
            close(answer["advantages"], advantages)
            close(answer["returns"], returns)
            close(answer["reward"], sum(answer["rewards"]))
            close(answer["advantage"], sum(answer["advantages"]) / answer["length"])
            close(answer["kl"], sum(answer["kls"]))
            tokens += answer["length"]
        assert (found.meta["n_answers"], found.meta["n_tokens"]) == (8, tokens)


@pytest.mark.parametrize(
    ("estimator", "more"),
    [
        ("rloo", {"num_generations": 4, "whiten_advantages": True}),
        ("grpo", {"num_generations": 4}),
        ("reinforce++", {"whiten_advantages": True}),
    ],
)
def test_without_a_critic(options: dict[str, Any], estimator: str, more: dict[str, Any]) -> None:
    found = iteration(trained(options, advantage_estimator=estimator, **more), 2)
    assert (found.meta["estimator"], found.meta["group_size"]) == (estimator, more.get("num_generations", 1))
    assert (found.meta["whiten_advantages"] is None) == (estimator == "grpo")
    all_of_them = [*answers(found)]
    totals = [sum(answer["rewards"]) for answer in all_of_them]
    for i, answer in enumerate(all_of_them):
        assert answer["values"] is None
        if estimator == "reinforce++":
            plain = [sum(answer["rewards"][j:]) for j in range(answer["length"])]
        else:
            group = totals[i // 4 * 4 : i // 4 * 4 + 4]
            mean = sum(group) / 4
            if estimator == "rloo":
                plain = [totals[i] - (sum(group) - totals[i]) / 3] * answer["length"]
            else:
                spread = math.sqrt(sum((total - mean) ** 2 for total in group) / 3)
                plain = [(totals[i] - mean) / (spread + 1e-4)] * answer["length"]
        close(answer["advantages"], whitened(plain, found.meta["whiten_advantages"]), 1e-6)


@pytest.mark.parametrize("kind", ["running", "running-std", "reference", None])
def test_scores_follow_from_what_the_sources_gave(options: dict[str, Any], kind: str | None) -> None:
    more = {"score_scaling": kind, "score_clip": 1.0, "missing_eos_penalty": 0.5}
    path = trained(options, **{name: value for name, value in more.items() if value is not None})
    seen = list[dict[str, float]]()
    for step in (1, 2, 3):
        found = iteration(path, step)
        scaling = found.meta["score_scaling"] or {"kind": None, "mean": 0.0, "std": 1.0}
        assert scaling["kind"] == kind
        seen.append(scaling)
        for answer in answers(found):
            close(answer["raw_score"], answer["parts"]["letters"])
            score = max(-1.0, min(1.0, (answer["raw_score"] - scaling["mean"]) / scaling["std"]))
            fine = 0.5 if answer["finish_reason"] == "length" else 0.0
            close(answer["score"], score - fine, 1e-6)
            close(answer["parts"]["missing_eos_penalty"], -fine)
    assert (seen[0] != seen[1]) == (kind in ("running", "running-std"))


def test_answers_without_a_score_are_not_learned_from(options: dict[str, Any], tmp_path: Path) -> None:
    more = {"reward_funcs": f"{tmp_path / 'reward.py'}:some", "reward_missing": "drop", "num_mini_batches": 2}
    found = iteration(trained(options, **more, total_episodes=8), 1)
    assert found.meta["n_tokens"] == sum(a["length"] for a in answers(found) if a["learned"])
    for answer in answers(found):
        left_out = answer["row"] % 4 == 1
        assert answer["learned"] == (not left_out)
        for name in ("score", "raw_score", "advantage", "advantages", "returns"):
            assert (answer[name] is None) == left_out
        assert [ratio is None for ratio in answer["ratios"]] == [left_out] * 2
        assert len(answer["values"]) == len(answer["kls"]) == answer["length"]
        assert answer["parts"]["some"] == (None if left_out else answer["row"] % 3)


def test_an_epoch_that_did_not_come_has_no_ratios(options: dict[str, Any]) -> None:
    path = trained(options, num_ppo_epochs=4, early_stop_kl=1e-9)
    answer = iteration(path, 1).answer(0)
    assert [ratio is None for ratio in answer["ratios"]] == [False, False, True, True]


def test_where_the_loss_takes_its_own_numbers_the_ratio_is_one(options: dict[str, Any]) -> None:
    found = iteration(trained(options, dtype="float32", bf16=True, num_ppo_epochs=1), 2)
    assert found.meta["first_is_old"] is True
    assert found.scalars.schema.field("score").type == "float"
    assert all(answer["ratios"] == [[1.0] * answer["length"]] for answer in answers(found))


def test_while_the_critic_warms_up(options: dict[str, Any]) -> None:
    path = trained(options, critic_warmup_steps=1, lr_scheduler_type="linear")
    metas = [iteration(path, step).meta for step in (1, 2, 3)]
    assert [meta["critic_only"] for meta in metas] == [True, False, False]
    assert [meta["policy_version"] for meta in metas] == [0, 1, 2]
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [meta["learning_rate"] for meta in metas] == [row["lr"] for row in rows]


def test_conversations_stay_conversations(options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": CHAT}) + "\n")
    found = iteration(trained(options, total_episodes=8), 1)
    assert {json.dumps(row["prompt"]) for row in found.page().rows} == {json.dumps(CHAT)}


def test_only_so_many_answers_and_iterations(options: dict[str, Any]) -> None:
    path = trained(options, record_steps=2, record_answers=3, total_episodes=40)
    assert steps(path) == [1, 2, 4, 5]
    for step in steps(path):
        found = iteration(path, step)
        assert (found.n_rows, found.meta["n_answers"]) == (3, 8)
        assert all(None not in answer["ratios"] for answer in answers(found))


def outcome(path: Path) -> dict[str, bytes]:
    return {name: (path / name).read_bytes() for name in ("metrics.jsonl", "model.safetensors")}


def test_a_record_changes_nothing_of_training(options: dict[str, Any], tmp_path: Path) -> None:
    one = trained(options, output_dir=str(tmp_path / "one"))
    none = trained(options, output_dir=str(tmp_path / "none"), record_steps=0)
    assert outcome(one) == outcome(none)
    assert not (none / "record").exists()


@pytest.mark.parametrize("when", ["the disk is full", "the place is taken", "the numbers are strange"])
def test_a_record_that_cannot_be_written_stops_no_run(
    options: dict[str, Any], tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, listener = built(options)

    def broken(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device") if when == "the disk is full" else IndexError("strange")

    if when == "the place is taken":
        (run.run_dir.path / "record").write_text("")
    else:
        place = "store.write" if when == "the disk is full" else "_table"
        of, _, name = f"track.record.{place}".rpartition(".")
        part: Any = run
        for attribute in of.split("."):
            part = getattr(part, attribute)
        monkeypatch.setattr(part, name, broken)
    run.train()
    run.run_dir.release()
    said = [note for note in listener.notes if "record" in note]
    assert len(said) == 1
    assert said[0].startswith("the record is off from iteration 1 on: ")
    assert not list((run.run_dir.path / "record").glob("*"))
    assert outcome(run.run_dir.path) == outcome(trained(options, output_dir=str(tmp_path / "other"), record_steps=0))


def test_a_record_is_thinned_and_an_overwritten_run_has_none_of_the_old_one(options: dict[str, Any]) -> None:
    run, _ = built(options, total_episodes=80)
    record: Any = run.track.record
    record.store.limit = 3 * 20_000
    run.train()
    run.run_dir.release()
    there = steps(run.run_dir.path)
    assert there[0] == 1
    assert there[-1] == 10
    assert len(there) < 10
    trained(options, overwrite_output_dir=True, total_episodes=8)
    assert steps(run.run_dir.path) == [1]


def test_room_for_the_record_is_asked_for_at_the_start(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million answers of six tokens are 600 MB, or as much as the record may have."""
    usage = shutil.disk_usage(tmp_path)._replace(free=500_000_000)
    monkeypatch.setattr("clearppo.rundir.shutil.disk_usage", lambda _: usage)
    with pytest.raises(RunDirError, match="no space for the result"):
        built(options, total_episodes=1_000_000)
    for more in ({"record_steps": 0}, {"record_steps": 100}, {"record_answers": 1}, {"record_limit_mib": 100}):
        run, _ = built(options, total_episodes=1_000_000, **more)
        run.run_dir.discard()
