"""Metrics of supervised fine-tuning and of reward models."""

from clearppo.catalogue.words import MetricWords

STEPS = {
    "loss": MetricWords(
        title=("loss of the batch", "本批的损失"),
        brief=(
            "Lower is better. If the held-out loss rises while this one falls, the model learns by heart.",
            "越低越好。留出的损失升、训练的损失降，说明模型在死记硬背。",
        ),
        healthy=(
            "SFT: 1 to 3 nats a token, falling; pairs: from 0.69, which is guessing, down to 0.3 to 0.6",
            "有监督微调：每 token 1 到 3 nat 并下降；成对损失：从随机猜测的 0.69 降到 0.3 至 0.6",
        ),
        high=(
            "rising: the steps are too large. Above 0.69 for pairs: surely wrong about some",
            "上升：步子太大。成对损失高于 0.69：对某些比较错得很有把握",
        ),
        low=("near 0: learned by heart; look at eval/loss", "接近 0：背下来了；看 eval/loss"),
        causes=(
            ("--learning_rate is too large, or the rows contradict each other", "--learning_rate 太大，或数据自相矛盾"),
            ("too many passes: fewer --num_train_epochs", "遍数太多：减少 --num_train_epochs"),
        ),
        options=("learning_rate", "num_train_epochs", "rm_loss", "completion_only_loss"),
        source="SFT: cross-entropy; pairs: arXiv 2009.01325; k-wise: InstructGPT, eq. 1",
        similar=("train_loss", "sft_loss"),
    ),
    "eval/loss": MetricWords(
        title=("held-out loss", "留出的损失"),
        brief=(
            "The loss on rows that were not learned from. Lower is better.",
            "没有学过的行上的损失。越低越好。",
        ),
        healthy=("falls, then flattens, a little above loss", "下降后变平，略高于 loss"),
        high=("rises while loss falls: learned by heart; stop earlier", "loss 降而它升：在死记硬背；应早点停"),
        causes=(
            (
                "fewer --num_train_epochs, a smaller --learning_rate, or more rows",
                "减少 --num_train_epochs、调小 --learning_rate，或增加数据",
            ),
        ),
        options=("eval_fraction", "eval_dataset_name", "num_train_epochs", "learning_rate"),
        similar=("eval_loss", "validation_loss"),
    ),
    "eval/perplexity": MetricWords(
        title=("held-out perplexity", "留出的困惑度"),
        brief=(
            "Among how many tokens the model hesitates. Lower is better.",
            "模型平均在多少个 token 之间犹豫。越低越好。",
        ),
        healthy=("3 to 20 on plain text, less on narrow tasks", "普通文本 3 到 20，狭窄的任务更低"),
        high=("the text is far from what the model knows", "文本离模型所知甚远"),
        low=("near 1: it knows the text by heart", "接近 1：它背下了这些文本"),
        options=("num_train_epochs", "learning_rate"),
        similar=("ppl", "perplexity"),
    ),
    "accuracy": MetricWords(
        title=("accuracy on the batch", "本批的准确率"),
        brief=(
            "Share of pairs whose better answer has the higher score. Guessing gives 50\u00a0%; higher is better.",
            "更好的回答得分也更高的成对比较所占比例。随机猜测是 50\u00a0%，越高越好。",
        ),
        healthy=(
            "0.5 at the start, 0.6 to 0.8 for human labels, higher for clear ones",
            "起始 0.5；人工标注 0.6 到 0.8，分明的标签更高",
        ),
        high=("near 1 while eval/accuracy stays: learned by heart", "接近 1 而 eval/accuracy 不动：背下来了"),
        low=("0.5: nothing learned; below: better and worse are swapped", "0.5：什么也没学到；更低：好坏可能颠倒了"),
        causes=(
            (
                "chosen and rejected are swapped, or cut at --max_length before they differ",
                "chosen 与 rejected 颠倒，或还没出现差别就被 --max_length 排除",
            ),
        ),
        options=("learning_rate", "rm_loss", "judgement_template"),
        similar=("rewards/accuracies",),
    ),
    "eval/accuracy": MetricWords(
        title=("held-out accuracy", "留出比较对上的准确率"),
        brief=(
            "Share of held-out pairs whose better answer has the higher score. Guessing: 50\u00a0%; higher is better.",
            "留出的比较对中，更好的回答得分也更高的比例。随机猜测是 50\u00a0%，越高越好。",
        ),
        healthy=(
            "0.6 to 0.8 for human labels; people agree with each other in 0.63 to 0.77 of pairs",
            "人工标注 0.6 到 0.8；人与人之间也只有 0.63 到 0.77 一致",
        ),
        high=(
            "above 0.95: perhaps a shortcut, such as length: see reward_report.json",
            "大于 0.95：也许走了捷径，如长度：见 reward_report.json",
        ),
        low=("near 0.5: PPO would optimise noise", "接近 0.5：PPO 会去优化噪声"),
        causes=(
            ("the template asks for nothing: --judgement_template", "模板没有问出判断：--judgement_template"),
            ("too few comparisons, or labels that contradict each other", "比较太少，或标签自相矛盾"),
        ),
        options=("eval_fraction", "judgement_template", "learning_rate", "num_train_epochs"),
        source="agreement of labellers: arXiv 2009.01325, InstructGPT",
        similar=("eval_accuracy",),
    ),
    "margin": MetricWords(
        title=("margin of the batch", "本批的间隔"),
        brief=(
            "How far the better answer's score is ahead, on average. Higher is surer, not always righter.",
            "更好的回答平均领先多少分。越大越有把握，但不一定越对。",
        ),
        healthy=("0.1 to 2 by the end", "结束时 0.1 到 2"),
        high=(
            "above 5: surer than labels allow; probabilities are off (calibration)",
            "大于 5：比标签所允许的更有把握；概率不准（校准）",
        ),
        low=("near 0: the scores do not tell answers apart", "接近 0：得分区分不了回答"),
        options=("learning_rate", "num_train_epochs", "center_coef"),
        similar=("rewards/margins",),
    ),
    "eval/margin": MetricWords(
        title=("held-out margin", "留出的间隔"),
        brief=(
            "The same on held-out pairs. Higher is surer, not always righter.",
            "同上，在留出的比较对上。越大越有把握，但不一定越对。",
        ),
        healthy=("a little below margin", "略低于 margin"),
        high=(
            "grows while eval/accuracy stays: only surer, not righter",
            "增大而 eval/accuracy 不动：只是更有把握，并没有更对",
        ),
        low=("near 0: the scores do not tell new answers apart", "接近 0：得分区分不了新的回答"),
        options=("learning_rate", "num_train_epochs"),
    ),
    "score/mean": MetricWords(
        title=("level of scores", "得分的高低"),
        brief=(
            "Mean score of a batch. A preference loss leaves it free, so its level says nothing.",
            "一批得分的均值。偏好损失不约束它，所以高低没有意义。",
        ),
        healthy=(
            "anything that does not run away; around 0 with --center_coef",
            "不失控即可；用 --center_coef 时在 0 附近",
        ),
        high=(
            "drifting far: half precision loses digits; --center_coef 0.01",
            "漂得很远：半精度会丢失精度；--center_coef 0.01",
        ),
        low=("as for high", "同过高"),
        options=("center_coef", "score_normalisation"),
    ),
    "score/std": MetricWords(
        title=("spread of scores in a batch", "一批得分的离散程度"),
        brief=(
            "Standard deviation of a batch's scores. Near 0 the model says the same of every answer.",
            "一批得分的标准差。接近 0 时模型对每条回答都一样。",
        ),
        healthy=("grows from near 0 to 0.3 to 3", "从接近 0 增大到 0.3 至 3"),
        high=("above 5: the model is surer than labels allow", "大于 5：比标签所允许的更有把握"),
        low=("near 0: nothing learned yet", "接近 0：还没学到东西"),
        options=("learning_rate", "head_init_std", "score_normalisation"),
    ),
    "epoch": MetricWords(
        title=("passes so far", "已学的遍数"),
        brief=("Passes over the training rows so far.", "到目前为止把训练数据学了多少遍。"),
        healthy=("1 to 4 for SFT, 1 for a reward model", "有监督微调 1 到 4 遍，奖励模型 1 遍"),
        high=("the rows are learned by heart: look at eval/loss", "数据会被背下来：看 eval/loss"),
        options=("num_train_epochs", "max_steps"),
    ),
    "grad_norm": MetricWords(
        title=("gradient norm", "梯度范数"),
        brief=("Before clipping. Steady is good; spikes are a warning.", "裁剪之前。平稳为好，尖峰是警告信号。"),
        healthy=("within a few times its start", "在起始值的几倍之内"),
        high=("a row that pulls hard, or steps too large", "某一行拉得很猛，或步子太大"),
        low=("near 0: nothing left to learn, or a mask that learns nothing", "接近 0：没什么可学的，或掩码盖住了一切"),
        options=("max_grad_norm", "learning_rate"),
        similar=("gradient_norm",),
    ),
}
