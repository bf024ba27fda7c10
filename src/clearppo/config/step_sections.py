"""The sections of `clearppo sft`, `reward`, `prefs` and `rlhf` that `clearppo ppo` does not have, but for the run's."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field

from clearppo.config.data_sections import AnswerConfig
from clearppo.config.kinds import Allowed, OnlyIf
from clearppo.config.launch_section import CpusPerProcess, Launch, MaxRestarts, NumProcesses, RayAddress
from clearppo.config.learning_sections import OptimConfig
from clearppo.config.section import Section
from clearppo.config.tracking_section import ReportTo, TrackingDir, TrackingProject

_NORMALISED = OnlyIf("score_normalisation", "is set", "scores stay as trained", "--score_normalisation mean-std")
_SCORED = OnlyIf("for_human", "equals", "people compare the answers", "--for_human false", value=False)
_RANKED = OnlyIf(
    "rm_loss", "in", "it compares no pairs of end scores", "--rm_loss pairwise", value=("pairwise", "k-wise")
)


class _TrainData(Section):
    """What is learned from, and what is held out."""

    dataset_name: str = Field(min_length=1)
    dataset_config: str | None = Field(
        default=None, min_length=1, description="Configuration (subset) of a hub dataset; a file has none."
    )
    dataset_train_split: str = Field(
        default="train", min_length=1, description="Split of a hub dataset to learn from; a file has none."
    )
    eval_dataset_name: str | None = Field(
        default=None,
        min_length=1,
        description="Held-out rows to measure with: a file or hub dataset in the same format. none: "
        "dataset_test_split, or eval_fraction of the rows.",
    )
    dataset_test_split: str | None = Field(
        default=None, min_length=1, description="Split of a hub dataset to measure with; a file has none."
    )
    eval_fraction: float = Field(
        default=0.05,
        ge=0,
        le=0.9,
        description="Share of the rows that is held out to measure with when neither eval_dataset_name nor "
        "dataset_test_split is given; never with a prompt on both sides. 0 measures nothing.",
    )
    max_length: int | None = Field(
        default=1024,
        ge=2,
        description="Longest text in tokens, prompt and answer together. Longer ones are left out and counted, never "
        "cut. none: a text that does not fit the model is an error.",
    )


class SFTDataConfig(_TrainData):
    """The demonstrations that are imitated."""

    dataset_name: str = Field(
        min_length=1,
        description="The demonstrations: a .jsonl, .json, .csv or .parquet file, or a hub dataset. Each row has a "
        "`prompt` and a `completion`, chat `messages`, or `text`.",
    )
    completion_only_loss: bool = Field(
        default=True,
        description="Learn to write the completion, or the assistant's messages, and not the prompt before it. Rows "
        "of plain text are learned whole.",
    )


class RewardDataConfig(_TrainData):
    """The comparisons that the reward model learns from, and how it reads an answer."""

    dataset_name: str = Field(
        min_length=1,
        description="The comparisons: a file or a hub dataset. Each row has `chosen` and `rejected` (and a `prompt`, "
        "if they do not begin with it), or a `prompt` and ranked `completions` with `scores`, `ranks` or a `choice`.",
    )
    judgement_template: str | None = Field(
        default=None,
        min_length=1,
        description="What the reward model reads: a text with {conversation} (the chat template over prompt and "
        "answer), or {prompt} and {answer}, ending with words that ask for the judgement, after which the score is "
        "read. Saved with the model and used wherever it scores. none: a general one.",
    )


class RMConfig(Section):
    """How comparisons become a loss, and scores get their scale."""

    rm_loss: Literal["pairwise", "k-wise", "best-of-n", "all-token"] = Field(
        default="k-wise",
        description="pairwise: -log sigmoid of the difference, every pair weighs the same. k-wise: the mean over all "
        "pairs of a prompt's answers, every prompt weighs the same (InstructGPT). best-of-n: softmax over the answers "
        "for the chosen one (lm-human-preferences). all-token: pairwise at every token where a pair differs "
        "(DeepSpeed-Chat).",
    )
    head_init_std: float | None = Field(
        default=0.02,
        ge=0,
        le=10,
        description="Standard deviation of a new score layer's weights; a reward model that is trained further keeps "
        "its own. The larger it is, the more a step moves the scores. none: 1 / sqrt(hidden size + 1), as OpenAI "
        "drew it.",
    )
    center_coef: Annotated[float, _RANKED] = Field(
        default=0.0,
        ge=0,
        le=1000,
        description="Weight of the mean of (score + other score) squared, which keeps scores around 0. Usual: 0 or "
        "0.01.",
    )
    score_normalisation: Literal["mean", "mean-std"] | None = Field(
        default="mean-std",
        description="After training, move the scores on the reference samples to mean 0 (mean), and to standard "
        "deviation 1 as well (mean-std), in the model's own weights, so that whatever loads it gives such scores.",
    )
    reference_dataset_name: Annotated[str | None, _NORMALISED] = Field(
        default=None,
        min_length=1,
        description="The reference samples: a file or hub dataset of prompts with completions, such as the "
        "demonstrations. none: all answers of the training comparisons.",
    )
    clear_gap: float | None = Field(
        default=None,
        ge=0,
        description="In the report, a pair counts as clear if its labels are further apart than this. none: than the "
        "median of the held-out pairs.",
    )


class SFTOptimConfig(OptimConfig):
    """The optimiser, Adam with decoupled weight decay, and its schedule."""

    learning_rate: float = Field(
        default=2e-5,
        gt=0,
        le=10,
        description="Step size. Usual: 1e-5 to 5e-5 for full training, 1e-4 to 2e-4 with LoRA.",
    )
    adam_epsilon: float = Field(
        default=1e-8,
        gt=0,
        description="Added to Adam's denominator: parameters with smaller gradients take smaller steps.",
    )


class RMOptimConfig(SFTOptimConfig):
    """The optimiser, Adam with decoupled weight decay, and its schedule."""

    learning_rate: float = Field(
        default=1e-5, gt=0, le=10, description="Step size. Usual: 3e-6 to 5e-5 for full training, 1e-4 with LoRA."
    )


class CandidatesConfig(AnswerConfig):
    """How the answers that are compared are drawn from the model."""

    num_completions: int = Field(
        default=4,
        ge=1,
        le=10_000,
        description="Answers to each prompt. Usual: 4 to 9, and 2 to 4 for people. 1 is for people who compare models: "
        "clearppo label takes several files.",
    )


class LabelConfig(Section):
    """Who compares the answers: a Python function, a reward model, a judge behind a URL, or people; one of the four."""

    labeller: str | Callable[..., Any] | None = Field(
        default=None,
        description="A Python function f(prompts, completions, **columns) -> one number an answer, higher is better, "
        "written file.py:name or package.module:name.",
    )
    reward_model_path: str | None = Field(
        default=None, min_length=1, description="A trained reward model: a directory or hub name with one label."
    )
    judge_url: str | None = Field(
        default=None,
        min_length=1,
        description='A server that takes POST {"prompts": [...], "completions": [...]} and answers {"scores": [...]}.',
    )
    for_human: bool = Field(
        default=False, description="Write the answers without any judgement, for people to compare with clearppo label."
    )
    min_gap: Annotated[float, _SCORED] = Field(
        default=0.0,
        ge=0,
        le=1_000_000,
        description="Answers whose scores differ by no more than this are a tie, which is written as no pair.",
    )
    max_prompts: int | None = Field(
        default=None,
        ge=1,
        description="Use at most so many prompts, the first of a seeded order. none: all, in theirs.",
    )


class PrefsRunConfig(Section):
    """Where the comparisons go."""

    output_file: str = Field(
        min_length=1, description="The .jsonl file of comparisons to write, which clearppo reward reads."
    )
    overwrite_output_file: bool = Field(
        default=False, description="Replace output_file if it is there. Without it that is an error."
    )
    micro_batch_size: int = Field(
        default=16, ge=1, description="At most so many texts pass through a reward model, or go to a judge, at once."
    )
    seed: int = Field(default=42, ge=0, le=2**32 - 1, description="Seed of all chance: which prompts, and sampling.")


class PipelineConfig(Section):
    """SFT, reward model and PPO in a row: what they start from. Every step begins with the files of the one before."""

    model_name_or_path: str = Field(
        min_length=1,
        description="The language model that all begins with: a directory, a hub name, or the built-in "
        "smollm2-135m-instruct.",
    )
    demonstrations: str | None = Field(
        default=None,
        min_length=1,
        description="What step sft imitates, in any format of clearppo sft. none: no such step, model_name_or_path "
        "has been fine-tuned already.",
    )
    comparisons: str | None = Field(
        default=None,
        min_length=1,
        description="What step reward learns from, in any format of clearppo reward. none: step prefs makes them, or "
        "a reward model or function is given.",
    )
    prompts: str = Field(min_length=1, description="What step ppo, and step prefs if there is one, answers: prompts.")
    labeller: str | Callable[..., Any] | None = Field(
        default=None,
        description="Make the comparisons: sample answers to the prompts from the fine-tuned model and have them "
        "compared by this Python function, file.py:name.",
    )
    judge_url: str | None = Field(
        default=None, min_length=1, description="The same with a judge behind a URL (see clearppo prefs)."
    )
    reward_model_path: str | None = Field(
        default=None, min_length=1, description="A trained reward model. With it there are no steps prefs and reward."
    )
    output_dir: str = Field(
        min_length=1,
        description="Directory of the pipeline, with one directory a step: sft, comparisons.jsonl, reward, ppo.",
    )
    overwrite_output_dir: bool = Field(
        default=False,
        description="Make again what other settings made. Without it that is an error; what the same settings made is "
        "kept and skipped in any case.",
    )
    device: Annotated[str, Allowed("auto, cpu, cuda, cuda:N or mps", "auto")] = Field(
        default="auto",
        pattern=r"^(auto|cpu|mps|cuda(:[0-9]+)?)$",
        description="Where all steps compute: auto takes CUDA, then Apple's MPS, then the CPU, whichever is there "
        "first.",
    )
    seed: int = Field(default=42, ge=0, le=2**32 - 1, description="Seed of every step.")
    report_to: ReportTo = None
    tracking_project: TrackingProject = "clearppo"
    tracking_dir: TrackingDir = None
    launch: Launch = "here"
    num_processes: NumProcesses = 1
    cpus_per_process: CpusPerProcess = 1
    ray_address: RayAddress = None
    max_restarts: MaxRestarts = 3
