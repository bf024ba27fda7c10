"""Metrics of PPO about learning: the losses, and how far an update moved."""

from clearppo.catalogue.words import MetricWords

LOSSES = {
    "loss/policy_avg": MetricWords(
        title=("actor loss", "演员损失"),
        brief=(
            "Minus the mean of advantage times ratio, (6) and (7). Its level means little; wild jumps are a warning.",
            "优势乘比率的均值取负，(6) 和 (7)。高低意义不大；剧烈跳动是警告信号。",
        ),
        healthy=(
            "small and around 0 with whitened advantages, whose mean is 0; it does not fall as losses elsewhere do",
            "优势白化后均值为 0，所以在 0 附近；它不会像别处的损失那样一路下降",
        ),
        high=(
            "jumps: few tokens with huge ratios rule the mean",
            "跳动：少数比率极大的 token 左右了均值",
        ),
        low=("far below 0: the update is squeezing one batch too hard", "远低于 0：对一批数据榨取得太狠"),
        causes=(
            (
                "advantages are not whitened and scores are large: --whiten_advantages true, or --score_scaling",
                "优势没有白化而得分很大：--whiten_advantages true，或 --score_scaling",
            ),
            (
                "steps are too large: see val/ratio_var and policy/approxkl_avg",
                "步子太大：看 val/ratio_var 和 policy/approxkl_avg",
            ),
        ),
        options=("cliprange", "learning_rate", "num_ppo_epochs", "whiten_advantages", "dual_clip"),
        equation="(7)",
        source="PPO, arXiv 1707.06347; TRL (loss/policy_avg)",
        similar=("policy_loss", "pg_loss", "actor_loss", "actor/pg_loss", "ppo/loss/policy"),
    ),
    "loss/value_avg": MetricWords(
        title=("critic loss", "评论家损失"),
        brief=(
            "Half the mean squared error of value against return, (8). Lower is better; it rises when the policy moves "
            "fast.",
            "价值与回报之差平方均值的一半，(8)。越低越好；策略变化快时会升高。",
        ),
        healthy=(
            "falls in the first tens of iterations, then stays below half of returns/var",
            "最初几十次迭代下降，之后低于 returns/var 的一半",
        ),
        high=(
            "the critic cannot follow: scores too large, its rate too small, or the policy moves too fast",
            "评论家跟不上：得分太大、它的学习率太小，或策略变得太快",
        ),
        low=(
            "near 0 while returns vary: the critic has learned the batch by heart",
            "接近 0 而回报仍有变化：评论家背下了这一批",
        ),
        causes=(
            (
                "scores in the tens: --score_scaling running, or --score_clip 5",
                "得分有几十之大：--score_scaling running，或 --score_clip 5",
            ),
            (
                "--cliprange_value is small against the scores, so values may hardly move",
                "--cliprange_value 相对得分太小，价值几乎动不了",
            ),
        ),
        options=("vf_coef", "critic_learning_rate", "cliprange_value", "critic_warmup_steps", "critic"),
        equation="(8)",
        source="PPO, arXiv 1707.06347; TRL (loss/value_avg)",
        similar=("value_loss", "vf_loss", "critic_loss", "critic/vf_loss", "ppo/loss/value"),
    ),
    "loss/kl_avg": MetricWords(
        title=("KL in the loss", "损失中的 KL"),
        brief=("The KL term of the loss, before its coefficient.", "损失里的 KL 项，未乘系数。"),
        healthy=("0 at the start, then rising slowly like objective/kl", "从 0 开始缓慢上升，与 objective/kl 相似"),
        high=("the policy is far from the reference: raise --kl_loss_coef", "策略离参考模型很远：调大 --kl_loss_coef"),
        low=("near 0: the term holds the policy where it is", "接近 0：这一项把策略固定在原地"),
        options=("kl_loss_coef", "kl_loss_estimator"),
        source="GRPO, arXiv 2402.03300, eq. 4 (k3)",
        similar=("kl_loss", "actor/kl_loss"),
    ),
    "loss/ptx_avg": MetricWords(
        title=("PPO-ptx loss", "混入预训练损失"),
        brief=(
            "Language-modelling loss on other text. If it rises, the policy forgets.",
            "在其他文本上的语言模型损失。上升说明策略在遗忘。",
        ),
        healthy=("stays at its start", "保持在起始水平"),
        high=(
            "the policy forgets how to write: raise --ptx_coef or --kl_coef",
            "策略忘了怎样写：调大 --ptx_coef 或 --kl_coef",
        ),
        low=(
            "falling: the text is being learned by heart; it may be too little text",
            "下降：在背诵这些文本；文本可能太少",
        ),
        options=("ptx_coef", "ptx_batch_ratio", "ptx_dataset_name"),
        source="InstructGPT, arXiv 2203.02155, eq. 2",
        similar=("ptx_loss", "unsup_loss", "lm_loss"),
    ),
}
"""What is minimised."""

