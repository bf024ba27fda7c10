"""Whatever is wrong with a file is one sentence that says the mend, and nothing is written."""

from pathlib import Path
from typing import Any

import pytest

CASES = {
    "empty.yaml": ("", "holds no settings"),
    "list.yaml": ("- a\n- b\n", "no mapping of settings"),
    "number.yaml": ("3\n", "no mapping of settings"),
    "bad.yaml": ("a: [1\nb: 2\n", "this is no YAML"),
    "tag.yaml": ("a: !!python/object/apply:os.system ['touch ran']\n", "this is no YAML"),
    "date.yaml": ("kl_coef: 2001-99-99\n", "this is no YAML"),
    "deep.yaml": ("a: " + "[" * 3000, "this is no YAML"),
    "ours.yaml": ("kl:\n  kl_coef: 0.1\nrun:\n  output_dir: x\n", "a configuration of ClearPPO already"),
    "verl.yaml": ("actor_rollout_ref:\n  x: 1\nalgorithm:\n  y: 2\n", "looks like a file for verl"),
    "factory.yaml": ("stage: ppo\nfinetuning_type: lora\n", "looks like a file for LlamaFactory"),
    "any.yaml": ("learning_rate: 1e-5\n", "Say it: --step sft"),
    "both.yaml": ("packing: true\nkl_coef: 0.1\n", "settings of several steps"),
    "big.yaml": ("# " + "x" * (1 << 20) + "\nkl_coef: 1\n", "larger than 1 MiB"),
    "syntax.py": ("PPOConfig(\n", "line 1: this is no Python"),
    "nothing.py": ("print('hello')\n", "makes no PPOConfig(...)"),
    "grpo.py": ("from trl import GRPOConfig\nGRPOConfig(beta=0)\n", "makes a GRPOConfig"),
    "twice.py": ("PPOConfig(kl_coef=1)\nPPOConfig(kl_coef=2)\n", "PPOConfig (line 1) and PPOConfig (line 2)"),
    "zero.py": ("PPOConfig(kl_coef=1)\0\n", "this is no Python"),
    "deep.py": ("PPOConfig(kl_coef=" + "(" * 5000 + ")" * 5000 + ")", "this is no Python"),
    "quote.sh": ("python ppo.py --kl_coef '1\n", "a quotation mark has no partner"),
    "none.sh": ("ls -l\necho --kl_coef 1\n", "starts no Python script with options"),
    "two.sh": ("python ppo.py --a 1\npython ppo.py --b 1\n", "ppo.py (line 1) and ppo.py (line 2)"),
    "train.toml": ("kl_coef = 1\n", "ends in .toml"),
    "noending": ("kl_coef: 1\n", "ends in nothing"),
}


@pytest.mark.parametrize("name", CASES)
def test_files(name: str, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text, says = CASES[name]
    (tmp_path / name).write_text(text, encoding="utf-8")
    is_refused(run(name, "--output", "out.yaml", "--json", "out.json"), says)
    assert {path.name for path in tmp_path.iterdir()} == {name}


def is_refused(result: Any, says: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert says in result.stderr
    assert result.stderr.rstrip().endswith(".")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["absent.yaml"], "does not exist"),
        (["."], "is a directory"),
        (["binary.yaml"], "no text file"),
        (["a.yaml", "--output", "there.yaml"], "is there already"),
        (["a.yaml", "--output", "a.yaml", "--overwrite"], "is FILE itself"),
        (["a.yaml", "--output", "no/such/x.yaml"], "there is no directory"),
        (["a.yaml", "--json", "."], "is a directory"),
        (["a.yaml", "--step", "sft", "--num_processes", "0"], "0"),
        (["a.py", "--step", "sft"], "makes no SFTConfig"),
        (["a.yaml", "--from", "verl"], "verl"),
        (["--from", "trl"], "FILE"),
        (["a.sh", "--step", "reward"], "is for step ppo"),
    ],
    ids=str,
)
def test_arguments(arguments: list[str], says: str, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("kl_coef: 0.1\n")
    (tmp_path / "a.py").write_text("PPOConfig(kl_coef=0.1)\n")
    (tmp_path / "a.sh").write_text("python ppo.py --kl_coef 0.1\n")
    (tmp_path / "there.yaml").write_text("mine")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    result = run(*arguments)
    assert result.exit_code == 2
    assert says in result.stderr
    assert "Traceback" not in result.output
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
