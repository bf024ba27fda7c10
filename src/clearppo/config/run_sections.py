"""The sections `run` of the commands that train: how long, in what portions, and where the results go."""

from typing import Annotated, Literal

from pydantic import Field

from clearppo.config.kinds import Allowed, OnlyIf
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

SaveLimit = Annotated[
    int | None,
    OnlyIf("save_steps", "is positive", "no checkpoint is written", "--save_steps 50"),
    Field(
        ge=1,
        description="Keep so many checkpoints, the newest; the best one stays beside them. While one is written the "
        "disk must hold one more. none: keep all.",
    ),
]
Resume = Annotated[
    str | None,
    Allowed("auto, or the directory of a checkpoint", "auto"),
    Field(
        min_length=1,
        description="Go on with the run in output_dir as if it had never stopped: auto takes its newest checkpoint "
        "that is whole, and starts afresh if there is none. Or name one, such as runs/first/checkpoint-50. none: no.",
    ),
]
AllowChanged = Annotated[
    bool,
    OnlyIf("resume_from_checkpoint", "is set", "this run goes on with no other", "--resume_from_checkpoint auto"),
    Field(
        description="Go on although options differ that make the result something else; without it that is an error "
        "which names them. The result is then that of no single configuration."
    ),
]
Deterministic = Annotated[
    bool,
    Field(
        description="Use only algorithms that give the same bits every time, so that two runs with one seed are equal "
        "on a GPU too: slower there, and an error where there is none. A CPU needs no such thing."
    ),
]

Sharding = Annotated[
    Literal["none", "full", "auto"],
    Field(
        description="What several processes (torchrun) do with the weights of a model's layers, their gradients and "
        "the optimiser's memory. none: each has all. full: each has a share (FSDP2), and gets the rest layer by layer "
        "while it computes; less memory, more traffic. auto: full if all does not fit.",
    ),
]
Offload = Annotated[
    Literal["none", "cpu"],
    OnlyIf("sharding", "in", "each process has all weights", "--sharding full", value=("full", "auto")),
    Field(
        description="Where weights that are shared out, their gradients and the optimiser's memory are kept. none: on "
        "the GPU. cpu: in the host's memory, where the optimiser computes too; a layer's weights are on the GPU while "
        "they are needed.",
    ),
]

MaxBadSteps = Annotated[
    int,
    Field(
        ge=1,
        description="So many steps in a row that cannot be taken end the run: a loss, gradient, score or log-prob that "
        "is not finite. Fewer are left out, each with a note, and its batch is saved in faults/ of output_dir. 1: the "
        "first one ends the run.",
    ),
]
OnBadSteps = Annotated[
    Literal["stop", "rollback"],
    OnlyIf("save_steps", "is positive", "there is no checkpoint to go back to", "--save_steps 50"),
    Field(
        description="What follows max_bad_steps bad steps in a row. stop: the run ends. rollback: it goes back to the "
        "newest checkpoint and draws other answers from there, three times at most.",
    ),
]
WatchdogMinutes = Annotated[
    float | None,
    Field(
        gt=0,
        le=100_000,
        description="If no phase begins or ends for so long, print where each thread stands, and write it into "
        "watchdog-1.txt of output_dir; the run goes on. none: nobody looks.",
    ),
]

RESUMING = ("resume_from_checkpoint", "allow_changed_options")
"""How a run begins, and nothing of what it does: no part of a resolved configuration."""


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
    deterministic: Deterministic = False
    sharding: Sharding = "none"
    offload: Offload = "none"
    offload_frozen: bool = Field(
        default=False,
        description="Keep the weights of the reference and of reward models in the host's memory, and on the GPU only "
        "while they read. Less memory for the price of moving them twice an iteration.",
    )
    sample_steps: int = Field(
        default=10, ge=0, description="Show a table of sample answers every so many iterations; 0 never does."
    )
    logging_steps: int = Field(default=1, ge=1, description="Print a line of metrics every so many iterations.")
    save_steps: int = Field(
        default=50,
        ge=0,
        description="Write a checkpoint every so many iterations, and when the run is interrupted: all that it takes "
        "to go on, about three times the weights that learn. 0: none.",
    )
    save_total_limit: SaveLimit = 2
    resume_from_checkpoint: Resume = None
    allow_changed_options: AllowChanged = False
    max_bad_steps: MaxBadSteps = 3
    on_bad_steps: OnBadSteps = "stop"
    watchdog_minutes: WatchdogMinutes = 30
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
    deterministic: Deterministic = False
    sharding: Sharding = "none"
    offload: Offload = "none"
    eval_steps: int | None = Field(
        default=None,
        ge=1,
        description="Measure on the held-out rows every so many steps. none: after each epoch. At the end in any case.",
    )
    logging_steps: int = Field(default=1, ge=1, description="Print a line of metrics every so many steps.")
    save_steps: int = Field(
        default=500,
        ge=0,
        description="Write a checkpoint every so many steps, and when the run is interrupted: all that it takes to go "
        "on, about three times the weights that learn. 0: none.",
    )
    save_total_limit: SaveLimit = 2
    resume_from_checkpoint: Resume = None
    allow_changed_options: AllowChanged = False
    max_bad_steps: MaxBadSteps = 3
    watchdog_minutes: WatchdogMinutes = 30
