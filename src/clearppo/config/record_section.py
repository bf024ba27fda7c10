"""The section `record` of PPO: what every token earned, kept to be looked at."""

from typing import Annotated

from pydantic import Field

from clearppo.config.kinds import OnlyIf
from clearppo.config.section import Section

_RECORDED = OnlyIf("record_steps", "is positive", "nothing is recorded", "--record_steps 1")


class RecordConfig(Section):
    """What is kept of every token, for `clearppo view` and whoever reads Parquet files. Changes nothing of training."""

    record_steps: int = Field(
        default=1,
        ge=0,
        description="Keep every token of all answers in record/ of output_dir, every so many iterations, the first and "
        "the last always: log-probs, KL, rewards, values, advantages, ratios. 0: never.",
    )
    record_answers: Annotated[int | None, _RECORDED] = Field(
        default=None,
        ge=1,
        description="Keep at most so many answers an iteration, the first of the batch. none: all.",
    )
    record_limit_mib: Annotated[int, _RECORDED] = Field(
        default=2048,
        ge=1,
        description="When the files of record/ are larger than so many MiB together, every second one is removed and "
        "from then on only every second written, again and again: the whole course stays.",
    )
