"""Metrics of PPO on held-out prompts, measured on the way (--eval_steps)."""

from clearppo.catalogue.words import MetricWords

EVALUATION = {
    "eval/score": MetricWords(
        title=("score, held out (optimised)", "得分，留出（被优化的）"),
        brief=(
            "Mean of the optimised score on prompts that were not trained on. Should rise with objective/scores.",
            "在没有训练过的提示上，被优化的得分的均值。应与 objective/scores 一起上升。",
        ),
        healthy=("rises with objective/raw_scores, a little below it", "与 objective/raw_scores 一起上升，略低一点"),
        high=("good, if the measures that are not optimised rise too", "是好事，前提是没有被优化的指标也在升"),
        low=(
            "objective/raw_scores rises without it: the prompts are being learned by heart",
            "objective/raw_scores 升而它不升：策略在背训练提示",
        ),
        causes=(
            ("too few training prompts, or too many epochs over them", "训练提示太少，或反复太多遍"),
            (
                "the measured answers are greedy (--eval_temperature 0), those of training are drawn",
                "评估用的是贪心回答（--eval_temperature 0），训练用的是采样",
            ),
        ),
        options=("eval_steps", "eval_num_prompts", "eval_temperature"),
        similar=("validation_score", "objective/validation_score"),
    ),
    "eval/rewards/*": MetricWords(
        title=("mean score of one measure, held out", "单项指标的平均得分，留出"),
        brief=(
            "Mean scores on prompts that were not trained on, by each measure. If only the optimised one rises, the "
            "reward is being gamed.",
            "各项指标在没有训练过的提示上的平均得分。如果只有被优化的在升，策略就是在钻奖励的空子。",
        ),
        healthy=("rises, or stays, while eval/score rises", "eval/score 升时它也升，或不变"),
        high=("good: a measure that nobody optimises agrees", "好：没有人优化的指标也认可"),
        low=("falls while eval/score rises: the two come apart", "eval/score 升而它降：两者分道扬镳"),
        causes=(
            (
                "the reward has a hole: read samples of high score; raise --kl_coef, or stop at the best checkpoint",
                "奖励有漏洞：读读高分样本；调大 --kl_coef，或停在最佳检查点",
            ),
        ),
        options=("eval_reward_funcs", "eval_reward_model_path", "kl_coef", "metric_for_best_model"),
        unit=("score", "得分"),
        formula="mean_i of what this source gives the answer to held-out prompt i, before any weight.",
        source="gold and proxy reward: Gao et al. 2022, arXiv 2210.10760",
        similar=("gold_reward", "held_out"),
    ),
    "eval/win_rate": MetricWords(
        title=("win rate, held out", "胜率，留出"),
        brief=(
            "Share of held-out prompts whose answer beats the start model's. 50\u00a0% is no change; higher is better.",
            "在留出的提示上，比起始模型答得更好的比例。50\u00a0% 表示没有变化，越高越好。",
        ),
        healthy=(
            "0.5 at the start, then rising; with 64 prompts 0.62 is beyond chance",
            "起始 0.5，之后上升；64 条提示时 0.62 才超出偶然",
        ),
        high=(
            "near 1 by the optimised score says little: any lead, however small, counts as a win",
            "按被优化的得分接近 1 说明不了多少：领先一点点也算赢",
        ),
        low=("below 0.5: worse than the start model", "低于 0.5：比起始模型差"),
        options=("eval_steps", "eval_num_prompts", "eval_reward_funcs"),
        similar=("winrate", "win_rate"),
    ),
    "eval/win_rate/*": MetricWords(
        title=("win rate by one measure", "单项指标的胜率"),
        brief=(
            "The same by a measure that is not optimised. 50\u00a0% is no change; higher is better.",
            "同上，按一项没有被优化的指标。50\u00a0% 表示没有变化，越高越好。",
        ),
        healthy=("above 0.5", "大于 0.5"),
        low=(
            "below 0.5 while eval/win_rate rises: the reward is being gamed",
            "eval/win_rate 升而它低于 0.5：在钻奖励的空子",
        ),
        options=("eval_reward_funcs", "eval_reward_model_path"),
        unit=("share of prompts", "提示的比例"),
        formula="Share of prompts whose answer scores higher than the start model's by this measure; equal: one half.",
    ),
    "eval/kl": MetricWords(
        title=("KL, held out", "KL，留出"),
        brief=(
            "How far the policy has moved away on held-out prompts, summed over an answer.",
            "策略在留出的提示上走了多远，按一条回答累加。",
        ),
        healthy=("near objective/kl, with other answers", "与 objective/kl 相近，只是回答不同"),
        high=("as for objective/kl", "同 objective/kl"),
        low=(
            "of greedy answers it may be smaller: they are the likeliest ones",
            "贪心回答时可能较小：那是最可能的回答",
        ),
        options=("kl_coef", "eval_temperature"),
        equation="(1)",
    ),
    "eval/length": MetricWords(
        title=("length, held out", "长度，留出"),
        brief=(
            "Mean number of tokens of an answer to held-out prompts.",
            "对留出提示的回答的平均 token 数。",
        ),
        healthy=("near the start's, or moving slowly", "接近起始水平，或缓慢变化"),
        high=("as for completions/mean_length", "同 completions/mean_length"),
        low=("as for completions/mean_length", "同 completions/mean_length"),
        options=("response_length", "missing_eos_penalty"),
    ),
    "eval/clipped_ratio": MetricWords(
        title=("answers cut off, held out", "被截断的回答，留出"),
        brief=(
            "Share of held-out answers that reached the longest length instead of ending. Lower is better.",
            "留出的回答中达到最大长度而没有自己结束的比例。越低越好。",
        ),
        healthy=("below 0.3", "低于 0.3"),
        high=("as for completions/clipped_ratio", "同 completions/clipped_ratio"),
        options=("response_length", "stop_token_ids", "stop_strings"),
    ),
    "eval/repetition": MetricWords(
        title=("repetition, held out", "重复率，留出"),
        brief=(
            "Share of 4-grams of held-out answers that occurred before in the same answer. Lower is better.",
            "留出的回答中，在同一条回答里出现过的 4-gram 所占比例。越低越好。",
        ),
        healthy=("0 to 0.1; greedy answers of small models repeat more", "0 到 0.1；小模型的贪心回答更爱重复"),
        high=("as for completions/repetition", "同 completions/repetition"),
        options=("kl_coef", "eval_temperature"),
    ),
}
