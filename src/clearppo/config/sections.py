"""The sections of the configuration and every option in them: name, default, range, meaning, and when it has an effect.

A default lives here and nowhere else. `--help`, the errors and the resolved config are written from these declarations.
Leaf names are unique over all sections, so that the command line can be flat.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from clearppo.config.kinds import Allowed, OnlyIf
from clearppo.config.messages import explain
from clearppo.config.values import typed

RewardFunction = str | Callable[..., Any]

_WITH_LORA = OnlyIf("use_peft", "equals", "without LoRA all weights are trained", "--use_peft true", value=True)


class Section(BaseModel):
    """A group of options. Text is read as the option's type; a problem is a ConfigError in one sentence."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=(), arbitrary_types_allowed=True
    )

    @model_validator(mode="wrap")
    @classmethod
    def _in_words(cls, data: object, handler: Callable[[object], Any]) -> Any:
        if isinstance(data, Mapping):
            given = cast(Mapping[str, object], data)
            fields = cls.model_fields
            data = {name: typed(name, fields[name], v) if name in fields else v for name, v in given.items()}
        try:
            return handler(data)
        except ValidationError as error:
            raise explain(cls, data, error) from None


class ModelConfig(Section):
    """The models: which one is trained, where its critic lives, on which device and in which precision."""

    model_name_or_path: str = Field(
        min_length=1,
        description="The language model to train: a directory, a hub name, or the built-in smollm2-135m-instruct. A "
        "frozen copy of it is the reference that the KL is measured from.",
    )
    critic: Literal["shared", "separate"] = Field(
        default="shared",
        description="Where the critic lives. shared: one linear layer on the policy's last hidden state, cheap, the "
        "article's layout. separate: a network of its own, twice the memory, and the two losses cannot "
        "disturb each other.",
    )
    value_model_path: Annotated[
        str | None,
        OnlyIf(
            "critic",
            "equals",
            "a shared critic is a layer on the policy itself",
            "--critic separate",
            value="separate",
        ),
    ] = Field(
        default=None,
        min_length=1,
        description="The model that a separate critic starts from: a directory or hub name, often the reward model's. "
        "none starts it from the policy's own model.",
    )
    use_peft: bool = Field(
        default=False,
        description="Train small LoRA adapters (peft) and leave the weights frozen. Saves most of the optimiser's "
        "memory, and the reference costs none: it is the same weights with the adapters off.",
    )
    lora_r: Annotated[int, _WITH_LORA] = Field(
        default=16,
        ge=1,
        le=65536,
        description="Rank of the LoRA matrices: how much an adapter can learn. Usual: 8 to 64.",
    )
    lora_alpha: Annotated[int, _WITH_LORA] = Field(
        default=32,
        ge=1,
        le=65536,
        description="Scale of the LoRA update, which is multiplied by lora_alpha / lora_r. Usual: once or twice "
        "lora_r.",
    )
    lora_target_modules: Annotated[list[str] | Literal["all-linear"], _WITH_LORA] = Field(
        default="all-linear",
        description="Which layers get adapters: all-linear, or names such as q_proj,v_proj as the model's code spells "
        "them.",
    )
    device: Annotated[str, Allowed("auto, cpu, cuda, cuda:N or mps", "auto")] = Field(
        default="auto",
        pattern=r"^(auto|cpu|mps|cuda(:[0-9]+)?)$",
        description="Where to compute: auto takes CUDA, then Apple's MPS, then the CPU, whichever is there first.",
    )
    dtype: Literal["float32", "bfloat16", "float64"] = Field(
        default="float32",
        description="Number type of the weights. float32 is the safe one; bfloat16 halves the memory, but small "
        "updates are rounded away; float64 is for proofs on tiny models.",
    )
    bf16: Annotated[
        bool | Literal["auto"],
        OnlyIf(
            "dtype",
            "equals",
            "autocast is for float32 weights only",
            "--dtype float32",
            value="float32",
        ),
    ] = Field(
        default="auto",
        description="Compute in bfloat16 over float32 weights (autocast): faster where the hardware has it, at about "
        "three digits. auto: if the hardware has it.",
    )
    attn_implementation: str | None = Field(
        default=None,
        min_length=1,
        description="Attention kernel by transformers' name: eager, sdpa, flash_attention_2 (a package of its own). "
        "none lets transformers choose.",
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="Compute activations again in the backward pass and do not keep them: much less memory for about a "
        "third more time. Changes no result.",
    )
    trust_remote_code: bool = Field(
        default=False,
        description="Run Python code that comes with the model's files. It can do anything on your machine: for models "
        "you trust only.",
    )


