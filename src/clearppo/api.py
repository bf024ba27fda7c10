"""The front door in Python: the same as the command line, without one."""

from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from clearppo.config import CommandConfig, PPOConfig, PrefsConfig, RewardModelConfig, SFTConfig, load_config
from clearppo.engines.environment import is_first, place
from clearppo.errors import DeviceError
from clearppo.models.policy import Policy

if TYPE_CHECKING:
    from clearppo.train.comparing import PrefsSummary
    from clearppo.train.listener import Listener
    from clearppo.train.reward import RewardRun
    from clearppo.train.reward_report import RewardReport
    from clearppo.train.run import PPORun
    from clearppo.train.sft import SFTRun


@dataclass(frozen=True, kw_only=True)
class PPOResult:
    """What a run gives back: where its files are, the metrics of every iteration, the trained policy, its tokenizer."""

    output_dir: Path
    history: list[dict[str, float]]
    policy: Policy
    tokenizer: Any


@dataclass(frozen=True, kw_only=True)
class SFTResult:
    """Where the fine-tuned model is, and the metrics of every step."""

    output_dir: Path
    history: list[dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class RewardResult:
    """Where the reward model is, the metrics of every step, and the report (None if nothing was held out)."""

    output_dir: Path
    history: list[dict[str, float]]
    report: "RewardReport | None"


def ppo(
    *, recipe: str | None = None, config_path: str | Path | None = None, console: bool = False, **options: Any
) -> PPOResult:
    """Train with PPO. `options` are the options of `clearppo ppo` by name; `reward_funcs` may hold Python functions.

        import clearppo

        def score(prompts, completions, **columns):
            return [completion.count("!") for completion in completions]

        clearppo.ppo(model_name_or_path="smollm2-135m-instruct", dataset_name="prompts.jsonl",
                     reward_funcs=[score], output_dir="runs/first")

    `console` shows the progress that the command line shows. Raises ClearPPOError with one clear sentence.
    """
    return train_ppo(
        load_config(PPOConfig, recipe=recipe, config_path=_path(config_path), flags=options), console=console
    )


def sft(
    *, recipe: str | None = None, config_path: str | Path | None = None, console: bool = False, **options: Any
) -> SFTResult:
    """Fine-tune on demonstrations. `options` are the options of `clearppo sft` by name. Raises ClearPPOError."""
    return train_sft(
        load_config(SFTConfig, recipe=recipe, config_path=_path(config_path), flags=options), console=console
    )


def reward(
    *, recipe: str | None = None, config_path: str | Path | None = None, console: bool = False, **options: Any
) -> RewardResult:
    """Train a reward model. `options` are the options of `clearppo reward` by name. Raises ClearPPOError."""
    config = load_config(RewardModelConfig, recipe=recipe, config_path=_path(config_path), flags=options)
    return train_reward(config, console=console)


def prefs(
    *, recipe: str | None = None, config_path: str | Path | None = None, console: bool = False, **options: Any
) -> "PrefsSummary":
    """Make comparisons. `options` are the options of `clearppo prefs` by name; `labeller` may be a Python function."""
    config = load_config(PrefsConfig, recipe=recipe, config_path=_path(config_path), flags=options)
    return make_prefs(config, console=console)


def train_ppo(config: PPOConfig, *, console: bool = False) -> PPOResult:
    """Build and run what `config` says."""
    from clearppo.build.ppo import build_ppo

    with _watching(console) as listener:
        with _loading(config):
            run = build_ppo(config, listener=listener)
        history = _trained(run)
    return PPOResult(output_dir=run.run_dir.path, history=history, policy=run.policy, tokenizer=run.tokenizer)


def train_sft(config: SFTConfig, *, console: bool = False) -> SFTResult:
    """Build and run what `config` says."""
    from clearppo.build.steps import build_sft

    with _watching(console) as listener:
        with _loading(config):
            run = build_sft(config, listener=listener)
        return SFTResult(history=_trained(run), output_dir=run.run_dir.path)


def train_reward(config: RewardModelConfig, *, console: bool = False) -> RewardResult:
    """Build and run what `config` says."""
    from clearppo.build.steps import build_reward

    with _watching(console) as listener:
        with _loading(config):
            run = build_reward(config, listener=listener)
        return RewardResult(history=_trained(run), output_dir=run.run_dir.path, report=run.report)


def make_prefs(config: PrefsConfig, *, console: bool = False) -> "PrefsSummary":
    """Build and run what `config` says."""
    from clearppo.build.prefs import build_prefs
    from clearppo.train.comparing import PrefsSummary

    with _watching(console) as listener:
        made = list[PrefsSummary]()

        def make() -> dict[str, Any]:
            made.append(build_prefs(config, listener=listener).train())
            return {**asdict(made[0]), "path": str(made[0].path)}

        told = sharing(config)(make)
    return made[0] if made else PrefsSummary(**{**told, "path": Path(told["path"])})


def sharing(config: CommandConfig) -> Callable[[Callable[[], Any]], Any]:
    """Of several processes one does what a function does, and all know what it returns: plain values. A ClearPPOError
    is raised on all."""
    if place().world == 1:
        return lambda call: call()
    from clearppo.build.common import sharing as shared

    return shared(cast(SFTConfig, config).model.device)


def check_inputs(config: CommandConfig, unmade: Container[str] = ()) -> None:
    """Read what a step reads, with no model loaded, so that a mistake in the last of several steps costs no hours.

    Files and models in `unmade` are not there yet: an earlier step will make them. Raises ClearPPOError, as the step
    itself would.
    """
    from clearppo.build.ppo import check_ppo
    from clearppo.build.prefs import check_prefs
    from clearppo.build.steps import check_reward, check_sft

    match config:
        case SFTConfig():
            check_sft(config)
        case PrefsConfig():
            check_prefs(config, unmade)
        case RewardModelConfig():
            check_reward(config, unmade)
        case PPOConfig():
            check_ppo(config, unmade)
        case _:
            raise TypeError(f"{type(config).__name__} is no step.")


def _trained(run: "PPORun | SFTRun | RewardRun") -> list[dict[str, float]]:
    """The metrics of every round. However the run ends, other processes may then use its directory.

    Raises DeviceError where torch knows no algorithm that `--deterministic` allows.
    """
    try:
        return run.train()
    except RuntimeError as error:
        if "use_deterministic_algorithms(True)" not in str(error):
            raise
        what = str(error).partition(", but ")[0]
        raise DeviceError(
            f"deterministic = true cannot be had here: {what}. Leave out --deterministic, or use --device cpu."
        ) from error
    finally:
        run.run_dir.release()


@contextmanager
def _loading(config: SFTConfig | RewardModelConfig | PPOConfig) -> Iterator[None]:
    """While the models are loaded, which may be more than the memory holds."""
    from clearppo.train.shortage import memory_told

    with memory_told(config, lambda: "loading the models"):
        yield


@contextmanager
def _watching(console: bool) -> "Iterator[Listener | None]":
    """Somebody who shows the progress, or nobody; and of several processes one that ends tells the others."""
    with company():
        if not console or not is_first():
            yield None
            return
        from clearppo.console import console_listener

        with console_listener() as listener:
            yield listener


@contextmanager
def company() -> Iterator[None]:
    """What goes wrong in one of several processes is told to the others, if they have met."""
    if place().world == 1:
        yield
        return
    from clearppo.engines.group import met_together

    with met_together():
        yield


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)


RUNNERS: dict[str, Callable[..., Any]] = {
    "sft": train_sft,
    "prefs": make_prefs,
    "reward": train_reward,
    "ppo": train_ppo,
}
"""What runs each step of a pipeline."""
