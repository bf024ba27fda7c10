"""A run that cannot start leaves nothing behind, and says why in one sentence, whatever file it was given."""

import json
from pathlib import Path
from typing import Any

import pytest

import clearppo
from tests.fuzz.mutation import ends_well, json_lines, mutated, mutated_bytes, seeds, tree_of
from tests.tiny import tiny_causal_lm

ROWS: list[dict[str, Any]] = [{"prompt": "The film was", "tag": 1}, {"prompt": "I think", "tag": 2}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_causal_lm(tmp_path_factory.mktemp("model"))


def score(prompts: list[Any], completions: list[Any], tag: list[Any]) -> list[float]:
    return [0.5 for _ in completions]


def test_files_of_prompts(tmp_path: Path, model: str) -> None:
    refused = 0
    for number, chance in enumerate(seeds(40)):
        rows: Any = mutated(chance, mutated(chance, ROWS))
        raw = json_lines(rows if isinstance(rows, list) else [rows])
        file, out = tmp_path / "rows.jsonl", tmp_path / str(number) / "run"
        file.write_bytes(mutated_bytes(chance, raw) if chance.random() < 0.5 else raw)
        options: dict[str, Any] = {
            "model_name_or_path": model, "reward_funcs": [score], "total_episodes": 2, "batch_size": 2,
            "response_length": 2, "output_dir": str(out), "bf16": False, "device": "cpu",
        }  # fmt: skip
        if chance.random() < 0.5:
            (tmp_path / "good.jsonl").write_bytes(json_lines(ROWS))
            options |= {"dataset_name": str(tmp_path / "good.jsonl"), "eval_dataset_name": str(file), "eval_steps": 1}
        else:
            options |= {"dataset_name": str(file)}
        error = ends_well(lambda options=options: clearppo.ppo(**options), (file.read_bytes(), options))
        if error is not None:
            refused += 1
            left = tree_of(out) if out.exists() else {}
            assert not left or "config.yaml" in left, (left.keys(), error)  # nothing, or a run that began
            assert not [name for name in left if name.endswith(".part") or ".saving-" in name]
            for line in left.get("metrics.jsonl", b"").splitlines():
                json.loads(line)
    assert refused > 5


def test_what_another_left_in_the_directory_is_not_touched(tmp_path: Path, model: str) -> None:
    out, prompts = tmp_path / "out", tmp_path / "long.jsonl"
    prompts.write_bytes(json_lines([{"prompt": "x " * 4000, "tag": 1}]))  # an error that is found after the directory
    (out / "checkpoint-5").mkdir(parents=True)
    held = {"config.json": b"{}", "checkpoint-5/x": b"1", "notes.txt": b"mine", "metrics.jsonl": b"{"}
    for chance in seeds(30):
        there = {name: content for name, content in held.items() if chance.random() < 0.5}
        for name in held:
            (out / name).unlink(missing_ok=True)
        for name, content in there.items():
            (out / name).write_bytes(content)
        options: dict[str, Any] = {
            "model_name_or_path": model, "reward_funcs": [score], "dataset_name": str(prompts),
            "output_dir": str(out), "overwrite_output_dir": chance.random() < 0.5, "device": "cpu",
        }  # fmt: skip
        if not options["overwrite_output_dir"] and chance.random() < 0.5:
            options["resume_from_checkpoint"] = chance.choice(["auto", str(out), str(out / "checkpoint-5"), "nowhere"])
        before = tree_of(out)
        error = ends_well(lambda options=options: clearppo.ppo(**options), (there, options))
        assert error is not None
        assert tree_of(out) == before, (error, options)
