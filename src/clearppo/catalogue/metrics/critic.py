"""Metrics of PPO about the critic, and about sampler and learner: do two models agree that should?"""

from clearppo.catalogue.words import MetricWords

CRITIC = {
    "critic/vf_explained_var": MetricWords(
        title=("explained variance", "可解释方差"),
        brief=(
            "How much of the returns the critic foresaw: 1 is all, 0 is no better than a constant. Should rise.",
            "回报中有多少被评论家料到：1 是全部，0 等于只会报一个常数。应当上升。",
        ),
        healthy=(
            "around 0 or below in the first iterations, then 0.2 to 0.9",
            "最初几次在 0 附近或以下，之后 0.2 到 0.9",
        ),
        high=("above 0.95: returns hardly depend on what the policy does", "大于 0.95：回报几乎不取决于策略做了什么"),
        low=(
            "below 0 for many iterations: the critic misleads; advantages would be better without it",
            "连续多次小于 0：评论家在误导，没有它反而更好",
        ),
        causes=(
            (
                "it has not learned yet: --critic_warmup_steps 10, or a larger --critic_learning_rate",
                "还没学会：--critic_warmup_steps 10，或调大 --critic_learning_rate",
            ),
            (
                "scores are large against --cliprange_value, so values may not follow",
                "得分相对 --cliprange_value 太大，价值跟不上",
            ),
            (
                "the value model was trained on another scale: --value_model_path, --score_scaling",
                "价值模型的尺度不同：--value_model_path、--score_scaling",
            ),
        ),
        options=("critic", "critic_learning_rate", "vf_coef", "cliprange_value", "critic_warmup_steps", "lam"),
        equation="(8)",
        source="of one batch; lm-human-preferences took the ratio of two means (train_policy.py:241)",
        similar=("explained_variance", "var_explained", "ppo/val/var_explained", "ev"),
    ),
    "val/clipfrac_avg": MetricWords(
        title=("clip fraction of the critic", "评论家的裁剪比例"),
        brief=(
            "Share of tokens whose value may not move further in this update. Small is good.",
            "价值在这次更新里不许再动的 token 所占比例。小为好。",
        ),
        healthy=("0 to 0.2", "0 到 0.2"),
        high=(
            "above 0.5: the critic is held back; raise --cliprange_value, or scale the scores",
            "大于 0.5：评论家被拖住；调大 --cliprange_value，或缩放得分",
        ),
        low=("0: the bound is never met", "为 0：从未碰到界限"),
        options=("cliprange_value", "critic_learning_rate", "score_scaling"),
        source="TRL (val/clipfrac_avg)",
        similar=("vf_clipfrac", "critic/vf_clipfrac", "ppo/val/clipfrac"),
    ),
    "val/error": MetricWords(
        title=("squared error of the values", "价值的平方误差"),
        brief=(
            "Mean squared distance of value and return while learning. Lower is better.",
            "学习时价值与回报之差的平方均值。越低越好。",
        ),
        healthy=("below returns/var once the critic has learned", "评论家学会之后低于 returns/var"),
        high=("above returns/var: a constant would do better", "高于 returns/var：报一个常数都更好"),
        options=("critic_learning_rate", "vf_coef"),
        equation="(8)",
        source="lm-human-preferences, train_policy.py (ppo/val/error)",
    ),
    "val/mean": MetricWords(
        title=("mean value", "平均价值"),
        brief=(
            "What the critic expected. It should meet returns/mean, what came.",
            "评论家的预期。应当与实际的 returns/mean 靠拢。",
        ),
        healthy=(
            "within a fraction of sqrt(returns/var) of returns/mean",
            "与 returns/mean 之差只是 sqrt(returns/var) 的一小部分",
        ),
        high=(
            "above returns/mean: the critic hopes for too much, and every advantage leans down",
            "高于 returns/mean：评论家期望过高，优势普遍偏低",
        ),
        low=("below returns/mean: every advantage leans up", "低于 returns/mean：优势普遍偏高"),
        options=("critic_learning_rate", "critic_warmup_steps", "whiten_advantages"),
        similar=("values", "value", "critic/values/mean", "ppo/val/mean"),
    ),
    "returns/mean": MetricWords(
        title=("mean return", "平均回报"),
        brief=(
            "What came from a token to the end of its answer, on average.",
            "从一个 token 到回答结尾实际得到的，取平均。",
        ),
        healthy=("moves with objective/rlhf_reward", "与 objective/rlhf_reward 同向变化"),
        options=("gamma", "lam", "kl_coef"),
        equation="(3)",
        source="lm-human-preferences, train_policy.py (ppo/returns/mean)",
        similar=("returns", "critic/returns/mean"),
    ),
    "returns/var": MetricWords(
        title=("variance of the returns", "回报的方差"),
        brief=(
            "How different the returns of tokens are: what the critic has to explain.",
            "各 token 的回报相差多大：评论家要解释的就是它。",
        ),
        healthy=("about reward_std squared", "约为 reward_std 的平方"),
        high=(
            "large scores: the critic needs longer, or --score_scaling",
            "得分很大：评论家需要更久，或用 --score_scaling",
        ),
        low=("0: every answer earns the same", "为 0：每条回答所得相同"),
        options=("score_scaling", "gamma"),
        equation="(3)",
        source="lm-human-preferences, train_policy.py (ppo/returns/var)",
    ),
}
"""How well the critic knows."""

