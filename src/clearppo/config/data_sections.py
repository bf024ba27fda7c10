"""The sections about data, sampling and scores: each option's name, default, range, meaning, and when it has an effect.

A default lives in these files and nowhere else. `--help`, the errors and the resolved config are written from these
declarations. Leaf names are unique over all sections of a command, so that the command line can be flat.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field

from clearppo.config.kinds import Allowed, OnlyIf
from clearppo.config.section import Section

_ENDS = OnlyIf(
    "fixed_length", "equals", "an answer of fixed length ends nowhere else", "--fixed_length false", value=False
)

_SERVED = OnlyIf("reward_urls", "is given", "no server is asked for scores", "--reward_urls http://HOST:PORT/score")

RewardFunction = str | Callable[..., Any]


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


class AnswerConfig(Section):
    """How answers are drawn from a model."""

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
        description="Divides the logits before a token is drawn. Below 1 is bolder in its choice, above 1 more varied.",
    )
    top_k: int = Field(
        default=0,
        ge=0,
        description="Draw only from so many most likely tokens; 0 draws from all.",
    )
    top_p: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Draw only from the most likely tokens that together hold this probability; 1 draws from all.",
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


class SamplingConfig(AnswerConfig):
    """采样: how the policy answers the prompts."""

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
    stop_token_ids: Annotated[list[int], _ENDS] = Field(
        default=[],
        description="Token ids that end an answer, besides the tokenizer's end-of-text token. The stop token belongs "
        "to the answer and carries the score.",
    )
    stop_strings: Annotated[list[str], _ENDS] = Field(
        default=[],
        description="Texts that end an answer, besides the end-of-text token. For line ends and commas write YAML: "
        '--stop_strings \'["\\n", "User:"]\'.',
    )
    old_log_probs: Literal["auto", "learner", "sampler"] = Field(
        default="auto",
        description="Whose log-probabilities are the old ones. learner: it reads the answers once more. sampler: those "
        "from sampling, rounded or not, without that pass. auto: the sampler's where they equal the learner's "
        "(float32) or the only step of an update sees the old policy anyway, else the learner's.",
    )
    num_generations: int = Field(
        default=1,
        ge=1,
        le=1_000_000,
        description="Answers to each prompt of a batch, which then holds batch_size / num_generations prompts. RLOO "
        "and GRPO compare the answers to one prompt and need 2 or more. Usual: 1 with a critic, 4 to 16 without.",
    )
    fixed_length: bool = Field(
        default=False,
        description="Every answer has exactly response_length tokens, and an end-of-text token ends nothing "
        "(lm-human-preferences). All of them are learned from.",
    )
    truncate_token: str | None = Field(
        default=None,
        min_length=1,
        description="What scores an answer sees only its beginning, up to and with the first of this token (a text "
        "that is one token, such as . or a line end). The policy still learns from all tokens.",
    )
    truncate_after: Annotated[int, OnlyIf("truncate_token", "is set", "no answer is cut", "--truncate_token .")] = (
        Field(
            default=0,
            ge=0,
            description="Look for truncate_token from this token of the answer on; an answer without one there did not "
            "end. lm-human-preferences: 16 of 24.",
        )
    )


class RewardConfig(Section):
    """反馈, what is good: one or more sources of scores. The score of an answer is their weighted sum."""

    reward_funcs: list[RewardFunction] = Field(
        default=[],
        description="Python functions f(prompts, completions, **columns) -> one number an answer, written file.py:name "
        "or package.module:name. Several: repeat the option, or separate with commas.",
    )
    reward_worker: Annotated[
        bool,
        OnlyIf("reward_funcs", "is given", "there is no reward function", "--reward_funcs file.py:name"),
    ] = Field(
        default=False,
        description="Call the reward functions in a process of their own each: one that hangs or crashes ends no run "
        "by itself. The functions must be importable, and the prompts' columns such that JSON has them.",
    )
    reward_timeout: Annotated[
        float | None,
        OnlyIf(
            "reward_worker",
            "equals",
            "a function can be stopped in a process of its own only",
            "--reward_worker true",
            value=True,
        ),
    ] = Field(
        default=None,
        gt=0,
        le=1_000_000,
        description="Seconds that a reward function may take for a batch. Then its process is ended and the batch "
        "given to a new one, once; after that the run stops, and names the rows. none: any time.",
    )
    reward_urls: Annotated[list[str], Allowed("a list of http or https addresses", "http://localhost:8000/score")] = (
        Field(
            default=[],
            description="Servers that give scores, such as clearppo serve-reward: each is sent POST "
            '{"prompts": [...], "completions": [...], and the other columns} and answers {"scores": [...]}.',
        )
    )
    reward_url_format: Annotated[Literal["clearppo", "openrlhf"], _SERVED] = Field(
        default="clearppo",
        description='openrlhf: servers made for OpenRLHF, which take {"query", "prompts", "labels"} (labels: the '
        'column label) and answer {"rewards": [...]}.',
    )
    reward_batch_size: Annotated[int, _SERVED] = Field(
        default=16, ge=1, le=1_000_000, description="Answers a request to a server of reward_urls."
    )
    reward_concurrency: Annotated[int, _SERVED] = Field(
        default=4, ge=1, le=256, description="Requests that are under way at a server of reward_urls at once."
    )
    reward_request_timeout: Annotated[float, _SERVED] = Field(
        default=60.0,
        gt=0,
        le=1_000_000,
        description="Seconds that a server may be silent before a request counts as failed and is sent again.",
    )
    reward_patience: Annotated[float, _SERVED] = Field(
        default=300.0,
        ge=0,
        le=1_000_000,
        description="Seconds for which a request that fails (no connection, no answer, HTTP 429, 503 and their kind) "
        "is sent again, at growing intervals or when the server says. Then the run stops.",
    )
    reward_auth_env: Annotated[str | None, _SERVED] = Field(
        default=None,
        min_length=1,
        description="Name of an environment variable whose value goes to reward_urls as Authorization: Bearer VALUE. "
        "The value is written nowhere.",
    )
    reward_missing: Literal["stop", "drop"] = Field(
        default="stop",
        description="An answer without a score: null from a server, or None from all functions that could have scored "
        "it. stop: the run ends and names it. drop: it is left out of the update and counted in rewards/dropped; with "
        "RLOO and GRPO so are the other answers to its prompt.",
    )
    reward_model_path: str | None = Field(
        default=None,
        min_length=1,
        description="A trained reward model: a directory or hub name that AutoModelForSequenceClassification loads "
        "with one label. It reads text with its own tokenizer.",
    )
    share_trunk: Annotated[
        bool | Literal["auto"],
        OnlyIf("reward_model_path", "is set", "there is no reward model", "--reward_model_path DIR"),
        OnlyIf("use_peft", "equals", "without LoRA the policy's own weights move", "--use_peft true", value=True),
    ] = Field(
        default="auto",
        description="Keep no weights for a reward model that clearppo reward trained with LoRA from the very weights "
        "that the policy starts from: its adapter and head go onto the policy's. true: an error if that cannot be. "
        "auto: wherever it can. Changes no score.",
    )
    reward_weights: list[float] | None = Field(
        default=None,
        description="One factor for each source: the functions in their order, then the servers in theirs, then the "
        "reward model. none: 1 for each.",
    )
    missing_eos_penalty: float | None = Field(
        default=None,
        ge=0,
        le=1_000_000,
        description="Subtracted from the score of an answer that never ended, in score units. Teaches the policy to "
        "come to an end within response_length. Usual: 1.",
    )
    missing_eos_score: float | None = Field(
        default=None,
        ge=-1_000_000,
        le=1_000_000,
        description="The score, whatever the sources said, of an answer that never ended (lm-human-preferences: -1). "
        "missing_eos_penalty subtracts instead.",
    )
    score_scaling: Literal["running-std", "running", "reference"] | None = Field(
        default=None,
        description="Bring scores to one scale before clipping: running-std divides by the standard deviation of all "
        "scores so far, running subtracts their mean as well (PPO-max), reference uses mean and deviation of the start "
        "model's answers, measured once. none: as they are.",
    )
    score_clip: float | None = Field(
        default=None,
        gt=0,
        le=1_000_000,
        description="Scores beyond -score_clip .. score_clip are cut to it, after scaling. DeepSpeed-Chat: 5.",
    )
    whiten_rewards: bool = Field(
        default=False,
        description="Scale the token rewards of each batch to variance 1, keeping their mean. It rescales score and KL "
        "penalty alike from batch to batch, so kl_coef loses its fixed meaning.",
    )
