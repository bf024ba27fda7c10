"""Metrics of PPO about its answers: their scores, their distance from the reference, their form."""

from clearppo.catalogue.words import MetricWords

SCORES = {
    "objective/scores": MetricWords(
        title=("score", "得分"),
        brief=(
            "Mean score of an iteration's answers. Higher is better, as long as the held-out measures rise too.",
            "一次迭代里所有回答的平均得分。越高越好，前提是留出的指标也跟着升。",
        ),
        healthy=(
            "rises over tens of iterations by about a standard deviation (reward_std) or more, then flattens",
            "在几十次迭代里上升约一个标准差（reward_std）或更多，然后变平",
        ),
        high=(
            "with rising KL and worse answers it is the reward that is being gamed, not the task that is solved",
            "如果 KL 也在升、回答却变差，那是在钻奖励的空子，而不是把任务做好",
        ),
        low=(
            "flat from the start: steps too small, KL too dear, or scores that do not tell answers apart",
            "一直不动：步子太小、KL 太贵，或者得分区分不了回答",
        ),
        causes=(
            (
                "flat, and policy/approxkl_avg is tiny: raise --learning_rate",
                "不动，而且 policy/approxkl_avg 很小：调大 --learning_rate",
            ),
            (
                "flat, and reward_std is near 0: the reward gives every answer the same",
                "不动，而且 reward_std 接近 0：奖励给每条回答都一样",
            ),
            (
                "rises while eval/rewards/* falls: raise --kl_coef, or mend the reward",
                "上升而 eval/rewards/* 下降：调大 --kl_coef，或修正奖励",
            ),
        ),
        options=("kl_coef", "learning_rate", "score_scaling", "reward_weights"),
        source="lm-human-preferences, train_policy.py (objective/score); TRL (objective/scores)",
        similar=("score", "reward", "reward_mean", "critic/score/mean", "ppo/mean_scores"),
    ),
    "objective/raw_scores": MetricWords(
        title=("raw score", "原始得分"),
        brief=(
            "Mean of what the reward sources gave, before scaling, clipping and penalties.",
            "各奖励来源给出的原始得分的均值，未经缩放、裁剪和惩罚。",
        ),
        healthy=("moves with objective/scores", "与 objective/scores 同向变化"),
        high=(
            "far above objective/scores: the clip or a penalty takes most of it away",
            "远高于 objective/scores：被裁剪或惩罚扣掉了大部分",
        ),
        low=("below objective/scores only because it is scaled", "低于 objective/scores 只是因为做了缩放"),
        options=("score_scaling", "score_clip", "missing_eos_penalty", "missing_eos_score"),
    ),
    "reward_std": MetricWords(
        title=("spread of scores", "得分的离散程度"),
        brief=(
            "Standard deviation over the answers of an iteration. Near 0 there is nothing left to learn from.",
            "一次迭代里各回答得分的标准差。接近 0 就没有什么可学的了。",
        ),
        healthy=("above 0, and not far below its start", "大于 0，且不远低于起始值"),
        high=(
            "a few answers get extreme scores and rule the update: --score_clip bounds them",
            "少数回答的得分极端，左右了更新：可用 --score_clip 限制",
        ),
        low=(
            "0: all answers get the same, and advantages are noise; falling: the policy has narrowed to one answer",
            "为 0：所有回答得分相同，优势只剩噪声；不断下降：策略收窄到一种回答",
        ),
        causes=(
            ("the reward function is constant, or most answers fail alike", "奖励函数是常数，或者大多数回答同样失败"),
            (
                "the policy has collapsed: look at policy/entropy_avg and eval/repetition",
                "策略坍缩：看 policy/entropy_avg 和 eval/repetition",
            ),
        ),
        options=("score_scaling", "score_clip", "temperature", "num_generations"),
        similar=("score_std", "std"),
    ),
    "rewards/*/mean": MetricWords(
        title=("mean score of one source", "单个来源的平均得分"),
        brief=(
            "Each source of the score as it gave it, before weighting.",
            "得分的各个来源，加权之前的均值。",
        ),
        healthy=("the sources rise together, or one rises and none falls", "各来源一起上升，或一个上升而没有下降的"),
        high=(
            "a jump from one iteration to the next: the source itself has changed, such as a server's model",
            "两次迭代之间突然跳变：来源本身变了，例如服务器换了模型",
        ),
        low=("one falls while the sum rises: it is being traded away", "总分升而它降：它被牺牲了"),
        causes=(("the weights favour the other source: --reward_weights", "权重偏向另一个来源：--reward_weights"),),
        options=("reward_funcs", "reward_urls", "reward_model_path", "reward_weights"),
        unit=("score", "得分"),
        formula="mean_i of what this source gave answer i, before its weight, over the answers that it speaks about.",
    ),
    "rewards/*/std": MetricWords(
        title=("spread of one source", "单个来源的离散程度"),
        brief=(
            "Standard deviation (population) of one source over the answers that it scored.",
            "单个来源对它打过分的回答的标准差（总体）。",
        ),
        healthy=("above 0", "大于 0"),
        low=(
            "0: this source says the same of every answer and teaches nothing",
            "为 0：它对每条回答都一样，教不了什么",
        ),
        causes=(
            (
                "the function looks at the wrong column, or never finds the answer it compares with",
                "函数看错了列，或者始终找不到要比对的答案",
            ),
        ),
        options=("reward_funcs", "reward_weights"),
        unit=("score", "得分"),
        formula="Standard deviation over i (population) of what this source gave answer i, before its weight.",
    ),
    "rewards/dropped": MetricWords(
        title=("answers without a score", "没有得分的回答"),
        brief=(
            "Left out of the update, because a source gave them no score. Lower is better.",
            "因为某个来源没有给分而没有参与更新。越少越好。",
        ),
        healthy=("absent, or a few now and then", "没有，或偶尔几条"),
        high=("the batch shrinks and its mean leans to what can be scored", "批变小，均值偏向能打分的回答"),
        causes=(
            (
                "a server or function answers null for many rows: look at samples.jsonl for which",
                "服务器或函数对很多行返回 null：在 samples.jsonl 里看是哪些",
            ),
        ),
        options=("reward_missing", "reward_request_timeout"),
    ),
}
"""What the answers were worth."""

