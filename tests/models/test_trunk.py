"""Policy, critic, reference and reward model on one set of weights: what four separate models say."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from clearppo.models.actor import plain_weights
from clearppo.models.build import Lora, make_policy, make_reference
from clearppo.models.fingerprint import fingerprint
from clearppo.models.loading import load_causal_lm, load_tokenizer
from clearppo.models.normalise import normalise_scores
from clearppo.models.policy import Policy
from clearppo.models.reward_model import load_classifier, make_reward_model
from clearppo.models.saving import save_actor, save_adapter
from clearppo.models.trunk import CannotShareError, TrunkReward, save_reward_adapter
from tests.models.test_actor import LENGTHS, one_by_one, ragged
from tests.models.test_reward_model import LENGTHS as TEXT_LENGTHS
from tests.models.test_reward_model import TEXTS, Template, padded
from tests.tiny import FAMILIES, tiny_causal_lm, tiny_rollout

OF_POLICY = Lora(r=4, alpha=8, target_modules="all-linear")
OF_REWARD = Lora(r=3, alpha=5, target_modules="all-linear")


def stir(parameters: Any, seed: int = 1) -> None:
    """As if they had learned."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in parameters:
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))


def reward_directory(
    path: Path,
    start: str,
    *,
    lora: Lora | None = OF_REWARD,
    normalised: int = 0,
    dtype: Any = torch.float32,
    autocast: bool = False,
) -> Path:
    """A reward model that was trained from `start`, with its adapter if it has one."""
    model = make_reward_model(load_classifier(start, dtype=dtype), lora=lora, autocast=autocast)
    stir(model.trainable())
    for end in range(20, 20 + normalised):
        normalise_scores(model, [[*text, end, end + 1] for text in TEXTS * 3], mode="mean-std", micro_batch_size=4)
    model.save(path, load_tokenizer(start), Template())
    if lora:
        save_reward_adapter(model, path / "adapter")
    return path


def policy_from(start: str, *, dtype: torch.dtype = torch.float32, **options: Any) -> Policy:
    policy = make_policy(load_causal_lm(start, dtype=dtype), lora=OF_POLICY, **options)
    stir(policy.trainable(), seed=2)
    return policy


def alone(directory: Path) -> list[float]:
    """The oracle: transformers' own classifier with merged weights, one text at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.no_grad():
        return [model(input_ids=torch.tensor([text])).logits.item() for text in TEXTS]


@pytest.mark.parametrize("normalised", [0, 1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_scores_are_those_of_the_reward_model_alone(tmp_path: Path, family: str, normalised: int) -> None:
    """Also where normalisation has moved the final norm's bias, which the trunk does not have (GPT-2, Pythia)."""
    start = tiny_causal_lm(tmp_path / "start", family=family)
    directory = reward_directory(tmp_path / "rm", start, normalised=normalised)
    scores = TrunkReward(policy_from(start).actor, directory).scores(padded(), TEXT_LENGTHS)
    assert scores.tolist() == pytest.approx(alone(directory), abs=2e-4)
    assert scores.std() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_four_roles_on_one_trunk_are_four_models(tmp_path: Path, family: str) -> None:
    start = tiny_causal_lm(tmp_path / "start", family=family)
    directory = reward_directory(tmp_path / "rm", start)
    policy = policy_from(start)
    prompts, responses, mask = ragged(*LENGTHS)
    rollout = tiny_rollout([""] * 3, [""] * 3, lengths=mask.sum(dim=1).tolist())
    rollout = type(rollout)(**{**vars(rollout), "prompts": prompts, "responses": responses, "mask": mask})
    with torch.no_grad():
        before = policy.analyze(prompts, responses, mask, temperature=1.0)
    reference, reward = make_reference(policy, micro_batch_size=2), TrunkReward(policy.actor, directory)
    save_actor(policy.actor, load_tokenizer(start), tmp_path / "policy")
    for _ in range(2):  # in any order, and again
        scores = reward.scores(padded(), TEXT_LENGTHS)
        ref_log_probs = reference.log_probs(rollout)
        with torch.no_grad():
            live = policy.analyze(prompts, responses, mask, temperature=1.0)
        assert scores.tolist() == pytest.approx(alone(directory), abs=2e-4)
        assert torch.equal(live.log_probs, before.log_probs)
        assert torch.equal(live.values, before.values)
        for path, found in ((start, ref_log_probs), (tmp_path / "policy", live.log_probs)):
            expected = one_by_one(AutoModelForCausalLM.from_pretrained(path), prompts, responses, mask, 1.0)
            for i, row in enumerate(expected):
                torch.testing.assert_close(found[i][mask[i]].double(), row, atol=1e-4, rtol=1e-3)
    assert float((live.log_probs - ref_log_probs).abs().max()) > 0.1


