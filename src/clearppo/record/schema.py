"""What stands in output_dir/record/step-000012.parquet: one row an answer (docs/record.md).

The file's own metadata hold, under METADATA_KEY, a JSON object about the iteration as a whole.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

VERSION = 1
"""Of the format. A reader refuses files of a higher one."""
METADATA_KEY = b"clearppo"
DIRECTORY = "record"
"""Below output_dir; `rundir.RECORD` is the same word."""
ROWS_A_GROUP = 64
"""So many answers are read together: one alone costs little, and a file of thousands stays small."""

Kind = Literal["int32", "string", "bool", "float", "struct", "list<int32>", "list<string>", "list<float>", "ratios"]


@dataclass(frozen=True)
class Column:
    """A column: its name, its kind and what it says. `float` is float32, in a run of float64 float64."""

    name: str
    kind: Kind
    meaning: str

    @property
    def typename(self) -> str:
        """The type as documents write it."""
        return {"struct": "struct<source: float>", "ratios": "list<list<float>>"}.get(self.kind, self.kind)


COLUMNS = (
    Column("row", "int32", "place in the batch, from 0"),
    Column("prompt_id", "string", "first 12 hex digits of the SHA-256 of the prompt as JSON: equal prompts, equal ids"),
    Column("prompt", "string", "the prompt; a conversation as JSON, a list of messages"),
    Column("completion", "string", "the answer as the scorers read it: without special tokens, cut if it is truncated"),
    Column("finish_reason", "string", "`stop` or `length`"),
    Column("score", "float", "what lands on the last token: scaled, clipped, fined; null: nobody scored the answer"),
    Column("raw_score", "float", "the weighted sum of the sources as they gave it; null as above"),
    Column("parts", "struct", "each source of the score, before weighting; null where one did not apply"),
    Column("length", "int32", "tokens of the answer, the one that ended it included"),
    Column("kl", "float", "KL from the reference in nats, the sum over the tokens"),
    Column("reward", "float", "the sum of the tokens' rewards"),
    Column("advantage", "float", "the mean of the tokens' advantages; null: the answer was left out of learning"),
    Column("learned", "bool", "whether the answer was learned from"),
    Column("token_ids", "list<int32>", "the answer's tokens"),
    Column("tokens", "list<string>", "each token's own piece of text; joined they are the answer, special tokens too"),
    Column("log_probs", "list<float>", "`old_log_probs`: log p of each token when it was sampled, in nats"),
    Column("sampler_log_probs", "list<float>", "the same by the distribution that was drawn from (top_k, top_p)"),
    Column("ref_log_probs", "list<float>", "log p by the frozen reference"),
    Column("kls", "list<float>", "the estimate of KL(policy || reference) at each token"),
    Column("rewards", "list<float>", "equations (1) and (2), whitened where the run does that"),
    Column("values", "list<float>", "the critic's value before each token; null: there is no critic"),
    Column("returns", "list<float>", "equation (3), what the critic learns; null: not learned from"),
    Column("advantages", "list<float>", "equation (4), what the actor learns; null: not learned from"),
    Column("ratios", "ratios", "for each epoch exp(log_prob - old_log_prob) of each token; null: not read then"),
    Column("prompt_ids", "list<int32>", "the prompt's tokens"),
)
"""All columns, in their order."""
SCALARS = tuple(column.name for column in COLUMNS if column.kind not in ("ratios",) and "list" not in column.kind)
"""The columns with one value an answer."""
TOKENS = tuple(c.name for c in COLUMNS if "list" in c.kind and c.name != "prompt_ids")
"""The columns with one value for each token of the answer."""

Rule = Literal["count", "number", "bool", "text", "scaling", "affine", "settings"]


@dataclass(frozen=True)
class Field:
    """A field of the metadata: its name, what it holds, and whether it may be null."""

    name: str
    rule: Rule
    meaning: str
    null: bool = False
    least: int = 0
    """Of a count."""

    def holds(self, value: Any) -> bool:
        """Whether a value is one that this field can have."""
        if value is None:
            return self.null
        match self.rule:
            case "count":
                return isinstance(value, int) and not isinstance(value, bool) and value >= self.least
            case "number":
                return _is_number(value)
            case "bool":
                return isinstance(value, bool)
            case "text":
                return isinstance(value, str)
            case "scaling":
                return _has(value, kind=str, mean=float, std=float)
            case "affine":
                return _has(value, shift=float, scale=float)
            case "settings":
                return isinstance(value, dict) and all(
                    x is None or isinstance(x, str) or _is_number(x) for x in value.values()
                )


_FIELDS = (
    Field("version", "count", "of this format: 1", least=1),
    Field("step", "count", "the iteration, from 1", least=1),
    Field("n_answers", "count", "answers that were sampled; the file may hold fewer"),
    Field("n_tokens", "count", "tokens that were learned from in the whole batch"),
    Field("temperature", "number", "of sampling; it divides the logits in every log-prob"),
    Field("policy_version", "count", "iterations that the policy had learned in when it answered"),
    Field("kl_coef", "number", "the factor on the KL in the rewards of this iteration"),
    Field("kl_estimator", "text", "`k1`, `k2`, `k3` or `full`"),
    Field("score_scaling", "scaling", "`kind`, `mean` and `std`: raw_score became (raw_score - mean) / std", null=True),
    Field("score_clip", "number", "the bound of the scaled score", null=True),
    Field("missing_eos_penalty", "number", "what an unfinished answer lost", null=True),
    Field("missing_eos_score", "number", "the score that every unfinished answer got", null=True),
    Field("whiten_rewards", "affine", "`shift` and `scale`: the reward is (that of (2) + shift) * scale", null=True),
    Field("estimator", "text", "of the advantages: `gae`, `rloo`, `grpo` or `reinforce++`"),
    Field("group_size", "count", "answers to one prompt, in adjacent rows", least=1),
    Field("gamma", "number", "discount"),
    Field("lam", "number", "lambda of GAE"),
    Field("critic_lam", "number", "the lambda of the returns, where it is another", null=True),
    Field("whiten_advantages", "affine", "the same of the advantages: (the plain one + shift) * scale", null=True),
    Field("critic_only", "bool", "whether only the critic learned in this iteration"),
    Field("learning_rate", "number", "of this iteration"),
    Field("epochs", "count", "how often the batch was to be read", least=1),
    Field("num_mini_batches", "count", "optimiser steps an epoch", least=1),
    Field("objective", "settings", "the numbers of the loss, by name (`learning.Objective`)"),
    Field("first_is_old", "bool", "whether the loss took its own pass's log-probs for the old ones: the ratio is 1"),
)
METADATA = {field.name: field for field in _FIELDS}
"""The fields of the metadata by name, in their order."""


def schema(parts: Sequence[str], *, double: bool = False) -> pa.Schema:
    """The columns of a run whose score has these sources. `double`: its numbers are float64."""
    number = pa.float64() if double else pa.float32()
    types: dict[Kind, pa.DataType] = {
        "int32": pa.int32(),
        "string": pa.string(),
        "bool": pa.bool_(),
        "float": number,
        "struct": pa.struct([(name, number) for name in parts]),
        "list<int32>": pa.list_(pa.int32()),
        "list<string>": pa.list_(pa.string()),
        "list<float>": pa.list_(number),
        "ratios": pa.list_(pa.list_(number)),
    }
    return pa.schema([(column.name, types[column.kind]) for column in COLUMNS])


def file_name(step: int) -> str:
    """The name of an iteration's file."""
    return f"step-{step:06d}.parquet"


