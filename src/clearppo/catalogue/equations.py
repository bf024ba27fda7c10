"""The article's equations, and the numbers of a token that they speak of."""

from clearppo.catalogue.words import EquationWords, QuantityWords

EQUATIONS = {
    "(1)": EquationWords(
        title=("process reward", "过程奖励"),
        formula="process_reward[i,j] = ref_log_prob[i,j] - old_log_prob[i,j]",
        meaning=(
            "Every token is charged for how much more probable the policy finds it than the reference does. Our runs "
            "multiply it by the KL coefficient.",
            "策略比参考模型更看好一个 token 多少，就为此扣多少。我们的训练再乘上 KL 系数。",
        ),
        function="core.rewards.rewards",
        options=("kl_coef", "kl_estimator", "kl_controller"),
    ),
    "(2)": EquationWords(
        title=("reward", "奖励"),
        formula="reward[i,j] = process_reward[i,j],  + score[i] on the last token",
        meaning=("The score lands on the last token of the answer.", "得分落在回答的最后一个 token 上。"),
        function="core.rewards.rewards",
        options=("score_scaling", "score_clip", "missing_eos_penalty", "missing_eos_score", "whiten_rewards"),
    ),
    "(3)": EquationWords(
        title=("return", "回报"),
        formula="return[i,j] = sum of reward[i,k] over k = j..N",
        meaning=(
            "What was earned from a token to the end; with gamma, later rewards count less.",
            "从一个 token 到结尾所得的总和；有 gamma 时，越往后算得越少。",
        ),
        function="core.advantages.returns",
        options=("gamma",),
    ),
    "(4)": EquationWords(
        title=("advantage", "优势"),
        formula="advantage[i,j] = return[i,j] - old_value[i,j]",
        meaning=(
            "What was earned beyond what the critic expected: this is what the actor learns. GAE at gamma = lam = 1.",
            "比评论家的预期多得的部分：演员学的就是它。即 gamma = lam = 1 时的 GAE。",
        ),
        function="core.advantages.gae",
        options=("lam", "critic_lam", "whiten_advantages", "advantage_estimator"),
    ),
    "(5)": EquationWords(
        title=("actor loss, first idea", "演员损失，最初的想法"),
        formula="loss = -mean of advantage * p(token)",
        meaning=(
            "Make tokens of positive advantage more probable. It pushes frequent tokens more than rare ones.",
            "让优势为正的 token 更可能出现。但它对常见 token 推得更多。",
        ),
        function="core.losses.probability_loss",
    ),
    "(6)": EquationWords(
        title=("actor loss of PPO", "PPO 的演员损失"),
        formula="loss = -mean of advantage * p(token) / p_old(token)",
        meaning=(
            "Dividing by the old probability gives rare and frequent tokens the same push.",
            "除以旧的概率，罕见与常见的 token 就得到同样的推力。",
        ),
        function="core.losses.actor_loss",
        options=("old_log_probs",),
    ),
    "(7)": EquationWords(
        title=("actor loss in log space", "对数空间里的演员损失"),
        formula="loss = -mean of advantage * exp(log_prob - old_log_prob)",
        meaning=(
            "The same as (6), computed safely. --cliprange bounds the ratio.",
            "与 (6) 相同，算起来更稳。--cliprange 限制比率。",
        ),
        function="core.losses.actor_loss",
        options=("cliprange", "cliprange_high", "dual_clip", "importance_cap"),
    ),
    "(8)": EquationWords(
        title=("critic loss", "评论家损失"),
        formula="loss = 1/2 * mean of (value - return)^2",
        meaning=("The critic learns to foresee the return.", "评论家学着预见回报。"),
        function="core.losses.critic_loss",
        options=("cliprange_value",),
    ),
    "(9)": EquationWords(
        title=("loss", "总损失"),
        formula="loss = (7) + vf_coef * (8),  vf_coef = 0.1 in the article",
        meaning=("Both learn in one step; --vf_coef weighs them.", "两者在同一步里学习；--vf_coef 是权重。"),
        function="learning.ppo.ppo_loss",
        options=("vf_coef", "entropy_coef", "kl_loss_coef", "ptx_coef"),
    ),
}

NATS = ("nats", "nat")
SCORE = ("score", "得分")