def test_one_set_of_weights_is_in_memory(tmp_path: Path) -> None:
    start = tiny_causal_lm(tmp_path / "start")
    directory = reward_directory(tmp_path / "rm", start)
    policy = policy_from(start)
    base = sum(weight.numel() for weight in load_causal_lm(start).parameters())
    own = sum(weight.numel() for _, weight in policy.trainable())
    reference = make_reference(policy, micro_batch_size=2)
    TrunkReward(policy.actor, directory)
    assert reference.actor is policy.actor
    added = sum(weight.numel() for weight in load_file(directory / "adapter" / "adapter_model.safetensors").values())
    assert sum(weight.numel() for weight in policy.parameters()) == base + own + added
    assert 0 < added < base / 2


def test_scoring_leaves_the_policy_as_it_is(tmp_path: Path) -> None:
    start = tiny_causal_lm(tmp_path / "start")
    policy = policy_from(start)
    learning = [name for name, _ in policy.trainable()]
    weights = {name: weight.clone() for name, weight in plain_weights(policy.actor.causal_lm)}
    reward = TrunkReward(policy.actor, reward_directory(tmp_path / "rm", start))
    for _ in range(2):
        assert [name for name, _ in policy.trainable()] == learning
        assert policy.actor.model.active_adapter == "default"
        found = dict(plain_weights(policy.actor.causal_lm))
        assert found.keys() == weights.keys()
        assert all(torch.equal(found[name], weights[name]) for name in found)
        policy.analyze(*ragged(*LENGTHS), temperature=1.0).log_probs.sum().backward()
        assert not any(weight.grad is not None for name, weight in policy.named_parameters() if ".reward." in name)
        reward.scores(padded(), TEXT_LENGTHS)
    save_adapter(policy.actor, tmp_path / "saved")
    assert {file.name for file in (tmp_path / "saved").iterdir() if file.is_dir()} == set()
    assert (tmp_path / "saved" / "adapter_config.json").is_file()


def test_a_policy_that_waits_goes_on_waiting(tmp_path: Path) -> None:
    """As in a critic's warm-up; or one that only answers."""
    start = tiny_causal_lm(tmp_path / "start")
    policy = policy_from(start).requires_grad_(False)
    reward = TrunkReward(policy.actor, reward_directory(tmp_path / "rm", start))
    reward.scores(padded(), TEXT_LENGTHS)
    assert not policy.trainable()


def test_a_policy_whose_adapters_stand_elsewhere(tmp_path: Path) -> None:
    """Layers with one adapter only, of either: the merged weights are the policy's."""
    start = tiny_causal_lm(tmp_path / "start")
    directory = reward_directory(tmp_path / "rm", start, lora=Lora(r=2, alpha=2, target_modules=["q_proj", "up_proj"]))
    policy = make_policy(load_causal_lm(start), lora=Lora(r=2, alpha=2, target_modules=["q_proj", "v_proj"]))
    stir(policy.trainable())
    weights = {name: weight.clone() for name, weight in plain_weights(policy.actor.causal_lm)}
    reward = TrunkReward(policy.actor, directory)
    assert reward.scores(padded(), TEXT_LENGTHS).tolist() == pytest.approx(alone(directory), abs=2e-4)
    found = dict(plain_weights(policy.actor.causal_lm))
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in found)


@pytest.mark.parametrize("trained_so", [True, False])
def test_under_autocast_the_scores_are_near(tmp_path: Path, trained_so: bool) -> None:
    start = tiny_causal_lm(tmp_path / "start", initializer_range=0.1)
    directory = reward_directory(tmp_path / "rm", start, autocast=trained_so)
    scores = TrunkReward(policy_from(start, autocast=True).actor, directory).scores(padded(), TEXT_LENGTHS)
    expected = alone(directory)
    assert scores.dtype == torch.float32
    assert scores.tolist() == pytest.approx(expected, abs=0.03 * max(map(abs, expected)))


def test_pure_bfloat16(tmp_path: Path) -> None:
    start = tiny_causal_lm(tmp_path / "start", initializer_range=0.1)
    directory = reward_directory(tmp_path / "rm", start, dtype=torch.bfloat16)
    scores = TrunkReward(policy_from(start, dtype=torch.bfloat16).actor, directory).scores(padded(), TEXT_LENGTHS)
    expected = alone(directory)
    assert scores.tolist() == pytest.approx(expected, abs=0.05 * max(1, *map(abs, expected)))


