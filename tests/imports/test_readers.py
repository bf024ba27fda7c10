"""Python and shell are read, and never run."""

from pathlib import Path

import pytest

from clearppo.config import PPOConfig, RewardModelConfig, SFTConfig
from clearppo.foreign import Imported
from tests.imports.conftest import Import
from tests.imports.test_ppo import one

SCRIPT = """
import os, shutil
from trl import ModelConfig
from trl.experimental.ppo import PPOConfig as Settings
from peft import LoraConfig
import does_not_exist_anywhere

raise SystemExit("the script was run")
args = Settings(
    output_dir="out",
    kl_coef=0.1, learning_rate=lr, num_ppo_epochs=1 + 1,
    per_device_train_batch_size=4,
    stop_token="eos",
    **more,
)
peft = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], task_type="CAUSAL_LM")
model = ModelConfig(model_name_or_path="gpt2", lora_r=99)
"""


def test_python(imported: Import) -> None:
    found = imported(SCRIPT, "train.py")
    assert isinstance(found.config, PPOConfig)
    assert (found.config.kl.kl_coef, found.config.run.output_dir) == (0.1, "out")
    assert (found.config.model.lora_r, found.config.model.lora_alpha) == (4, 8)
    assert found.config.model.model_name_or_path == "gpt2"
    unread = {it.name: it.why for it in found.of("not read")}
    assert set(unread) == {"learning_rate", "num_ppo_epochs", "**more"}
    assert "lr is no literal value" in unread["learning_rate"]
    assert "could not be read" in next(line for line in found.text.splitlines() if "learning_rate:" in line)
    assert one(found, "kl_coef").place == "line 11"


def test_python_is_never_run(imported: Import, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    trap = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    text = (
        f"{trap}\nfrom trl import PPOConfig\nPPOConfig(kl_coef={trap}, gamma=[{trap}][0], lam=0.5, **{{'a': {trap}}})\n"
    )
    found = imported(text, "trap.py")
    assert not mark.exists()
    assert {it.name for it in found.of("not read")} >= {"kl_coef", "gamma"}
    assert found.options["lam"] == 0.5


def test_one_of_several_configurations_is_chosen(imported: Import) -> None:
    text = "import trl\ntrl.SFTConfig(packing=False)\ntrl.RewardConfig(max_length=10)\n"
    assert isinstance(imported(text, "both.py", step="sft").config, SFTConfig)
    assert isinstance(imported(text, "both.py", step="reward").config, RewardModelConfig)


LAUNCH = r"""#!/bin/bash
# --kl_coef 3 in a comment
export WANDB_PROJECT=x
mkdir -p logs; cd logs && ls
accelerate launch --config_file ds.yaml --num_processes 8 --mixed_precision bf16 \
    examples/scripts/ppo/ppo_tldr.py --kl_coef 0.02 --kl-estimator=k3 \
    --learning_rate "$LR" --missing_eos_penalty 1.0 \
    --stop_token eos --whiten_rewards --no_remove_unused_columns \
    --lora_target_modules q_proj v_proj --use_peft true --output_dir 'my run' \
    --report_to tensorboard 2>&1 | tee --append logs/train.log
"""


def test_shell(imported: Import) -> None:
    found = imported(LAUNCH, "train.sh")
    assert found.step == "ppo"
    assert isinstance(found.config, PPOConfig)
    assert (found.config.kl.kl_coef, found.config.kl.kl_estimator) == (0.02, "k3")
    assert found.config.run.batch_size == 64
    assert found.config.run.output_dir == "my run"
    assert found.config.model.lora_target_modules == ["q_proj", "v_proj"]
    assert found.config.model.bf16 is True
    assert found.config.reward.whiten_rewards
    assert found.config.tracking.report_to == ["tensorboard"]
    assert [it.name for it in found.of("not read")] == ["learning_rate"]
    assert one(found, "kl_coef").place == "line 5"


@pytest.mark.parametrize(
    ("line", "processes"),
    [
        ("python ppo.py --kl_coef 1", 1),
        ("torchrun --nproc_per_node 4 --nnodes=2 ppo.py --kl_coef 1", 8),
        ("deepspeed --num_gpus 2 ppo.py --kl_coef 1", 2),
        ("CUDA_VISIBLE_DEVICES=0 python -m trl.scripts.ppo --kl_coef 1", 1),
        ("accelerate launch --num_processes $N ppo.py --kl_coef 1", 1),
    ],
)
def test_processes(imported: Import, line: str, processes: int) -> None:
    found = imported(line, "x.sh")
    assert isinstance(found.config, PPOConfig)
    assert found.config.run.batch_size == 8 * processes
    more = imported(line, "x.sh", processes=3)
    assert isinstance(more.config, PPOConfig)
    assert more.config.run.batch_size == 24


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('python ppo.py --kl_coef 0.1 --output_dir ";a|b>c#d" --lam 0.5', ";a|b>c#d"),
        ("python ppo.py --kl_coef 0.1 --output_dir 'it''s' --lam 0.5", "its"),
        ("python ppo.py --kl_coef 0.1 --output_dir a\\ b --lam 0.5 # --lam 0.7", "a b"),
        ("python ppo.py --kl_coef 0.1 --output_dir a#b --lam 0.5>log.txt; ls", "a#b"),
        ("python ppo.py --kl_coef 0.1 --output_dir 2 --lam 0.5 2>&1", "2"),
        ("python ppo.py --kl_coef 0.1 > 'my log' 2>&1 --output_dir x --lam 0.5 &> all < /dev/null", "x"),
        ("x=1 && time python ppo.py --kl_coef 0.1 --output_dir x=y --lam 0.5 && echo '' \"\"", "x=y"),
    ],
)
def test_words_of_a_shell(imported: Import, text: str, name: str) -> None:
    found = imported(text, "x.sh")
    assert (found.options["output_dir"], found.options["lam"], found.of("unknown")) == (name, 0.5, [])


def test_the_yaml_that_a_command_names_is_read_and_flags_win(imported: Import, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("kl_coef: 0.3\ngamma: 0.9\n", encoding="utf-8")
    found = imported("trl ppo --config base.yaml --kl_coef 0.2", "x.sh")
    assert (found.options["kl_coef"], found.options["gamma"]) == (0.2, 0.9)
    absent = imported("trl ppo --config other.yaml --kl_coef 0.2", "x.sh")
    assert [it.name for it in absent.of("not read")] == ["config"]


def test_one_of_several_commands_is_chosen(imported: Import) -> None:
    text = "trl sft --max_length 10\npython reward_modeling.py --max_length 20\npython ppo.py --kl_coef 1\n"
    lengths = {step: imported(text, "all.sh", step=step).options.get("max_length") for step in ("sft", "reward", "ppo")}
    assert lengths == {"sft": 10, "reward": 20, "ppo": None}


def test_what_is_written_loads_again_and_says_the_same(imported: Import) -> None:
    """import_settings compares them itself; here with texts that YAML would take for something else."""
    texts = [
        "on",
        "1e3",
        "a: b # c",
        "- x",
        "'",
        '"',
        "null",
        "~",
        "你好",
        "2001-01-01",
        "a\tb",
        "{}",
        "%x",
        "!!y",
        "*z",
    ]
    for text in texts:
        found: Imported = imported({"kl_coef": 0.1, "output_dir": text, "sft_model_path": text})
        assert isinstance(found.config, PPOConfig)
        assert found.config.run.output_dir == found.config.model.model_name_or_path == text