DISTANCE = {
    "objective/kl": MetricWords(
        title=("KL from the reference", "与参考模型的 KL"),
        brief=(
            "How far the policy has moved away, summed over an answer. It rises as the policy learns; a sudden jump is "
            "a warning.",
            "策略走了多远，按一条回答累加。学习时会上升；突然跳高是警告信号。",
        ),
        healthy=(
            "0 at the start, then rising slowly; most runs end between 1 and 30 nats an answer, longer answers higher",
            "从 0 开始缓慢上升；多数训练结束时每条回答 1 到 30 nat，回答越长越高",
        ),
        high=(
            "the policy has left the texts that its reward was made for; scores there mean little",
            "策略离开了奖励所适用的文本范围；那里的得分没什么意义",
        ),
        low=(
            "near 0 for long: nothing is learned. Below 0: the estimate k1 of few answers, or sampling and learning "
            "disagree",
            "长期接近 0：什么也没学到。小于 0：回答太少时 k1 的估计误差，或采样与学习不一致",
        ),
        causes=(
            (
                "--kl_coef is small against reward_std, so distance costs nothing",
                "--kl_coef 相对 reward_std 太小，走远几乎没有代价",
            ),
            (
                "--learning_rate or --num_ppo_epochs is too large: look at policy/approxkl_avg",
                "--learning_rate 或 --num_ppo_epochs 太大：看 policy/approxkl_avg",
            ),
            (
                "below 0 for many iterations: look at sampling/log_prob_difference",
                "连续多次小于 0：看 sampling/log_prob_difference",
            ),
        ),
        options=("kl_coef", "kl_controller", "kl_target", "kl_estimator", "learning_rate"),
        equation="(1)",
        source="lm-human-preferences, train_policy.py (objective/kl)",
        similar=("kl", "ref_kl", "mean_kl", "actor/ppo_kl"),
    ),
    "objective/kl_coef": MetricWords(
        title=("KL coefficient", "KL 系数"),
        brief=(
            "Score units charged for a nat of KL; an adaptive one is steered to its target.",
            "每 nat 的 KL 扣多少分；自适应时会朝目标调整。",
        ),
        healthy=(
            "constant, or settling; times objective/kl it should be of the size of reward_std, not far above or below",
            "恒定，或趋于稳定；乘以 objective/kl 后应与 reward_std 同一量级",
        ),
        high=("the policy stays where it was", "策略停在原地"),
        low=("the policy drifts into whatever fools the reward", "策略漂向任何能骗过奖励的地方"),
        causes=(
            (
                "adaptive and climbing without end: --kl_target is below what learning needs",
                "自适应且一直上升：--kl_target 低于学习所需",
            ),
        ),
        options=("kl_coef", "kl_controller", "kl_target", "kl_horizon"),
        equation="(1)",
        source="lm-human-preferences, train_policy.py:115-124",
        similar=("beta", "kl_ctl"),
    ),
    "objective/non_score_reward": MetricWords(
        title=("KL charge", "KL 的代价"),
        brief=(
            "What the KL costs an answer: minus the coefficient times the KL.",
            "一条回答为 KL 付出的代价：系数乘 KL，取负。",
        ),
        healthy=("small against what the score has gained", "相对得分的提升较小"),
        low=(
            "it eats what the score gains: objective/rlhf_reward falls",
            "吃掉了得分的提升：objective/rlhf_reward 下降",
        ),
        options=("kl_coef", "kl_controller"),
        equation="(1)",
        source="TRL (objective/non_score_reward)",
    ),
    "objective/rlhf_reward": MetricWords(
        title=("reward after KL", "扣除 KL 后的奖励"),
        brief=(
            "Mean score minus KL coefficient times KL: what PPO maximises. Should rise.",
            "平均得分减去 KL 系数乘 KL，也就是 PPO 要最大化的量。应当上升。",
        ),
        healthy=("rises, then flattens", "上升，然后变平"),
        high=("good, if the held-out measures rise too", "是好事，前提是留出的指标也在升"),
        low=(
            "falling: what the score gains does not pay for the distance; steps are too large or too noisy",
            "下降：得分的提升抵不过走远的代价；步子太大或噪声太大",
        ),
        causes=(
            (
                "falls while objective/scores rises: lower --learning_rate, or --kl_coef if answers are still good",
                "objective/scores 升而它降：调小 --learning_rate；如果回答仍好，也可调小 --kl_coef",
            ),
        ),
        options=("kl_coef", "learning_rate"),
        equation="(2)",
        source="TRL (objective/rlhf_reward)",
        similar=("return", "ppo/mean_non_score_reward"),
    ),
    "objective/entropy": MetricWords(
        title=("entropy of an answer", "一条回答的熵"),
        brief=(
            "How surprising the policy's own answers are to it, summed over an answer.",
            "策略对自己回答的意外程度，按一条回答累加。",
        ),
        healthy=("falls slowly; it grows with length", "缓慢下降；随长度增长"),
        high=("answers become random or much longer", "回答变得随机，或长了很多"),
        low=(
            "answers become certain: see policy/entropy_avg, which length does not move",
            "回答变得确定：看不受长度影响的 policy/entropy_avg",
        ),
        options=("entropy_coef", "temperature", "learning_rate"),
        source="lm-human-preferences, train_policy.py (objective/entropy); TRL counted -1 nat a pad, up to its PR 6121",
    ),
}
"""How far the policy has gone, and what that costs."""