MOVES = {
    "policy/approxkl_avg": MetricWords(
        title=("moved by the update", "一次更新走了多远"),
        brief=(
            "Half the mean squared change of log-probability within an iteration. Small and steady is good.",
            "一次迭代内对数概率变化平方均值的一半。小而平稳为好。",
        ),
        healthy=("1e-4 to 0.02 nats a token", "每 token 1e-4 到 0.02 nat"),
        high=(
            "above 0.05: the update leaves the range in which PPO's loss is a fair guess",
            "大于 0.05：更新走出了 PPO 损失近似成立的范围",
        ),
        low=("below 1e-5: hardly anything moves, and scores will not rise", "小于 1e-5：几乎没有移动，得分不会上升"),
        causes=(
            (
                "--learning_rate is too large or too small: change it by 3 and look again",
                "--learning_rate 太大或太小：改 3 倍再看",
            ),
            (
                "too many steps on a batch: fewer --num_ppo_epochs, or --early_stop_kl 0.05",
                "一批上的步数太多：减少 --num_ppo_epochs，或用 --early_stop_kl 0.05",
            ),
        ),
        options=("learning_rate", "num_ppo_epochs", "num_mini_batches", "early_stop_kl", "cliprange"),
        source="lm-human-preferences, train_policy.py (ppo/policy/approxkl); TRL's mean ran over padding too",
        similar=("approxkl", "approx_kl", "ppo/policy/approxkl", "ppo_kl"),
    ),
    "policy/clipfrac_avg": MetricWords(
        title=("clip fraction", "裁剪比例"),
        brief=(
            "Share of tokens whose step was stopped by clipping. Some percent are usual; a large share says that steps "
            "are too large.",
            "被裁剪拦下的 token 所占比例。百分之几是常态；太大说明步子太大。",
        ),
        healthy=("0 to 0.2; 0 on the first step of an update", "0 到 0.2；一次更新的第一步为 0"),
        high=("above 0.3: most of a batch's later steps are thrown away", "大于 0.3：一批后面的步数大多白费了"),
        low=("0: clipping is never needed, so steps may be larger", "为 0：从不需要裁剪，步子可以再大些"),
        causes=(
            (
                "above 0 on the very first step: sampling and learning disagree, see sampling/log_prob_difference",
                "第一步就大于 0：采样与学习不一致，看 sampling/log_prob_difference",
            ),
            ("--learning_rate or --num_ppo_epochs is too large", "--learning_rate 或 --num_ppo_epochs 太大"),
        ),
        options=("cliprange", "cliprange_high", "learning_rate", "num_ppo_epochs"),
        source="PPO, arXiv 1707.06347; TRL (policy/clipfrac_avg)",
        similar=("clipfrac", "clip_frac", "clip_ratio", "pg_clipfrac", "actor/pg_clipfrac"),
    ),
    "policy/entropy_avg": MetricWords(
        title=("entropy", "熵"),
        brief=(
            "Uncertainty about the next token. It falls slowly as the policy learns; a collapse towards 0 leaves "
            "nothing to explore.",
            "对下一个 token 的不确定程度。学习时缓慢下降；骤降到接近 0 就没有可探索的了。",
        ),
        healthy=(
            "falls by less than half of its start over a run; 0.5 to 3 nats are usual at temperature 1",
            "整个训练中下降不到一半；温度为 1 时通常为 0.5 到 3 nat",
        ),
        high=("rising far above the start: the policy turns to noise", "远高于起始值：策略变成噪声"),
        low=("near 0: the policy says one thing only and learns no more", "接近 0：策略只会说一种话，学不到新东西"),
        causes=(
            (
                "collapse: --learning_rate too large, --kl_coef too small, or a temperature below 1",
                "坍缩：--learning_rate 太大、--kl_coef 太小，或温度低于 1",
            ),
            (
                "rise: --entropy_coef too large, or an update that went wrong (policy/grad_norm)",
                "升高：--entropy_coef 太大，或某次更新出了问题（policy/grad_norm）",
            ),
        ),
        options=("entropy_coef", "temperature", "kl_coef", "learning_rate"),
        source="lm-human-preferences, train_policy.py (ppo/policy/entropy)",
        similar=("entropy", "actor/entropy", "ppo/policy/entropy"),
    ),
    "policy/grad_norm": MetricWords(
        title=("gradient norm", "梯度范数"),
        brief=(
            "Before clipping, mean over the optimiser's steps. Steady is good; spikes are a warning.",
            "裁剪之前，对各优化步取平均。平稳为好，尖峰是警告信号。",
        ),
        healthy=("within a few times its start; its level depends on the model", "在起始值的几倍之内；高低取决于模型"),
        high=(
            "a spike: one batch pulls hard; far above --max_grad_norm every step is scaled down",
            "尖峰：某一批拉得很猛；远高于 --max_grad_norm 时每一步都被缩小",
        ),
        low=(
            "near 0: nothing pulls, advantages are 0 or everything is clipped",
            "接近 0：没有拉力，优势为 0 或全被裁剪",
        ),
        causes=(
            (
                "an answer with an extreme score: --score_clip, or --whiten_advantages true",
                "某条回答得分极端：--score_clip，或 --whiten_advantages true",
            ),
            (
                "the critic's loss rules a shared trunk: a smaller --vf_coef, or --critic separate",
                "共享主干时评论家的损失占了上风：调小 --vf_coef，或 --critic separate",
            ),
        ),
        options=("max_grad_norm", "learning_rate", "vf_coef", "score_clip"),
        similar=("actor/grad_norm", "gradient_norm"),
    ),
    "policy/early_stop": MetricWords(
        title=("early stop", "提前停止"),
        brief=(
            "1 if the update ended before its last step, because the policy had moved too far.",
            "策略走得太远、更新在最后一步之前结束时为 1。",
        ),
        healthy=("0, or 1 now and then", "为 0，或偶尔为 1"),
        high=(
            "1 in most iterations: steps are too large for the number of epochs",
            "多数迭代为 1：相对轮数而言步子太大",
        ),
        causes=(
            ("fewer --num_ppo_epochs, or a smaller --learning_rate", "减少 --num_ppo_epochs，或调小 --learning_rate"),
        ),
        options=("early_stop_kl", "num_ppo_epochs", "learning_rate"),
        similar=("early_stopping",),
    ),
    "faults/skipped_steps": MetricWords(
        title=("steps not taken", "没有走的优化步"),
        brief=(
            "Optimiser steps that were left out, because loss or gradient was not finite. 0 is good.",
            "因损失或梯度不是有限的数而没有走的优化步。为 0 才好。",
        ),
        healthy=("0", "0"),
        high=("numbers overflow: the batch lies in faults/ of the run", "数值溢出：那一批在运行目录的 faults/ 里"),
        causes=(
            (
                "--learning_rate is too large, or half precision overflows: --dtype float32 --bf16 false",
                "--learning_rate 太大，或半精度溢出：--dtype float32 --bf16 false",
            ),
        ),
        options=("max_bad_steps", "on_bad_steps", "learning_rate", "dtype", "bf16"),
        similar=("skipped", "nan", "inf"),
    ),
    "val/ratio": MetricWords(
        title=("ratio", "比率"),
        brief=(
            "Mean of p / p_old while learning. Should stay near 1.",
            "学习时 p / p_old 的均值。应当在 1 附近。",
        ),
        healthy=("0.99 to 1.01; exactly 1 with one step an update", "0.99 到 1.01；一次更新只有一步时恰为 1"),
        high=("above 1.05: some tokens' probability explodes", "大于 1.05：某些 token 的概率暴涨"),
        low=("below 0.95: the policy runs away from what it sampled", "小于 0.95：策略在逃离自己采样的内容"),
        causes=(
            ("steps too large: see policy/approxkl_avg", "步子太大：看 policy/approxkl_avg"),
            ("not 1 on the first step: sampling and learning disagree", "第一步就不是 1：采样与学习不一致"),
        ),
        options=("learning_rate", "num_ppo_epochs", "cliprange", "old_log_probs"),
        equation="(7)",
        source="TRL (val/ratio), whose mean ran over padding too",
        similar=("ratio", "ppo/policy/ratio"),
    ),
    "val/ratio_var": MetricWords(
        title=("variance of the ratio", "比率的方差"),
        brief=(
            "How much p / p_old varies between tokens while learning. Should stay near 0.",
            "学习时各 token 的 p / p_old 相差多大。应当接近 0。",
        ),
        healthy=("below 0.05", "小于 0.05"),
        high=("a few tokens have ratios far from 1 and rule the loss", "少数 token 的比率远离 1，左右了损失"),
        causes=(
            (
                "steps too large: see policy/approxkl_avg; --dual_clip 3 bounds the worst",
                "步子太大：看 policy/approxkl_avg；--dual_clip 3 可限制最坏的",
            ),
        ),
        options=("learning_rate", "num_ppo_epochs", "dual_clip"),
        equation="(7)",
        source="of tokens; TRL's val/ratio_var was the variance of the means of micro-batches",
    ),
    "lr": MetricWords(
        title=("learning rate", "学习率"),
        brief=("The step size, as the schedule has it.", "按计划变化的步长。"),
        healthy=(
            "1e-6 to 5e-6 for PPO on all weights, 1e-5 to 1e-4 with LoRA",
            "PPO 训练全部权重为 1e-6 到 5e-6，LoRA 为 1e-5 到 1e-4",
        ),
        high=("the policy breaks: KL and ratio run away", "策略崩坏：KL 和比率失控"),
        low=("nothing is learned", "学不到东西"),
        options=("learning_rate", "lr_scheduler_type", "warmup_ratio", "min_lr_ratio"),
        similar=("actor/lr", "learning_rate"),
    ),
}
"""How far, and how well, an update moved."""

UPDATES = {**LOSSES, **MOVES}
