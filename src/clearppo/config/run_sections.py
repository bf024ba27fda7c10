"""The sections `run` of the commands that train: how long, in what portions, and where the results go."""

from typing import Annotated, Literal

from pydantic import Field

from clearppo.config.kinds import Allowed
from clearppo.config.section import Section

MicroBatchTokens = Annotated[
    Annotated[int, Field(ge=1)] | Literal["auto"] | None,
    Allowed("a whole number of at least 1, or auto", "auto"),
    Field(
        description="At most so many tokens, padding included, pass through the model at once, beside micro_batch_size "
        "rows; a longer row goes alone. Rows of like length share a micro-batch. auto: what half of the device's free "
        "memory holds in learning. none: no such bound. Changes memory and speed, never the result."
    ),
]


class RunConfig(Section):
    """How long, in what portions, and where the results go."""

    output_dir: str = Field(
        min_length=1,
        description="Directory for the trained model, the critic, metrics.jsonl, samples and the resolved config. "
        "AutoModelForCausalLM.from_pretrained loads it.",
    )
    overwrite_output_dir: bool = Field(
        default=False, description="Replace a run that output_dir already holds. Without it that is an error."
    )
    total_episodes: int = Field(
        default=10000,
        ge=1,
        description="Answers to learn from in all. The run has total_episodes / batch_size iterations, rounded up.",
    )
    batch_size: int = Field(
        default=64,
        ge=1,
        le=1_000_000,
        description="Answers an iteration: sampled, judged, then learned from together. More is steadier and slower.",
    )
    micro_batch_size: int = Field(
        default=16,
        ge=1,
        description="At most so many answers pass through the model at once in judging and learning. Changes memory "
        "and speed, never the result.",
    )
    max_tokens_per_microbatch: MicroBatchTokens = "auto"
    seed: int = Field(
        default=42,
        ge=0,
        le=2**32 - 1,
        description="Seed of all chance: order of prompts, sampling, new weights.",
    )
    sample_steps: int = Field(
        default=10, ge=0, description="Show a table of sample answers every so many iterations; 0 never does."
    )
    logging_steps: int = Field(default=1, ge=1, description="Print a line of metrics every so many iterations.")
    ema_decay: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Keep a running average of the policy, updated once an iteration, in ema_model/. InstructGPT: "
        "0.992, half of it from the last 86 iterations. none: no average.",
    )
    profile: Annotated[list[int] | None, Allowed("a list of whole numbers of at least 1", "2,3")] = Field(
        default=None,
        min_length=1,
        description="Trace these iterations, such as 2 or 2,3 (the first is never typical), into profile/ of "
        "output_dir, for Perfetto and TensorBoard, and print where their time went. Slows them down. none: no trace.",
    )


class TrainRunConfig(Section):
    """How long, in what portions, and where the results go."""

    output_dir: str = Field(
        min_length=1,
        description="Directory for the trained model, metrics.jsonl and the resolved config. transformers loads it.",
    )
    overwrite_output_dir: bool = Field(
        default=False, description="Replace a run that output_dir already holds. Without it that is an error."
    )
    num_train_epochs: float = Field(
        default=1.0,
        gt=0,
        le=100_000,
        description="How often each row is learned from; 0.5 is the first half of a pass.",
    )
    max_steps: int | None = Field(
        default=None,
        ge=1,
        description="Stop after so many optimiser steps, whatever num_train_epochs says. none: do not.",
    )
    batch_size: int = Field(
        default=16,
        ge=1,
        le=1_000_000,
        description="Rows a step: demonstrations, or prompts with their compared answers.",
    )
    micro_batch_size: int = Field(
        default=16,
        ge=1,
        description="At most so many texts pass through the model at once. Changes memory and speed, never the result.",
    )
    max_tokens_per_microbatch: MicroBatchTokens = "auto"
    seed: int = Field(
        default=42, ge=0, le=2**32 - 1, description="Seed of all chance: what is held out, order, new weights."
    )
    eval_steps: int | None = Field(
        default=None,
        ge=1,
        description="Measure on the held-out rows every so many steps. none: after each epoch. At the end in any case.",
    )
    logging_steps: int = Field(default=1, ge=1, description="Print a line of metrics every so many steps.")