def test_a_fingerprint_is_of_the_base_weights(tmp_path: Path) -> None:
    start = tiny_causal_lm(tmp_path / "start")
    plain = fingerprint(load_causal_lm(start).model)
    assert fingerprint(load_classifier(start).model) == plain
    assert fingerprint(load_causal_lm(start, dtype=torch.float64).model) == plain
    assert fingerprint(policy_from(start).actor.backbone) == plain
    other = load_causal_lm(start).model
    with torch.no_grad():
        other.layers[1].mlp.up_proj.weight[3, 4] += 1e-6
    assert fingerprint(other) != plain
    mistral = load_causal_lm(tiny_causal_lm(tmp_path / "mistral", family="mistral", sliding_window=None)).model
    mistral.load_state_dict(load_causal_lm(start).model.state_dict())
    assert fingerprint(mistral) != plain


def refused(policy: Policy, directory: Path) -> str:
    """Why this reward model cannot stand on the policy's trunk, which is left as it was."""
    learning = [name for name, _ in policy.trainable()]
    names = [name for name, _ in policy.named_parameters()]
    with pytest.raises(CannotShareError) as error:
        TrunkReward(policy.actor, directory)
    assert [name for name, _ in policy.trainable()] == learning
    assert [name for name, _ in policy.named_parameters()] == names
    return str(error.value)


def test_other_base_weights_are_refused(tmp_path: Path) -> None:
    directory = reward_directory(tmp_path / "rm", tiny_causal_lm(tmp_path / "start"))
    policy = policy_from(tiny_causal_lm(tmp_path / "other", seed=5))
    assert "was trained on other base weights than the policy's" in refused(policy, directory)


def test_a_reward_model_that_was_trained_whole_is_refused(tmp_path: Path) -> None:
    start = tiny_causal_lm(tmp_path / "start")
    directory = reward_directory(tmp_path / "rm", start, lora=None)
    assert "was trained without LoRA" in refused(policy_from(start), directory)
    with pytest.raises(ValueError, match="trained with LoRA"):
        save_reward_adapter(make_reward_model(load_classifier(start)), tmp_path / "adapter")


def test_a_policy_without_adapters_is_refused(tmp_path: Path) -> None:
    start = tiny_causal_lm(tmp_path / "start")
    directory = reward_directory(tmp_path / "rm", start)
    assert "the policy has no LoRA adapters" in refused(make_policy(load_causal_lm(start)), directory)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense", "cannot be read"),
        ("{}", "it lacks a field"),
        ("[1]", "it lacks a field"),
        ('["base", "probe", "scores"]', "it lacks a field"),
    ],
)
def test_a_broken_record_is_refused(tmp_path: Path, text: str, said: str) -> None:
    start = tiny_causal_lm(tmp_path / "start")
    directory = reward_directory(tmp_path / "rm", start)
    (directory / "adapter" / "trunk.json").write_text(text)
    assert said in refused(policy_from(start), directory)


def test_a_broken_adapter_is_refused(tmp_path: Path) -> None:
    start = tiny_causal_lm(tmp_path / "start")
    directory = reward_directory(tmp_path / "rm", start)
    (directory / "adapter" / "adapter_model.safetensors").write_bytes(b"nonsense")
    assert "cannot be loaded" in refused(policy_from(start), directory)


@pytest.mark.parametrize(
    "head", [{"weight": torch.zeros(1, 32)}, {"weight": torch.zeros(1, 7), "bias": torch.zeros(1)}]
)
def test_a_broken_head_is_refused(tmp_path: Path, head: dict[str, torch.Tensor]) -> None:
    start = tiny_causal_lm(tmp_path / "start")
    directory = reward_directory(tmp_path / "rm", start)
    save_file(head, directory / "adapter" / "score_head.safetensors")
    policy = policy_from(start)
    assert "cannot be loaded" in refused(policy, directory)
    assert list(policy.actor.model.peft_config) == ["default"]


def test_an_adapter_that_gives_other_scores_is_refused(tmp_path: Path) -> None:
    """As another file in its place would, or a model whose config says something else."""
    start = tiny_causal_lm(tmp_path / "start")
    directory = reward_directory(tmp_path / "rm", start)
    file = directory / "adapter" / "trunk.json"
    record = json.loads(file.read_text())
    record["scores"][1] += 0.1
    file.write_text(json.dumps(record))
    assert "gives other scores on this model" in refused(policy_from(start), directory)