SAMPLING = {
    "sampling/staleness": MetricWords(
        title=("updates behind", "落后几次更新"),
        brief=(
            "How many updates old the weights were that drew these answers. Absent where the present ones did.",
            "抽这些回答的权重落后几次更新。由现在的权重抽取时没有这个数。",
        ),
        healthy=("absent, or 1 with --overlap_generation", "没有，或用 --overlap_generation 时为 1"),
        high=(
            "answers of an old policy: --importance_cap corrects the actor's loss, and smaller steps keep it small",
            "回答来自旧策略：--importance_cap 校正演员的损失，步子小一些误差就小",
        ),
        options=("overlap_generation", "importance_cap"),
        source="ClearPPO, docs/ray.md",
    ),
    "sampling/log_prob_difference": MetricWords(
        title=("sampler against learner", "采样器与学习者"),
        brief=(
            "Mean difference of the log-probabilities that sampler and learner give the same token. Should be near 0.",
            "同一个 token，采样器与学习者给出的对数概率平均相差多少。应当接近 0。",
        ),
        healthy=(
            "below 1e-5 in float32, 1e-3 to 0.02 with bf16; larger with --top_k or --top_p, which cut",
            "float32 下小于 1e-5，bf16 下 1e-3 到 0.02；用 --top_k、--top_p 截断时更大",
        ),
        high=(
            "samples come from another policy than the one that learns, and the ratio is wrong from the start",
            "样本来自另一个策略，比率从一开始就是错的",
        ),
        causes=(
            (
                "--top_k or --top_p cut the distribution: leave them at 0 and 1",
                "--top_k 或 --top_p 截断了分布：保持 0 和 1",
            ),
            (
                "half precision, or another engine: --importance_cap 2 corrects, --bf16 false removes it",
                "半精度或另一个引擎：--importance_cap 2 可以校正，--bf16 false 可以消除",
            ),
        ),
        options=("old_log_probs", "importance_cap", "bf16", "top_k", "top_p"),
        source="truncated importance sampling: IMPALA, arXiv 1802.01561",
        similar=("mismatch", "rollout_probs_diff", "off_policy"),
    ),
    "sampling/importance_weight": MetricWords(
        title=("importance weight", "重要性权重"),
        brief=(
            "Mean weight p_old / p_sampler, at most the cap. Should be near 1.",
            "权重 p_old / p_sampler 的均值，不超过上限。应当接近 1。",
        ),
        healthy=("0.98 to 1.02", "0.98 到 1.02"),
        high=(
            "the learner finds the drawn tokens likelier than the sampler did: rounding, or other weights",
            "学习者比采样器更看好抽到的 token：舍入，或权重不同",
        ),
        low=(
            "the sampler draws from a part of the vocabulary only: --top_p or --top_k cut it",
            "采样器只从词表的一部分里抽：被 --top_p 或 --top_k 截断",
        ),
        options=("importance_cap", "old_log_probs", "bf16"),
        source="IMPALA, arXiv 1802.01561",
    ),
    "sampling/importance_capped": MetricWords(
        title=("share at the cap", "达到上限的比例"),
        brief=(
            "Share of tokens whose importance weight is the cap. Should be near 0.",
            "重要性权重达到上限的 token 所占比例。应当接近 0。",
        ),
        healthy=("below 0.01", "小于 0.01"),
        high=("the cap distorts many tokens: mend the mismatch itself", "上限扭曲了很多 token：应消除不一致本身"),
        options=("importance_cap", "old_log_probs", "bf16"),
        source="IMPALA, arXiv 1802.01561",
    ),
}
"""Whether what samples and what learns is the same policy."""