class DataConfig(Section):
    """The prompts that the policy answers."""

    dataset_name: str = Field(
        min_length=1,
        description="The prompts: a .jsonl, .json, .csv or .parquet file, or a hub dataset. Each row has a `prompt`, "
        "text or chat messages; all other columns travel to the reward functions.",
    )
    dataset_config: str | None = Field(
        default=None, min_length=1, description="Configuration (subset) of a hub dataset; a file has none."
    )
    dataset_train_split: str = Field(
        default="train", min_length=1, description="Split of a hub dataset to take prompts from; a file has none."
    )
    max_prompt_length: int | None = Field(
        default=None,
        ge=1,
        description="Longest prompt in tokens, chat template included. Longer ones are left out and counted, never "
        "cut. none: a prompt that does not fit the model is an error.",
    )


class SamplingConfig(Section):
    """采样: how the policy answers the prompts."""

    response_length: int = Field(
        default=53,
        ge=1,
        le=1_000_000,
        description="Longest answer in tokens. An answer ends earlier at the end-of-text token or a stop. Time and "
        "memory grow with it. Usual: 20 to 1000.",
    )
    temperature: float = Field(
        default=0.7,
        ge=0.01,
        le=100,
        description="Divides the logits, in sampling and in every log-probability of the losses: the policy trained is "
        "the policy at this temperature. Below 1 is bolder in its choice, above 1 more varied.",
    )
    top_k: int = Field(
        default=0,
        ge=0,
        description="Draw only from so many most likely tokens; 0 draws from all. Cutting makes samples off-policy: "
        "PPO's log-probabilities are of the whole vocabulary. Leave it at 0 to train.",
    )
    top_p: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Draw only from the most likely tokens that together hold this probability; 1 draws from all. "
        "Off-policy like top_k.",
    )
    stop_token_ids: list[int] = Field(
        default=[],
        description="Token ids that end an answer, besides the tokenizer's end-of-text token. The stop token belongs "
        "to the answer and carries the score.",
    )
    stop_strings: list[str] = Field(
        default=[],
        description="Texts that end an answer, besides the end-of-text token. For line ends and commas write YAML: "
        '--stop_strings \'["\\n", "User:"]\'.',
    )
    generation_batch_size: int | None = Field(
        default=None,
        ge=1,
        description="At most so many answers are written at once. It bounds the memory of sampling. none: the whole "
        "batch at once, the fastest.",
    )


class RewardConfig(Section):
    """反馈, what is good: one or more sources of scores. The score of an answer is their weighted sum."""

    reward_funcs: list[RewardFunction] = Field(
        default=[],
        description="Python functions f(prompts, completions, **columns) -> one number an answer, written file.py:name "
        "or package.module:name. Several: repeat the option, or separate with commas.",
    )
    reward_model_path: str | None = Field(
        default=None,
        min_length=1,
        description="A trained reward model: a directory or hub name that AutoModelForSequenceClassification loads "
        "with one label. It reads text with its own tokenizer.",
    )
    reward_weights: list[float] | None = Field(
        default=None,
        description="One factor for each source: the functions in their order, then the reward model. none: 1 for "
        "each.",
    )
    missing_eos_penalty: float | None = Field(
        default=None,
        ge=0,
        le=1_000_000,
        description="Subtracted from the score of an answer that never ended, in score units. Teaches the policy to "
        "come to an end within response_length. Usual: 1.",
    )
    whiten_rewards: bool = Field(
        default=False,
        description="Scale the token rewards of each batch to variance 1, keeping their mean. It rescales score and KL "
        "penalty alike from batch to batch, so kl_coef loses its fixed meaning.",
    )
