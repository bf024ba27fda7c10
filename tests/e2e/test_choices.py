"""What a run chooses by itself is said at its start; traces of chosen iterations; the allocator's variable."""

import json
from pathlib import Path

import pytest

ONE_STEP = {"num_ppo_epochs": "1"}
FROM_SAMPLER, NEAR = "the sampler's, the same as the learner's", "the sampler's, near the learner's"
LEARNER, ITSELF = "the learner's, which reads the answers once more", "of the learning pass itself, in the loss"
BF16 = {"bf16": "true"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, FROM_SAMPLER),
        (ONE_STEP, FROM_SAMPLER),
        ({"critic": "separate"}, FROM_SAMPLER),
        ({"old_log_probs": "learner"}, LEARNER),
        (BF16, LEARNER),
        ({**BF16, "importance_cap": "2"}, LEARNER),
        ({**BF16, **ONE_STEP}, ITSELF),
        ({**BF16, **ONE_STEP, "critic": "separate"}, ITSELF),
        ({**BF16, **ONE_STEP, "importance_cap": "2", "critic_warmup_steps": "1"}, ITSELF),
        ({**BF16, **ONE_STEP, "num_mini_batches": "2"}, LEARNER),
        ({**BF16, **ONE_STEP, "old_log_probs": "learner"}, LEARNER),
        ({**BF16, "old_log_probs": "sampler"}, NEAR),
    ],
    ids=str,
)
def test_whose_the_old_log_probs_are(files, clearppo, options: dict[str, str], said: str) -> None:
    code, out, err = clearppo("ppo", {**files, **options, "total_episodes": "16"})
    assert (code, err) == (0, "")
    (line,) = [line for line in out.splitlines() if line.strip().startswith("old log-probs")]
    assert said in line
    assert any(line.strip().startswith("decoding") for line in out.splitlines())
    first, second = (json.loads(row) for row in (Path(files["output_dir"]) / "metrics.jsonl").open())
    if options.get("num_ppo_epochs") and "num_mini_batches" not in options:
        # The learner's own numbers differ in bf16 by the micro-batch that a row is in.
        assert (first["val/ratio"], second["val/ratio"]) == pytest.approx((1.0, 1.0), abs=5e-3)
    if said == ITSELF:
        assert first["val/ratio"] == second["val/ratio"] == 1.0
        assert first["policy/clipfrac_avg"] == 0.0
    exact = "bf16" not in options
    assert (first["sampling/log_prob_difference"] < 1e-4) == (exact or said == NEAR)
    assert ("sampling/importance_weight" in first) == ("importance_cap" in options)
    if "importance_cap" in options:
        assert 0.5 < first["sampling/importance_weight"] < 2.0


def test_weights_that_are_all_1_are_told(files, clearppo) -> None:
    _, out, _ = clearppo("ppo", {**files, "importance_cap": "2", "total_episodes": "8"})
    assert "importance_cap = 2: here sampling and learning compute the same, so every weight is 1" in out


@pytest.mark.parametrize(
    ("tokens", "said"), [("auto", ", "), ("none", ")"), ("17", ", 17 tokens"), ("4096", ", 4,096 tokens")]
)
def test_how_many_tokens_a_micro_batch_holds(files, clearppo, tokens: str, said: str) -> None:
    code, out, _ = clearppo("ppo", {**files, "max_tokens_per_microbatch": tokens, "total_episodes": "8"})
    assert code == 0
    assert f"1 mini-batches of 8 answers (micro-batches of at most 4 rows{said}" in out


def test_a_traced_run(files, clearppo) -> None:
    code, out, err = clearppo("ppo", {**files, "profile": "2,3"})
    assert (code, err) == (0, "")
    folder = Path(files["output_dir"]) / "profile"
    assert sorted(path.name for path in folder.iterdir()) == [f"iteration-{n}.pt.trace.json" for n in (2, 3)]
    names = {
        event.get("name") for event in json.loads((folder / "iteration-3.pt.trace.json").read_text())["traceEvents"]
    }
    assert {"phase: sampling", "phase: feedback", "phase: learning"} <= names
    assert "Iteration 2 by phase" in out
    assert "Iteration 3 by operation" in out
    again = {**files, "total_episodes": "8", "overwrite_output_dir": "true"}
    assert clearppo("ppo", again)[0] == 0
    assert not folder.exists()  # it was the earlier run's


def test_a_wrong_word_for_the_allocator_is_said(files, clearppo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEARPPO_ALLOCATOR", "none")
    code, _, err = clearppo("ppo", files)
    assert code == 2
    assert "CLEARPPO_ALLOCATOR = none is not known. Write CLEARPPO_ALLOCATOR=default" in err