def step_of(path: Path) -> int | None:
    """The iteration that a file is of by its name; None: it is none."""
    number = path.name.removeprefix("step-").removesuffix(".parquet")
    return int(number) if number.isascii() and number.isdecimal() and path.name == file_name(int(number)) else None


def prompt_id(prompt: Any) -> str:
    """What prompts are told apart by: a string, or a list of messages."""
    return hashlib.sha256(_json(prompt).encode("utf-8", "surrogatepass")).hexdigest()[:12]


def prompt_cell(prompt: Any) -> str:
    """A prompt as the column holds it."""
    return prompt if isinstance(prompt, str) else _json(prompt)


def prompt_of(cell: str, its_id: str) -> Any:
    """What `prompt_cell` was given: the text, or the list of messages. A text that looks like JSON stays a text, for
    its id is that of a text."""
    return cell if prompt_id(cell) == its_id else json.loads(cell)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _has(value: Any, **kinds: type[str] | type[float]) -> bool:
    if not isinstance(value, dict):
        return False
    cells = [(value.get(name), kind) for name, kind in kinds.items()]
    return all(_is_number(cell) if kind is float else isinstance(cell, kind) for cell, kind in cells)


def _json(prompt: Any) -> str:
    return json.dumps(prompt, ensure_ascii=False, default=str)
