"""The sections about learning: the KL penalty, PPO itself, PPO-ptx, the optimiser."""

from typing import Annotated, Literal

from pydantic import Field

from clearppo.config.kinds import OnlyIf
from clearppo.config.model_sections import WITH_CRITIC
from clearppo.config.section import Section

_BY_TOKEN = OnlyIf(
    "advantage_estimator",
    "in",
    "it credits whole answers, not tokens",
    "--advantage_estimator gae",
    value=("gae", "reinforce++"),
)
_NOT_GRPO = OnlyIf(
    "advantage_estimator",
    "in",
    "it scales within each prompt already",
    "--advantage_estimator gae",
    value=("gae", "rloo", "reinforce++"),
)
_FALLS = OnlyIf(
    "lr_scheduler_type",
    "in",
    "the rate does not fall",
    "--lr_scheduler_type cosine",
    value=("linear", "cosine", "inverse_sqrt"),
)
_WITH_CLIP = OnlyIf("cliprange", "is set", "the policy's ratio is not clipped at all", "--cliprange 0.2")
_ADAPTIVE = OnlyIf(
    "kl_controller", "equals", "the coefficient stays at kl_coef", "--kl_controller adaptive", value="adaptive"
)
_IN_LOSS = OnlyIf("kl_loss_coef", "is positive", "the loss holds no KL", "--kl_loss_coef 0.01")
_WITH_PTX = OnlyIf("ptx_coef", "is positive", "no pretraining loss is mixed in", "--ptx_coef 27.8")
_LEARNER_READS = OnlyIf(
    "old_log_probs",
    "in",
    "the sampler's own numbers are the old ones, and the ratio corrects for them already",
    "--old_log_probs learner",
    value=("auto", "learner"),
)
_WITH_CAP = OnlyIf("importance_cap", "is set", "no weights correct the draws", "--importance_cap 2")
_CRITIC_LEARNS = OnlyIf("vf_coef", "is positive", "the critic does not learn", "--vf_coef 0.1")


class KLConfig(Section):
    """反馈, how far the policy may go: the penalty on the KL divergence from the reference, equation (1)."""

    kl_coef: float = Field(
        default=0.05,
        ge=0,
        le=1_000_000,
        description="Score units charged for a nat of KL, taken from every token's reward. Too low: the policy drifts "
        "into whatever fools the reward. Too high: it stays where it was. Usual: 0.01 to 0.2; 0 switches "
        "it off.",
    )
    kl_estimator: Annotated[
        Literal["k1", "k2", "k3", "full"],
        OnlyIf("kl_coef", "is positive", "no KL is charged", "--kl_coef 0.05"),
    ] = Field(
        default="k1",
        description="How a token's KL is measured. k1: log-ratio, the article's. k2: half its square, never negative, "
        "biased. k3: never negative, unbiased. full: over the whole vocabulary, exact, more memory. As a reward only "
        "k1 has the KL's gradient (docs/math.md): keep it unless you compare.",
    )
    kl_loss_coef: float = Field(
        default=0.0,
        ge=0,
        le=1_000_000,
        description="Weight of a KL term in the loss itself, beside or instead of the penalty in the reward (GRPO: "
        "0.04 or 0.001). 0: none.",
    )
    kl_loss_estimator: Annotated[Literal["k2", "k3", "full"], _IN_LOSS] = Field(
        default="k3",
        description="How a token's KL is measured in the loss. k2 has the right gradient on fresh samples; k3 is "
        "GRPO's; full is exact, over the whole vocabulary, with a forward pass of the reference in every step.",
    )
    kl_controller: Literal["fixed", "adaptive"] = Field(
        default="fixed",
        description="fixed keeps kl_coef. adaptive raises it while the KL of an answer is above kl_target and lowers "
        "it while below (Ziegler et al. 2019).",
    )
    kl_target: Annotated[float, _ADAPTIVE] = Field(
        default=6.0,
        gt=0,
        description="The KL from the reference that adaptive steers to, in nats a whole answer. Usual: 3 to 10.",
    )
    kl_horizon: Annotated[float, _ADAPTIVE] = Field(
        default=10000.0,
        gt=0,
        description="Slowness of adaptive, in episodes: the coefficient changes by at most 20 % x batch_size / "
        "kl_horizon an iteration.",
    )