FORM = {
    "completions/mean_length": MetricWords(
        title=("length of answers", "回答长度"),
        brief=(
            "Mean number of tokens. Neither direction is good in itself: growth without better answers is often a "
            "gamed reward.",
            "平均 token 数。长短本身无所谓好坏；变长而没有变好，往往是在钻奖励的空子。",
        ),
        healthy=("near the start's, or moving slowly", "接近起始水平，或缓慢变化"),
        high=("answers grow; a reward that prefers length is being served", "回答变长：在迎合偏爱长度的奖励"),
        low=("answers shrink, perhaps to nothing but an end", "回答变短，甚至只剩结束符"),
        causes=(
            (
                "the score goes with length: clearppo doctor's reward_length measures it",
                "得分随长度走：clearppo doctor 的 reward_length 会测",
            ),
            ("answers that are cut cost nothing: --missing_eos_penalty 1", "被截断没有代价：--missing_eos_penalty 1"),
            (
                "every token costs KL, so short is cheap: lower --kl_coef, or reward what must be said",
                "每个 token 都要付 KL，短就便宜：调小 --kl_coef，或奖励必须说的内容",
            ),
        ),
        options=("response_length", "missing_eos_penalty", "stop_strings", "kl_coef"),
        similar=("length", "completion_length", "response_length/mean", "res_len"),
    ),
    "completions/clipped_ratio": MetricWords(
        title=("answers cut off", "被截断的回答"),
        brief=(
            "Share of answers that reached the longest length instead of ending. Lower is better.",
            "达到最大长度而没有自己结束的回答所占比例。越低越好。",
        ),
        healthy=(
            "below 0.3 for a model that has learned to end; 1 with --fixed_length",
            "学会结束的模型低于 0.3；用 --fixed_length 时为 1",
        ),
        high=("answers never end, so scores judge fragments", "回答不结束，得分评的是片段"),
        low=("0: good, unless answers are empty", "为 0：好，除非回答是空的"),
        causes=(
            (
                "the model was never taught to write its end: clearppo sft first, or --stop_strings",
                "模型没学过写结束符：先用 clearppo sft，或用 --stop_strings",
            ),
            (
                "the chat template ends turns with a token that ends nothing here: --stop_token_ids",
                "对话模板的轮次结束 token 在这里不是结束符：--stop_token_ids",
            ),
            ("--response_length is shorter than an answer needs", "--response_length 短于一条回答所需"),
        ),
        options=("response_length", "stop_token_ids", "stop_strings", "missing_eos_penalty"),
        similar=("response_length/clip_ratio", "truncated"),
    ),
    "completions/repetition": MetricWords(
        title=("repetition", "重复率"),
        brief=(
            "Share of 4-grams that occurred before in the same answer. Lower is better.",
            "在同一条回答里出现过的 4-gram 所占比例。越低越好。",
        ),
        healthy=("near its start, mostly below 0.1", "接近起始水平，多在 0.1 以下"),
        high=(
            "answers go in circles: often the first sign of a gamed reward",
            "回答原地打转：常是奖励被钻空子的先兆",
        ),
        causes=(
            (
                "the reward counts good words, however often: reward each once, or raise --kl_coef",
                "奖励数好词的个数：改成每个只算一次，或调大 --kl_coef",
            ),
        ),
        options=("kl_coef", "temperature", "reward_funcs"),
        similar=("repetition_rate", "repeat", "ngram_repetition"),
    ),
    "val/num_eos_tokens": MetricWords(
        title=("answers that ended", "自己结束的回答"),
        brief=(
            "Number of answers that ended with a stop token or stop string. Higher is better.",
            "以结束符或停止字符串结束的回答条数。越多越好。",
        ),
        healthy=("most of the batch", "占这批的大多数"),
        low=("answers are cut: see completions/clipped_ratio", "回答被截断：见 completions/clipped_ratio"),
        options=("stop_token_ids", "stop_strings", "response_length"),
        source="TRL (val/num_eos_tokens), a count of this batch",
    ),
    "episode": MetricWords(
        title=("answers so far", "已采样的回答数"),
        brief=("Answers sampled since the start of the run.", "训练开始以来采样的回答条数。"),
        healthy=("grows by --batch_size an iteration", "每次迭代增加 --batch_size"),
        options=("total_episodes", "batch_size"),
        source="TRL (episode)",
        similar=("episodes", "global_step"),
    ),
}
"""What the answers look like."""

ANSWERS = {**SCORES, **DISTANCE, **FORM}
