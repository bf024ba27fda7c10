"""Config files and flags: any YAML, any bytes, any words on the command line."""

import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from clearppo.cli import main
from clearppo.config import SCHEMAS, dump_config, leaves, load_config, load_pipeline
from clearppo.config.changes import changes
from clearppo.config.yaml_file import STEPS
from tests.fuzz.mutation import STRINGS, ends_well, mutated, mutated_bytes, mutated_text, odd_value, seeds

FILES: dict[str, dict[str, Any]] = {
    "sft": {
        "model": {"model_name_or_path": "m", "use_peft": True, "lora_r": 4},
        "data": {"dataset_name": "d.jsonl", "eval_fraction": 0.1},
        "run": {"output_dir": "out", "num_train_epochs": 1.0, "max_steps": None},
    },
    "reward": {
        "model": {"model_name_or_path": "m"},
        "data": {"dataset_name": "c.jsonl"},
        "optim": {"learning_rate": 1e-5, "warmup_ratio": 0.1},
        "run": {"output_dir": "out", "batch_size": 8},
    },
    "prefs": {
        "model": {"model_name_or_path": "m"},
        "data": {"dataset_name": "p.jsonl"},
        "label": {"labeller": "a.py:f"},
        "run": {"output_file": "c.jsonl"},
    },
    "ppo": {
        "recipe": "article",
        "model": {"model_name_or_path": "m", "critic": "separate"},
        "data": {"dataset_name": "p.jsonl"},
        "sampling": {"stop_strings": ["\n", "User:"], "response_length": 24},
        "reward": {"reward_funcs": ["a.py:f", "b.py:g"], "reward_weights": [1, 0.5]},
        "kl": {"kl_coef": 0.05},
        "eval": {"eval_steps": 5, "eval_fraction": 0.1, "metric_for_best_model": "eval/score"},
        "run": {"output_dir": "out", "total_episodes": 640},
    },
}
PIPELINE: dict[str, Any] = {
    "pipeline": {"model_name_or_path": "m", "prompts": "p.jsonl", "output_dir": "out", "comparisons": "c.jsonl"},
    "ppo": {"kl": {"kl_coef": 0.1}},
    "reward": {"optim": {"learning_rate": 1e-5}},
}


def read(command: str, file: Path) -> None:
    config = load_config(SCHEMAS[command], config_path=file)
    text = dump_config(config)
    if command != "prefs":
        assert not [change for change in changes(text, config) if change.effect != "none"]  # what is written is read


@pytest.mark.parametrize("command", FILES)
def test_values_of_a_file(command: str, tmp_path: Path) -> None:
    file, refused, n = tmp_path / "c.yaml", 0, 0
    for chance in seeds(150):
        tree: Any = FILES[command]
        for _ in range(chance.choice((1, 1, 2, 3))):
            tree = mutated(chance, tree)
        file.write_text(yaml.safe_dump(tree, allow_unicode=chance.random() < 0.5), encoding="utf-8", errors="replace")
        refused += ends_well(lambda: read(command, file), tree) is not None
        n += 1
    assert refused > 0.3 * n


@pytest.mark.parametrize("command", FILES)
def test_bytes_of_a_file(command: str, tmp_path: Path) -> None:
    whole = yaml.safe_dump(FILES[command]).encode()
    load_config(SCHEMAS[command], config_path=_written(tmp_path, whole))
    for chance in seeds(150):
        raw = whole
        for _ in range(chance.choice((1, 1, 3))):
            raw = mutated_bytes(chance, raw)
        ends_well(lambda raw=raw: read(command, _written(tmp_path, raw)), raw)


def test_a_file_of_all_steps(tmp_path: Path) -> None:
    whole = yaml.safe_dump(PIPELINE).encode()
    load_pipeline(config_path=_written(tmp_path, whole))
    for chance in seeds(250):
        tree = mutated(chance, mutated(chance, PIPELINE))
        raw = yaml.safe_dump(tree).encode(errors="replace") if chance.random() < 0.5 else mutated_bytes(chance, whole)
        ends_well(lambda raw=raw: load_pipeline(config_path=_written(tmp_path, raw)), raw)


