"""Whole runs with frozen layers, and with a reward model on the policy's trunk: the same as without."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import clearppo as library
from clearppo.build.ppo import build_ppo
from clearppo.config import load_config
from clearppo.errors import ModelError
from tests.tiny import tiny_causal_lm

PAIRS = [
    ("The film was", " a delight.", " bad."),
    ("I think that", " it is good.", " the ending was dull."),
    ("The food is", " wonderful!", " dull."),
    ("What do you say", " to the happy dog?", " to the bad one?"),
    ("It is a", " happy dog.", " bad plot."),
    ("The people are", " good.", " dull and bad."),
]
MEASURED = ("objective/scores", "objective/kl", "loss/policy_avg", "loss/value_avg", "policy/entropy_avg")


def judge_from(start: str, folder: Path, **options: Any) -> str:
    """A reward model that was trained with LoRA, through the front door."""
    (folder / "pairs.jsonl").write_text(
        "".join(json.dumps({"prompt": p, "chosen": c, "rejected": r}) + "\n" for p, c, r in PAIRS)
    )
    library.reward(
        model_name_or_path=start, dataset_name=str(folder / "pairs.jsonl"), output_dir=str(folder / "rm"),
        **{"use_peft": True, "eval_fraction": 0, "batch_size": 2, "learning_rate": 0.01, "bf16": False, "device": "cpu",
           **options},
    )  # fmt: skip
    return str(folder / "rm")


def weights_of(directory: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(directory).named_parameters())


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_kept_activations_change_no_run(files: dict[str, Any], tmp_path: Path, critic: str) -> None:
    options = {**files, "critic": critic, "freeze_layers": 1, "num_mini_batches": 2, "kl_coef": 0.2, "dtype": "float64"}
    options.pop("bf16")
    histories, saved = [], []
    for kept in (True, False):
        options["output_dir"] = str(tmp_path / f"kept-{kept}")
        run = build_ppo(load_config(flags=options))
        if not kept:
            networks = [run.policy.actor, run.reference.actor, run.policy.critic]
            for network in networks[: 3 if critic == "separate" else 2]:
                network.frozen = None
        histories.append(run.train())
        saved.append(weights_of(tmp_path / f"kept-{kept}"))
    for kept, plain in zip(*histories, strict=True):
        assert [kept[name] for name in MEASURED] == pytest.approx(
            [plain[name] for name in MEASURED], rel=1e-6, abs=1e-9
        )
    torch.testing.assert_close(saved[0], saved[1], atol=1e-9, rtol=1e-6)
    start = weights_of(Path(files["model_name_or_path"]))
    moved = {name for name in start if not torch.equal(saved[0][name].to(start[name].dtype), start[name])}
    assert any(".layers.1." in name for name in moved)
    assert not any(".layers.0." in name or "embed" in name for name in moved)


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_a_reward_model_on_the_trunk_changes_no_run(files: dict[str, Any], tmp_path: Path, family: str) -> None:
    """Its scores were normalised, too. What is saved is the policy alone."""
    start = tiny_causal_lm(tmp_path / "start", family=family)
    options = {
        **files, "model_name_or_path": start, "reward_funcs": [], "use_peft": True, "lora_r": 4,
        "reward_model_path": judge_from(start, tmp_path, score_normalisation="mean-std"),
    }  # fmt: skip
    runs = {}
    for share in ("auto", "true", "false"):
        run = build_ppo(load_config(flags={**options, "share_trunk": share, "output_dir": str(tmp_path / share)}))
        place = dict(run.summary.facts)["reward model"]
        assert place.startswith("weights of its own" if share == "false" else "an adapter and a head on the policy's")
        runs[share] = run.train()
        assert not (tmp_path / share / "adapter" / "reward").exists()
    for share in ("auto", "true"):
        for shared, plain in zip(runs[share], runs["false"], strict=True):
            found, expected = ([row[name] for name in MEASURED] for row in (shared, plain))
            assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)
    own, shared = weights_of(tmp_path / "false"), weights_of(tmp_path / "true")
    torch.testing.assert_close(shared, own, atol=1e-4, rtol=1e-3)
    assert len({row["objective/scores"] for row in runs["true"]}) == 3


def test_with_frozen_layers_besides(files: dict[str, Any], tmp_path: Path, clearppo: Any) -> None:
    """The reward model's adapter stands in the frozen layers as well; the policy has none there."""
    start = files["model_name_or_path"]
    options = {**files, "use_peft": "true", "share_trunk": "true", "freeze_layers": "1"}
    code, out, err = clearppo("ppo", {**options, "reward_model_path": judge_from(start, tmp_path)})
    assert (code, err) == (0, "")
    assert "the lowest 1 of 2 and the embeddings, computed once an answer" in out
    moved = weights_of(Path(files["output_dir"]))
    start_weights = weights_of(Path(start))
    assert all(torch.equal(moved[name], start_weights[name]) for name in moved if ".layers.0." in name)
    assert any(not torch.equal(moved[name], start_weights[name]) for name in moved if ".layers.1." in name)


def test_where_the_trunk_is_another(files: dict[str, Any], tmp_path: Path) -> None:
    """auto says why not; true is an error that says what to do."""
    judge = judge_from(tiny_causal_lm(tmp_path / "other", seed=7), tmp_path)
    options = {**files, "use_peft": True, "reward_model_path": judge}
    said = dict(build_ppo(load_config(flags=options)).summary.facts)["reward model"]
    assert said.startswith("weights of its own: the reward model in ")
    assert "trained on other base weights" in said
    with pytest.raises(ModelError, match=r"share_trunk = true, and the reward model in .* --share_trunk auto"):
        build_ppo(load_config(flags={**options, "share_trunk": True, "output_dir": str(tmp_path / "again")}))


def test_a_whole_reward_model_keeps_no_adapter(files: dict[str, Any], tmp_path: Path) -> None:
    judge = judge_from(files["model_name_or_path"], tmp_path, use_peft=False)
    assert not (Path(judge) / "adapter").exists()
    options = {**files, "use_peft": True, "reward_model_path": judge}
    said = dict(build_ppo(load_config(flags=options)).summary.facts)["reward model"]
    assert "it was trained without LoRA" in said
