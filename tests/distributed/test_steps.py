"""Whole pipelines, comparisons and alarms: what two processes do is what one does."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.pair import difference, read, together
from tests.distributed.work import done
from tests.resume.runs import options_of
from tests.tiny import SENTENCES, tiny_causal_lm

LABELLER = """
def marks(prompts, completions, **columns):
    return [text.count("e") + len(text) / 100 for text in completions]
"""
ACTIONS = {
    "rollback": {"alarm_actions": "kl_runaway=rollback"},
    "lower_lr": {"alarm_actions": "kl_runaway=lower_lr", "lr_scheduler_type": "constant"},
    "rollback, weights shared out": {"alarm_actions": "kl_runaway=rollback", "sharding": "full"},
}


def rows(place: Path, columns: list[dict[str, Any]]) -> str:
    place.write_text("".join(json.dumps(row) + "\n" for row in columns), encoding="utf-8")
    return str(place)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Any], Path, Path]]:
    """Each run, where two processes have left it, and where one has."""
    place = tmp_path_factory.mktemp("steps")
    model = tiny_causal_lm(place / "model")
    (place / "label.py").write_text(LABELLER)
    labeller = f"{place / 'label.py'}:marks"
    prompts = rows(place / "p.jsonl", [{"prompt": text[:12], "tag": n} for n, text in enumerate(SENTENCES)])
    shown = rows(
        place / "d.jsonl", [{"prompt": f"The {w} was", "completion": " good."} for w in ("film", "dog", "food")]
    )
    of_rlhf = {
        "model_name_or_path": model, "device": "cpu", "demonstrations": shown, "prompts": prompts,
        "labeller": labeller, "prefs.response_length": 6, "prefs.num_completions": 3, "sft.batch_size": 2,
        "sft.eval_fraction": 0.0, "reward.batch_size": 4, "reward.eval_fraction": 0.25, "ppo.batch_size": 5,
        "ppo.total_episodes": 10, "ppo.response_length": 6, "ppo.learning_rate": 1e-3,
        **{f"{step}.{name}": value for step in ("sft", "reward", "ppo") for name, value in
           {"bf16": "false", "save_steps": 0}.items()}, "prefs.bf16": "false",
    }  # fmt: skip
    of_prefs = {
        "model_name_or_path": model, "dataset_name": prompts, "device": "cpu", "bf16": "false", "response_length": 6,
        "num_completions": 3, "labeller": labeller,
    }  # fmt: skip
    of_ppo = {**options_of("ppo", place, model), "dtype": "float64"}
    found: dict[str, dict[str, Any]] = {
        "rlhf": {"kind": "rlhf", "options": of_rlhf},
        "prefs": {"kind": "prefs", "options": of_prefs},
        **{name: {"kind": "ppo", "options": {**of_ppo, **more}, "rings_at": 3} for name, more in ACTIONS.items()},
    }
    (place / "two").mkdir()
    (place / "one").mkdir()

    def at(where: str, name: str) -> dict[str, Any]:
        output = {"output_file": str(place / where / "made.jsonl")} if name == "prefs" else {
            "output_dir": str(place / where / name)
        }  # fmt: skip
        alone = {"sharding": "none"} if where == "one" and "sharding" in found[name]["options"] else {}
        return {**found[name], "options": {**found[name]["options"], **output, **alone}}

    ended = together([at("two", name) for name in found])
    assert ended.codes == [0, 0], ended.err
    assert ended.err[1] == ended.out[1] == ""
    return {name: (at("one", name), place / "two", place / "one") for name in found}


@pytest.mark.parametrize("name", ACTIONS)
def test_alarms_do_the_same_to_both(name: str, runs: dict[str, tuple[dict[str, Any], Path, Path]]) -> None:
    run, two, one = runs[name]
    done(run, 0)
    gap, where = difference(one / name, two / name)
    assert gap <= 1e-9, where
    rang, others = (read(place / name / "alarms.jsonl") for place in (one, two))
    assert rang == others
    assert rang[0]["state"] == "on"
    assert [row["lr"] for row in read(two / name / "metrics.jsonl")][3:] != [1e-3] * 3 or "rollback" in name


def test_comparisons_are_made_by_one_and_known_to_both(runs: dict[str, tuple[dict[str, Any], Path, Path]]) -> None:
    run, two, one = runs["prefs"]
    done(run, 0)
    assert read(one / "made.jsonl") == read(two / "made.jsonl")
    assert [entry.name for entry in two.iterdir() if entry.is_file()] == ["made.jsonl"]


def test_a_pipeline_comes_to_the_same_end(runs: dict[str, tuple[dict[str, Any], Path, Path]]) -> None:
    run, two, one = runs["rlhf"]
    done(run, 0)
    assert read(one / "rlhf" / "comparisons.jsonl") == read(two / "rlhf" / "comparisons.jsonl")
    for step in ("sft", "reward", "ppo"):
        gap, where = difference(one / "rlhf" / step, two / "rlhf" / step)
        assert gap <= 1e-4, (step, where)
    steps = json.loads((two / "rlhf" / "pipeline.json").read_text(encoding="utf-8"))["steps"]
    assert [name for name, step in steps.items() if step["finished"]] == ["sft", "prefs", "reward", "ppo"]