YAML_TRAPS = (
    "&a [*a]", "a: &a {b: *a}", "? [1, 2]\n: 3", "? {a: 1}\n: 3", "!!python/object:os.system {}",
    "!!python/name:os.exit", "--- a\n--- b", "%YAML 9.9\n---\na: 1", "a: 2001-99-99", "a: 2001-01-01",
    "a: !!binary 'x'", "a: 0x", "a: 1_000",
    "2001-99-99", "!!bool x", "!!int x", "!!float x", "!!timestamp x", "!!binary 'ä'", "!!omap [1]", "!!pairs {a: 1}",
    "a: 1:30", "<<: {a: 1}", "<<: [1]", "a: !!set {b}", "- a\n- b", "a: 'b", 'a: "\\x"', "0b2", "1:99:99", ".", "=",
    "[" * 700, "{" * 700, "a: " * 500, "- " * 700, "\t", "a:\n\tb: 1", "\ufeffa: 1", "a: |\n  b\n c", "\x00", "\x1b",
    "run:\n  seed: !!int '9" + "9" * 5000 + "'", "run: {output_dir: &x a, seed: *x}", "run:\n  seed: 1" + "0" * 5000,
)  # fmt: skip


@pytest.mark.parametrize("command", ["sft", "ppo"])
def test_what_yaml_allows(command: str, tmp_path: Path) -> None:
    tails = ("", "\nmodel: {model_name_or_path: m}", "\nrun: {output_dir: o}")
    for trap in YAML_TRAPS:
        for tail in tails:
            raw = f"{trap}{tail}".encode()
            ends_well(lambda raw=raw: read(command, _written(tmp_path, raw)), raw)
        raw = f"run:\n  output_dir: {trap}\n".encode()
        ends_well(lambda raw=raw: read(command, _written(tmp_path, raw)), raw)


@pytest.mark.parametrize("command", FILES)
def test_flags(command: str) -> None:
    names = list(leaves(SCHEMAS[command]))
    for chance in seeds(400):
        flags: dict[str, Any] = {
            name: value
            for options in FILES[command].values()
            if isinstance(options, dict)
            for name, value in options.items()
        }
        for _ in range(chance.choice((1, 2, 4))):
            name = chance.choice(names) if chance.random() < 0.9 else mutated_text(chance, chance.choice(names))
            flags[name] = _word(chance)
        ends_well(lambda flags=flags: dump_config(load_config(SCHEMAS[command], flags=flags)), flags)


def _word(chance: random.Random) -> Any:
    if chance.random() < 0.3:
        return odd_value(chance)
    plain = ("0", "1", "-1", "1e9", "1e999", "0.1", "auto", "none", "true", "a,b", "[1,2]", "[a", "a.py:f", "eval/kl")
    return mutated_text(chance, chance.choice((*plain, *STRINGS)))


def test_words_on_the_command_line(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for command in FILES:
        monkeypatch.setattr(f"clearppo.api.{command}", lambda *_, **__: None)
    names = {command: list(leaves(SCHEMAS[command])) for command in FILES}
    for chance in seeds(100):
        command = chance.choice([*FILES, *FILES, "rlhf", "chat", "serve-reward", "recipes", "help", "pppo"])
        words = [command]
        for _ in range(chance.randrange(5)):
            name = chance.choice(names[chance.choice(list(names))])
            words.append(chance.choice((f"--{name}", f"--{name}", mutated_text(chance, f"--{name}"), "--", "-x")))
            if chance.random() < 0.8:
                words.append(str(_word(chance)))
        words = [word.replace("\0", "") for word in words]  # no program can be given one
        if command in ("chat", "serve-reward", "rlhf"):
            words.append("--no_such_option")  # these would begin to work
        with pytest.raises(SystemExit) as ended:
            main(words)
        out, err = capfd.readouterr()
        assert ended.value.code in (0, 2, None), (words, out, err)
        assert "Traceback" not in out + err, words
        assert len(err) < 3000, (words, err)


def test_every_step_has_a_file_here() -> None:
    assert set(FILES) == set(SCHEMAS)
    assert set(PIPELINE) < set(STEPS)


def _written(directory: Path, raw: bytes) -> Path:
    file = directory / "c.yaml"
    file.write_bytes(raw)
    return file
