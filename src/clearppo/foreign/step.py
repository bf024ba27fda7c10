"""Which of TRL's configurations a file is for, by the names in it."""

from pathlib import Path

from clearppo.config.messages import listed
from clearppo.errors import ConfigError
from clearppo.foreign.found import Source
from clearppo.foreign.trl_old import OLD_PPO
from clearppo.foreign.trl_steps import PPO, REWARD, SFT

STEPS = ("sft", "reward", "ppo")

OF_PPO = (set(PPO) | set(OLD_PPO)) - set(SFT) - set(REWARD)
OF_SFT = set(SFT) - set(PPO) - set(REWARD)
OF_REWARD = set(REWARD) - set(PPO) - set(SFT)
OLD_ONLY = set(OLD_PPO) - set(PPO)
NEW_ONLY = set(PPO) - set(OLD_PPO)

# A name that only another program's file has, and the program.
OTHERS = {
    "actor_rollout_ref": "verl", "algorithm": "verl", "stage": "LlamaFactory", "finetuning_type": "LlamaFactory",
    "actor": "OpenRLHF", "rollout": "OpenRLHF", "prompt_data": "OpenRLHF", "init_kl_coef_ctl": "OpenRLHF",
    "actor_model_name_or_path": "DeepSpeed-Chat", "critic_model_name_or_path": "DeepSpeed-Chat",
    "num_generations": "GRPO", "beta": "DPO or GRPO", "use_vllm": "GRPO",
}  # fmt: skip


def step_of(source: Source, file: Path, asked: str | None) -> str:
    """The step that the file is for. Raises ConfigError if it does not tell, or says another than is asked for."""
    if not source.settings and not source.unread and source.step is None and asked is None:
        raise ConfigError(
            f"{file} holds no settings. Give a file that sets options of TRL's PPOConfig, such as kl_coef."
        )
    if asked is not None:
        if source.step is not None and source.step != asked:
            raise ConfigError(
                f"{file} is for step {source.step}, and --step {asked} asks for another. Leave out --step."
            )
        return asked
    if source.step is not None:
        return source.step
    names = set(source.settings)
    found = [step for step, own in (("ppo", OF_PPO), ("sft", OF_SFT), ("reward", OF_REWARD)) if names & own]
    if len(found) == 1:
        return found[0]
    other = next((program for name, program in OTHERS.items() if name in names), None)
    if other is not None and not found:
        raise ConfigError(
            f"{file} looks like a file for {other}, and import-config reads TRL's PPO, SFT and reward settings. Write "
            "the options by hand: docs/from-other-tools.md has their names here."
        )
    if found:
        own = {"ppo": OF_PPO, "sft": OF_SFT, "reward": OF_REWARD}
        said = [f"{sorted(names & own[step])[0]} ({step})" for step in found]
        raise ConfigError(f"{file} has settings of several steps: {listed(said)}. Say which one is meant: --step ppo.")
    raise ConfigError(
        f"{file} has no setting that only one of TRL's steps has, so it does not tell its step. Say it: --step sft, "
        "--step reward or --step ppo."
    )


def is_old(source: Source) -> bool:
    """Whether these are names of TRL 0.11 and earlier."""
    names = set(source.settings)
    old, new = len(names & OLD_ONLY), len(names & NEW_ONLY)
    if old == new == 0:
        return bool(names & {"batch_size", "mini_batch_size"})
    return old > new
