"""What is looked for: each rule with the metrics that it reads, when it rings, and what can be done about it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from clearppo.alarms import answers, rewards, steps
from clearppo.alarms.history import History
from clearppo.alarms.sight import Sight


@dataclass(frozen=True, kw_only=True)
class Rule:
    """An alarm: `look` says of the newest iteration whether its condition holds, once for each thing it looks at, and
    nothing where its numbers are missing. It begins when that was so `patience` times in a row.

    `rings` is the condition in words, as docs/alarms.md has it.
    """

    name: str
    metrics: tuple[str, ...]
    look: Callable[[History], Iterable[Sight]]
    patience: int
    rings: str
    advice: str


_ALL = (
    Rule(
        name="kl_runaway",
        metrics=(answers.KL, answers.ENTROPY, answers.LENGTH),
        look=answers.kl_runaway,
        patience=3,
        rings="the KL of an answer is above half the entropy that one of its length had in the first iteration (the "
        "whole of it where kl_coef is 0), above 5 nats, and above twice kl_target",
        advice="Raise --kl_coef or lower --learning_rate, and read some answers: so far from its reference a policy "
        "mostly pleases the reward with what nobody wants.",
    ),
    Rule(
        name="entropy_collapse",
        metrics=(answers.EXACT_ENTROPY,),
        look=answers.entropy_collapse,
        patience=3,
        rings="the next token's entropy is below 0.4 x that of the first iteration; not where that is below 0.05 nats",
        advice="Lower --learning_rate or --num_ppo_epochs, raise --kl_coef, or try --entropy_coef 0.01.",
    ),
    Rule(
        name="length_growth",
        metrics=(answers.LENGTH,),
        look=answers.length_growth,
        patience=3,
        rings="the median of 5 iterations is above 1.5 x the start, and 10 tokens above it",
        advice="See in clearppo view whether longer answers are better or only score higher; clearppo doctor measures "
        "how far the reward goes with length. Raise --kl_coef, or set --missing_eos_penalty 1.",
    ),
    Rule(
        name="length_shrink",
        metrics=(answers.LENGTH,),
        look=answers.length_shrink,
        patience=3,
        rings="the median of 5 iterations is below half the start, and 4 tokens below it",
        advice="See in clearppo view whether short answers are better or only score higher; clearppo doctor measures "
        "what an empty one gets. Raise --kl_coef.",
    ),
    Rule(
        name="repetition",
        metrics=(answers.REPEATED,),
        look=answers.repetition,
        patience=3,
        rings="the share of repeated 4-grams is above 3 x that of the first iteration, and 0.15 above it",
        advice="Raise --kl_coef, or add a reward that does not like repetition; clearppo doctor measures what a "
        "repeated token gets from this one.",
    ),
    Rule(
        name="held_out_apart",
        metrics=(rewards.WON, f"{rewards.WON}/<source>", rewards.RAW),
        look=rewards.held_out_apart,
        patience=2,
        rings="in 2 evaluations in a row a held-out measure's win rate against the start model is below its best by "
        "more than 2 standard errors of the difference (at least 0.1), and the optimised score is not below what it "
        "was then. The optimised score on held-out prompts is such a measure too, against that of training",
        advice="The policy pleases its scorer and nobody else. Take an earlier checkpoint (--metric_for_best_model), "
        "raise --kl_coef, or train a reward model on more and other data.",
    ),
    Rule(
        name="critic_useless",
        metrics=(steps.EXPLAINED,),
        look=steps.critic_useless,
        patience=3,
        rings="the median explained variance of 8 iterations is below -0.3 and below 0.6 x that of the 8 before; so "
        "not in the first 15, and not while it gets better fast",
        advice="Let the critic learn faster (--critic_learning_rate, --vf_coef) or first (--critic_warmup_steps 10), "
        "start it from the reward model (--critic separate --value_model_path DIR), or do without "
        "(--advantage_estimator rloo --num_generations 4).",
    ),
    Rule(
        name="clipping_saturated",
        metrics=(steps.CLIPPED, steps.MOVED),
        look=steps.clipping_saturated,
        patience=5,
        rings="more than 0.3 of the tokens are clipped; at once where an update moves the policy by more than 10 "
        "nats a token",
        advice="Lower --learning_rate or --num_ppo_epochs, or end an update early with --early_stop_kl 0.05.",
    ),
    Rule(
        name="sampler_mismatch",
        metrics=(steps.MISMATCH,),
        look=steps.sampler_mismatch,
        patience=2,
        rings="sampler and learner disagree by more than 3 x the start, but at least 0.1 and at most 0.3 nats a token",
        advice="Try --bf16 false: if it goes away it was rounding, and --importance_cap 2 corrects for it. Else what "
        "samples has other weights than what learns.",
    ),
    Rule(
        name="gradient_spike",
        metrics=(steps.GRADIENT,),
        look=steps.gradient_spike,
        patience=1,
        rings="the norm is above 5 x the median of up to 20 iterations before, and 10 robust deviations above it",
        advice="--max_grad_norm bounds such a step. If it comes again, lower --learning_rate, and see in clearppo view "
        "what was odd about the answers of this iteration.",
    ),
    Rule(
        name="reward_constant",
        metrics=("rewards/<source>/std", "rewards/<source>/mean"),
        look=rewards.reward_constant,
        patience=1,
        rings="a source gives 8 or more answers of a batch the same score; where that is 0 or 1, in as many iterations "
        "in a row as make 128 answers, 3 at least",
        advice="See what the source is given and what it returns: clearppo doctor tries it. Where every answer is "
        "right, or every one wrong, take harder or easier prompts.",
    ),
    Rule(
        name="reward_jump",
        metrics=("rewards/<source>/mean", "rewards/<source>/std"),
        look=rewards.reward_jump,
        patience=1,
        rings="the mean of a source was for 2 iterations on one side of the 3 before, further away than 1.5 standard "
        "deviations of an answer, 6 standard errors of a batch, and 6 robust deviations of its own steps",
        advice="See whether the source has become another: a server with a new model, a function that gives a default "
        "where it fails. If so, go back to a checkpoint from before.",
    ),
    Rule(
        name="never_ending",
        metrics=(answers.CUT, answers.LENGTH),
        look=answers.never_ending,
        patience=3,
        rings="no answer has ended for 6000 tokens and 64 answers; or in the median of 5 iterations the share that is "
        "cut is at least 0.9, and 0.3 above its start. Not with fixed_length",
        advice="See with clearppo doctor whether the stop token can come at all. Raise --response_length, set "
        "--missing_eos_penalty 1, or, where answers are meant to be cut, --fixed_length true.",
    ),
)
RULES = {rule.name: rule for rule in _ALL}