class PPOSection(Section):
    """学习: credit for each token, and the losses of equations (3) to (9) with their usual extensions."""

    num_ppo_epochs: int = Field(
        default=4,
        ge=1,
        description="How often each batch of answers is learned from before new ones are sampled. Usual: 1 to 4.",
    )
    num_mini_batches: int = Field(
        default=1,
        ge=1,
        description="Optimiser steps an epoch: the batch is split into so many equal parts. It must divide batch_size.",
    )
    advantage_estimator: Literal["gae", "rloo", "grpo", "reinforce++"] = Field(
        default="gae",
        description="What an answer's tokens are credited with. gae: a critic's estimate, PPO proper. Without a "
        "critic: rloo, its reward less the mean of the prompt's other answers; grpo, its reward in standard "
        "deviations from the prompt's mean; reinforce++, the rewards to come, whitened over the batch.",
    )
    gamma: Annotated[float, _BY_TOKEN] = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Discount a token. 1: a reward counts the same however far ahead, right for answers of bounded "
        "length.",
    )
    lam: Annotated[float, WITH_CRITIC] = Field(
        default=0.95,
        ge=0,
        le=1,
        description="GAE's lambda. 1 trusts the rewards that came (no bias, noisy; the article), 0 trusts the critic's "
        "next value. Usual: 0.95 to 1.",
    )
    critic_lam: Annotated[float | None, WITH_CRITIC, _CRITIC_LEARNS] = Field(
        default=None,
        ge=0,
        le=1,
        description="Another lambda for the critic's targets (VAPO's decoupled GAE: 1 here, 0.95 for the policy). "
        "none: lam for both.",
    )
    cliprange: float | None = Field(
        default=0.2,
        gt=0,
        lt=1,
        description="A token stops pushing once its probability ratio new/old has left 1 - cliprange .. 1 + cliprange. "
        "none: no clipping, the article's (7).",
    )
    cliprange_high: Annotated[float | None, _WITH_CLIP] = Field(
        default=None,
        gt=0,
        le=1000,
        description="Another bound on the upper side, 1 + cliprange_high: above cliprange it lets rare good tokens "
        "grow faster. none: as cliprange. Usual: 0.28.",
    )
    dual_clip: Annotated[float | None, _WITH_CLIP] = Field(
        default=None,
        gt=1,
        description="Bound on the ratio of tokens with negative advantage, which clipping leaves unbounded (Ye et al. "
        "2020). Usual: 3.",
    )
    importance_cap: Annotated[float | None, _LEARNER_READS] = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Where sampling and learning compute in different ways (bf16, another engine), each token's loss "
        "weighs p_old / p_sampler, at most so much (truncated importance weights). Usual: 2. none: every token weighs "
        "the same.",
    )
    importance_level: Annotated[Literal["token", "sequence"], _WITH_CAP] = Field(
        default="token",
        description="What an importance weight is of. token: of each token alone, a small bias and little noise. "
        "sequence: of the whole answer, the product over its tokens, right but soon at the cap for long answers.",
    )
    cliprange_value: Annotated[float | None, WITH_CRITIC, _CRITIC_LEARNS] = Field(
        default=0.2,
        gt=0,
        description="The critic's loss counts a value at most so far from its old value, in score units. none: plain "
        "squared error, (8).",
    )
    vf_coef: Annotated[float, WITH_CRITIC] = Field(
        default=0.1,
        ge=0,
        le=1_000_000,
        description="Weight of the critic's loss beside the actor's, the 0.1 of equation (9).",
    )
    critic_warmup_steps: Annotated[int, WITH_CRITIC, _CRITIC_LEARNS] = Field(
        default=0,
        ge=0,
        description="In so many first iterations only the critic learns, and the policy waits until its values mean "
        "something (PPO-max). Usual: 0 to 20.",
    )
    entropy_coef: float = Field(
        default=0.0,
        ge=0,
        le=1_000_000,
        description="Bonus for a nat of entropy a token, against early narrowing. Usual: 0 to 0.01; too much makes "
        "nonsense.",
    )
    whiten_advantages: Annotated[bool, _NOT_GRPO] = Field(
        default=True,
        description="Shift and scale each batch's advantages to mean 0, variance 1, so that the step does not depend "
        "on the score's scale.",
    )
    unbiased_whitening: bool = Field(
        default=False,
        description="Whiten with the variance over n - 1 (TRL), rather than over n (lm-human-preferences).",
    )
    early_stop_kl: float | None = Field(
        default=None,
        gt=0,
        description="End the update on a batch when a mini-batch's mean approximate KL old -> new exceeds this, in "
        "nats a token: a brake against steps too large. Usual: 0.02 to 0.1.",
    )


