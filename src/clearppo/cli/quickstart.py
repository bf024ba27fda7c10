"""`clearppo quickstart`: SFT, a reward model and PPO on a real language model, in minutes, on a laptop."""

import json
import shlex
import time
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from clearppo.build.evaluation import ModelComparison
    from clearppo.config import Pipeline

MODEL = "smollm2-135m-instruct"


@click.command()
@click.option("--seed", type=int, default=None, help="Seed of the whole run; another one gives another run.")
@click.option("--output_dir", default=None, help="Where the run goes. Default: the first free runs/quickstart[-N].")
@click.option(
    "--total_episodes", type=int, default=None, help="Answers that PPO learns from; fewer: faster and weaker."
)
@click.option("--model_name_or_path", default=MODEL, show_default=True, help="Another language model to try it on.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
def quickstart(
    seed: int | None, output_dir: str | None, total_episodes: int | None, model_name_or_path: str, device: str
) -> None:
    """Teach SmolLM2-135M to write cheerful continuations, in the three steps of RLHF.

    It is fine-tuned on 200 demonstrations. Then it writes eight answers to each of some prompts, and VADER, a small
    sentiment scorer, plays the human who compares them; a reward model learns from these comparisons. PPO improves the
    policy against the reward model. At the end all is measured on 160 prompts that took no part in it: the reward
    model's score, VADER's, and that of TextBlob, a second opinion that nothing was optimised for; how far the policy
    went, and whether it improved in truth or only in its reward model's eyes.
    """
    from clearppo.config import load_pipeline

    flags: dict[str, Any] = {
        "model_name_or_path": model_name_or_path,
        "demonstrations": str(packaged("demonstrations")),
        "prompts": str(packaged("train")),
        "labeller": "clearppo.feedback.sentiment:vader",
        "output_dir": output_dir or str(free_directory(Path("runs/quickstart"))),
        "device": device,
    }
    chosen = {"seed": seed, "ppo.total_episodes": total_episodes}
    flags |= {name: value for name, value in chosen.items() if value is not None}
    pipeline = load_pipeline(recipe="quickstart", flags=flags)

    from clearppo.cli.quickstart_tables import result_of, show
    from clearppo.disk import replace_whole
    from clearppo.pipeline import run_pipeline

    began = time.monotonic()
    run_pipeline(pipeline, console=True, tell=headline)
    headline("measuring on 160 prompts that took no part in it")
    comparison = measure(pipeline)
    directory = Path(pipeline.options.output_dir).expanduser()
    report = json.loads((Path(pipeline.outputs["reward"]) / "reward_report.json").read_text(encoding="utf-8"))

    result = result_of(comparison, report)
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    replace_whole(directory / "evaluation.json", text.encode())
    show(result, directory, time.monotonic() - began)
    click.echo(look_inside(directory))


def look_inside(directory: Path) -> str:
    """Write the report and say how to see more, or why there is none: the packages that it takes are an extra."""
    from clearppo.errors import ClearPPOError
    from clearppo.ui.report import write_report

    try:
        [page] = write_report(directory)
    except ClearPPOError as error:
        return f"No report: {error}"
    place = shlex.quote(str(directory))
    return (
        f"The report:  {page}  (clearppo report {place} writes it again)\n"
        f"Look inside: clearppo view {place}  (every answer, every token, in the browser)"
    )


def headline(text: str) -> None:
    """A line that stands out between the steps."""
    click.echo(click.style(f"\n=== {text}", bold=True))


def packaged(name: str) -> Path:
    """A file that comes with ClearPPO: the `train` and `heldout` prompts, the `demonstrations`."""
    return Path(str(files("clearppo.data") / "quickstart" / f"{name}.jsonl"))


def free_directory(wanted: Path) -> Path:
    """`wanted`, or wanted-2, wanted-3, ... if it is taken."""
    place, n = wanted, 1
    while place.exists() and any(place.iterdir()):
        n += 1
        place = wanted.with_name(f"{wanted.name}-{n}")
    return place


def measure(pipeline: "Pipeline") -> "ModelComparison":
    """The fine-tuned model and the PPO-trained one on the held-out prompts, by all three measures."""
    from clearppo.build.evaluation import compare_models
    from clearppo.cli.quickstart_tables import LABELLER, N_ANSWERS, REWARD_MODEL, WITNESS
    from clearppo.config import PPOConfig

    ppo = pipeline.steps["ppo"]
    assert isinstance(ppo, PPOConfig)
    return compare_models(
        pipeline.outputs["sft"],
        pipeline.outputs["ppo"],
        prompts=str(packaged("heldout")),
        functions={
            LABELLER: "clearppo.feedback.sentiment:vader",
            WITNESS: "clearppo.feedback.sentiment:textblob",
        },
        reward_models={REWARD_MODEL: pipeline.outputs["reward"]},
        sampling=ppo.sampling,
        n_answers=N_ANSWERS,
        device=ppo.model.device,
    )