QUANTITIES = {
    "advantages": QuantityWords(
        title=("Advantage", "优势"),
        brief=(
            "What was earned from here on beyond what was expected. Above 0 the token is made more probable, below 0 "
            "less: this is what the policy learns.",
            "从这里起实际所得比预期多出多少。大于 0，这个 token 的概率会被调高；小于 0，则被调低：策略学的就是它。",
        ),
        unit=SCORE,
        equation="(4)",
        similar=("advantage",),
    ),
    "rewards": QuantityWords(
        title=("Reward", "奖励"),
        brief=(
            "What this token itself was paid: minus the KL charge, plus the score on the last token. Equations (1) and "
            "(2).",
            "这个 token 自己得到的：减去 KL 的代价，最后一个 token 再加上得分。公式 (1) 和 (2)。",
        ),
        unit=SCORE,
        equation="(2)",
        similar=("token reward",),
    ),
    "kls": QuantityWords(
        title=("KL", "KL"),
        brief=(
            "How much more probable the policy finds the token than the reference does, in nats. Its multiple by the "
            "KL coefficient is charged.",
            "策略比参考模型更看好这个 token 多少，单位 nat。乘上 KL 系数就是扣掉的代价。",
        ),
        unit=NATS,
        equation="(1)",
        similar=("token kl",),
    ),
    "values": QuantityWords(
        title=("Value", "价值"),
        brief=(
            "What the critic expected to be earned from here to the end, before the token was drawn.",
            "采样这个 token 之前，评论家预期从这里到结尾能得到多少。",
        ),
        unit=SCORE,
        equation="(4)",
        similar=("old_values",),
    ),
    "returns": QuantityWords(
        title=("Return", "回报"),
        brief=(
            "What was earned from here to the end, and what the critic is taught. Equation (3).",
            "从这里到结尾实际得到的奖励之和，也是评论家要学的目标。公式 (3)。",
        ),
        unit=SCORE,
        equation="(3)",
        similar=("return",),
    ),
    "deltas": QuantityWords(
        title=("Critic's surprise", "评论家的意外"),
        brief=(
            "δ: the reward of this token and the critic's change of mind after it. It shows at which token the answer "
            "turned better or worse.",
            "δ：这个 token 的奖励，加上评论家在它之后改变的看法。由此可以看出回答是在哪个 token 上变好或变坏的。",
        ),
        unit=SCORE,
        similar=("delta", "td error"),
    ),
    "log_probs": QuantityWords(
        title=("Log-probability", "对数概率"),
        brief=(
            "How probable the policy found the token when it drew it, in nats. The darker, the more surprising.",
            "采样这个 token 时策略认为它有多大可能，单位 nat。颜色越深，越出人意料。",
        ),
        unit=NATS,
        equation="(7)",
        similar=("old_log_probs", "logprobs", "log_prob"),
    ),
    "probabilities": QuantityWords(
        title=("Probability", "概率"),
        brief=(
            "How probable the policy found the token when it drew it: exp of the log-probability.",
            "采样这个 token 时策略认为它的概率：对数概率取 exp。",
        ),
        unit=("share", "比例"),
        similar=("probability",),
    ),
    "ref_log_probs": QuantityWords(
        title=("Log-probability by the reference", "参考模型的对数概率"),
        brief=(
            "How probable the frozen reference finds the token, in nats. The difference to the policy's is the KL.",
            "冻结的参考模型认为它有多大可能，单位 nat。与策略的差就是 KL。",
        ),
        unit=NATS,
        equation="(1)",
        similar=("ref_log_prob",),
    ),
    "sampler_log_probs": QuantityWords(
        title=("Log-probability by the sampler", "采样器的对数概率"),
        brief=(
            "Of the distribution that was really drawn from, after --top_k and --top_p.",
            "真正从中抽取的分布给出的，在 --top_k 和 --top_p 截断之后。",
        ),
        unit=NATS,
        similar=("sampler_log_prob",),
    ),
    "ratios": QuantityWords(
        title=("Ratio", "比率"),
        brief=(
            "Probability by the policy as an epoch read it, over the probability when the token was drawn. Below 1 "
            "less probable, above 1 more.",
            "某一轮读到时的概率，除以采样时的概率。小于 1 表示概率降低，大于 1 表示概率升高。",
        ),
        unit=("1", "1"),
        equation="(7)",
        similar=("token ratio",),
    ),
}
"""By their keys on the page of an answer; most are columns of record/schema.py."""

COLUMNS = {
    "answer.score": QuantityWords(
        title=("Score", "得分"),
        brief=(
            "What lands on the answer's last token: the sources' weighted sum, scaled, clipped and fined.",
            "落在回答最后一个 token 上的数：各来源的加权和，经缩放、裁剪和惩罚。",
        ),
        unit=SCORE,
        equation="(2)",
        similar=("score",),
    ),
    "answer.raw_score": QuantityWords(
        title=("Raw score", "原始得分"),
        brief=("The sources' weighted sum, as they gave it.", "各来源给出的加权和，未作任何处理。"),
        unit=SCORE,
        similar=("raw_score",),
    ),
    "answer.kl": QuantityWords(
        title=("KL of an answer", "一条回答的 KL"),
        brief=("KL from the reference, summed over the answer's tokens.", "与参考模型的 KL，对这条回答的 token 求和。"),
        unit=NATS,
        equation="(1)",
        similar=("kl",),
    ),
    "answer.reward": QuantityWords(
        title=("Reward of an answer", "一条回答的奖励"),
        brief=(
            "The sum of its tokens' rewards: score minus the KL charge.",
            "它各 token 的奖励之和：得分减去 KL 的代价。",
        ),
        unit=SCORE,
        equation="(2)",
        similar=("reward",),
    ),
    "answer.advantage": QuantityWords(
        title=("Advantage of an answer", "一条回答的优势"),
        brief=(
            "The mean of its tokens' advantages: above 0 it was better than expected.",
            "它各 token 优势的均值：大于 0 说明比预期好。",
        ),
        unit=SCORE,
        equation="(4)",
        similar=("advantage",),
    ),
    "answer.length": QuantityWords(
        title=("Tokens of an answer", "一条回答的 token 数"),
        brief=("Its tokens, the one that ended it included.", "它的 token 数，包括结束它的那个。"),
        unit=("tokens", "token"),
        similar=("length",),
    ),
    "answer.finish_reason": QuantityWords(
        title=("End of an answer", "回答怎样结束"),
        brief=(
            "stop: it ended by itself. length: it was cut at --response_length.",
            "stop：自己结束。length：在 --response_length 处被截断。",
        ),
        unit=("a word", "一个词"),
        similar=("finish_reason",),
    ),
}
"""By the columns of an iteration's answers, as the record has them."""