class OptimConfig(Section):
    """The optimiser, Adam with decoupled weight decay, and its schedule."""

    learning_rate: float = Field(
        default=3e-6,
        gt=0,
        le=10,
        description="Step size of the policy. Usual: 1e-6 to 5e-6 for full training, 1e-5 to 1e-4 with LoRA or tiny "
        "models.",
    )
    adam_beta1: float = Field(
        default=0.9, ge=0, lt=1, description="Memory of Adam's mean gradient; 0.9 is about 10 steps."
    )
    adam_beta2: float = Field(
        default=0.999,
        ge=0,
        lt=1,
        description="Memory of Adam's mean squared gradient; 0.999 is about 1000 steps, 0.95 about 20.",
    )
    adam_epsilon: float = Field(
        default=1e-5,
        gt=0,
        description="Added to Adam's denominator: parameters with smaller gradients take smaller steps. 1e-5 is PPO's "
        "custom, 1e-8 PyTorch's.",
    )
    adam_style: Literal["torch", "tf"] = Field(
        default="torch",
        description="Where adam_epsilon stands. torch: beside the bias-corrected deviation. tf: beside the raw one, as "
        "TensorFlow 1 had it, which makes the first steps of small gradients much smaller (lm-human-preferences).",
    )
    weight_decay: float = Field(
        default=0.0,
        ge=0,
        description="AdamW's pull of the weights towards 0, as a fraction of the learning rate a step. Usual: 0.",
    )
    lr_scheduler_type: Literal["linear", "constant", "cosine", "inverse_sqrt"] = Field(
        default="linear",
        description="How the learning rate goes on after warm-up: linear or cosine down to min_lr_ratio, with the "
        "inverse square root of the step, or constant.",
    )
    min_lr_ratio: Annotated[float, _FALLS] = Field(
        default=0.0,
        ge=0,
        le=1,
        description="The rate never falls below this share of learning_rate. InstructGPT's reward model: 0.1.",
    )
    warmup_ratio: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of all steps in which the learning rate climbs. Usual: 0 to 0.1.",
    )
    warmup_steps: int | None = Field(
        default=None,
        ge=0,
        description="The same as a number of steps (PPO: of iterations); give one of the two.",
    )
    warmup_start: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of learning_rate that the climb begins with. InstructGPT: 0.1.",
    )
    max_grad_norm: float | None = Field(
        default=1.0, gt=0, description="Longer gradients are scaled down to this norm before each step. none: never."
    )


class PPOOptimConfig(OptimConfig):
    """The optimiser of policy and critic, Adam, and its schedule, which moves once an iteration."""

    critic_learning_rate: Annotated[float | None, WITH_CRITIC, _CRITIC_LEARNS] = Field(
        default=None,
        gt=0,
        le=10,
        description="Step size of the critic's own parameters: its value head, and its network if separate. none: "
        "learning_rate.",
    )
    critic_adam_epsilon: Annotated[float | None, WITH_CRITIC, _CRITIC_LEARNS] = Field(
        default=None,
        gt=0,
        description="Another adam_epsilon for the critic's own parameters (PPO-max). none: adam_epsilon.",
    )


class PtxConfig(Section):
    """PPO-ptx: a language-modelling loss on other text, mixed into every step so that the policy forgets less."""

    ptx_coef: float = Field(
        default=0.0,
        ge=0,
        le=1_000_000,
        description="Weight of the language-modelling loss beside PPO's. InstructGPT and DeepSpeed-Chat: 27.8. 0: "
        "none.",
    )
    ptx_dataset_name: Annotated[str | None, _WITH_PTX] = Field(
        default=None,
        min_length=1,
        description="The text for it: a file or hub dataset of demonstrations or plain text, in any format that "
        "clearppo sft reads.",
    )
    ptx_batch_ratio: Annotated[float, _WITH_PTX] = Field(
        default=1.0,
        gt=0,
        le=1000,
        description="Texts for each answer of a mini-batch. InstructGPT: 8.",
    )
    ptx_max_length: Annotated[int, _WITH_PTX] = Field(
        default=512, ge=2, description="Longest text in tokens. Longer ones are left out and counted, never cut."
    )
    ptx_reduction: Annotated[Literal["sum", "mean"], _WITH_PTX] = Field(
        default="sum",
        description="sum: the gradients of both losses are added (InstructGPT). mean: half of that, as "
        "DeepSpeed-Chat's gradient accumulation makes it.",
    )
