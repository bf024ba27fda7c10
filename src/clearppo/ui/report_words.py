"""What a report says, in English and in Chinese. The Chinese terms are those of docs/glossary.md."""

from collections.abc import Callable

Say = Callable[..., str]
"""Words by their name, in the language of the report: say("answers", n=3)."""

LANGUAGES = ("en", "zh")

# name: (English, Chinese). {names} are filled in.
WORDS: dict[str, tuple[str, str]] = {
    "lang": ("en", "zh-CN"),
    "title.ppo": ("PPO: {name}, from {model}", "PPO：{name}，基于 {model}"),
    "title.sft": ("Supervised fine-tuning: {name}, from {model}", "有监督微调：{name}，基于 {model}"),
    "title.reward": ("Reward model: {name}, from {model}", "奖励模型：{name}，基于 {model}"),
    "title.rlhf": ("RLHF: {name}, from {model}", "RLHF：{name}，基于 {model}"),
    "made": ("{path}, last written {when}, by {versions}", "{path}，最后写入于 {when}，{versions}"),
    "step.sft": ("Fine-tuning", "有监督微调"),
    "step.prefs": ("Comparisons", "生成比较"),
    "step.reward": ("Reward model", "奖励模型"),
    "step.ppo": ("PPO", "PPO"),
    "what.sft": ("The model imitates demonstrations.", "模型模仿示范。"),
    "what.prefs": ("Its answers to prompts are compared.", "它对提示的回答被拿来比较。"),
    "what.reward": ("A model learns from the comparisons to give scores.", "一个模型从比较中学会打分。"),
    "what.ppo": ("The policy is improved against the score.", "以得分为目标优化策略。"),
    "state.finished": ("Finished after {n} {rounds}.", "已完成，共 {n} {rounds}。"),
    "state.running": ("Still running: {n} {rounds} so far{of}.", "还在运行：至今 {n} {rounds}{of}。"),
    "state.stopped": ("Stopped before its end, after {n} {rounds}{of}.", "提前停止，至此 {n} {rounds}{of}。"),
    "state.waiting": ("Nothing was learned yet.", "还没有开始学习。"),
    "state.of": (" of {n}", "（共 {n}）"),
    "iterations": ("iterations", "次迭代"),
    "steps": ("steps", "步"),
    "iteration": ("iteration", "迭代"),
    "step": ("step", "步"),
    "way.comparisons": ("{pairs} pairs on {prompts} prompts.", "{prompts} 条提示上的 {pairs} 对比较。"),
    "before_after": ("Before and after", "前后对照"),
    "before_after.note": (
        "{answers} answers to {prompts} prompts that took no part in training. ± is half of a 95 % interval.",
        "对 {prompts} 条没有参与训练的提示作的 {answers} 条回答。± 是 95 % 置信区间的一半。",
    ),
    "measure": ("measure", "指标"),
    "before": ("before", "之前"),
    "after": ("after", "之后"),
    "change": ("change", "变化"),
    "optimised": ("optimised", "被优化"),
    "held_out": ("not optimised", "未被优化"),
    "win_rate": ("win rate against the start, by {name}", "对起始模型的胜率（{name}）"),
    "kl_nats": ("KL from the start, nats an answer", "与起始模型的 KL，每条回答（nat）"),
    "repetition": ("repeated 4-grams", "重复的 4-gram"),
    "mean_length": ("tokens an answer", "每条回答的 token 数"),
    "no_change": ("no clear change", "没有明显变化"),
    "correlations": ("{pearson} (Pearson), {ranks} (by ranks)", "{pearson}（Pearson），{ranks}（按秩）"),
    "order": ("The steps below stand in reverse order, the last one first.", "下面各步按倒序排列，最后一步在前。"),
    "comma": (", ", "，"),
    "colon": (": ", "："),
    "of_role": (" ({role})", "（{role}）"),
    "samples": ("The same prompts, answered before and after", "同样的提示，前后两条回答"),
    "samples.first": ("The first prompts of the file, not chosen.", "文件里最前面的几条，未经挑选。"),
    "samples.worst": ("Where it became worst", "变差最多的例子"),
    "samples.note.worst": ("Of all the other answers, those that lost most.", "其余回答中得分下降最多的。"),
    "events.more": ("{n} more; clearppo view lists them all.", "还有 {n} 件，clearppo view 里全都有。"),
    "at.iteration": ("iteration {step}", "第 {step} 次迭代"),
    "at.step": ("step {step}", "第 {step} 步"),
    "samples.unpaired": ("Answers from the run", "训练中的回答"),
    "prompt": ("prompt", "提示"),
    "answer": ("answer", "回答"),
    "score": ("score", "得分"),
    "kl": ("KL", "KL"),
    "tokens.count": ("{n} tokens", "{n} 个 token"),
    "reward": ("reward", "奖励"),
    "verdict.none": (
        "The policy did not improve even in the eyes of its {own}, which it was optimised against.",
        "即使在{own}眼里，策略也没有变好，而它正是被优化的目标。",
    ),
    "verdict.worse": (
        "The policy improved only in the eyes of its {own}; by {down}, not optimised, it became worse.",
        "策略只在{own}眼里变好了；按没有被优化的 {down}，它变差了。它学会了讨好，而不是变好。",
    ),
    "verdict.only": (
        "The policy improved only in the eyes of its {own}: by {same} no change can be told from chance.",
        "策略只在{own}眼里变好了：按没有被优化的 {same}，看不出与偶然有别的变化。",
    ),
    "verdict.good": (
        "The policy improved in truth, as far as {up} can tell, not optimised.",
        "策略确实变好了，没有被优化的 {up} 都这样看。",
    ),
    "verdict.score": (
        "On {n} prompts that took no part in training the score went from {before} to {after} ({change}).",
        "在 {n} 条没有参与训练的提示上，得分从 {before} 变到 {after}（{change}）。",
    ),
    "and": (" and ", " 和 "),
    "reward_model": ("reward model", "奖励模型"),
    "objective": ("What it really optimises", "真正优化的目标"),
    "how": ("How", "做法"),
    "changed": ("Options that are not at their defaults", "与默认值不同的选项"),
    "option": ("option", "选项"),
    "value": ("value", "值"),
    "default": ("default", "默认值"),
    "none_changed": ("All options are at their defaults.", "所有选项都是默认值。"),
    "course": ("How it went", "训练过程"),
    "more": ("How learning went", "学习过程"),
    "best.note": (
        "Best by {metric}: {value} at {step}, the dotted line.",
        "按 {metric} 最佳：第 {step} 次，{value}，图中的虚线。",
    ),
    "tile.loss": ("loss", "损失"),
    "tile.eval_loss": ("loss on held-out rows", "留出行上的损失"),
    "tile.perplexity": ("perplexity, held out", "留出的困惑度"),
    "tile.accuracy": ("accuracy, held out", "留出的准确率"),
    "tile.from": ("from {value}", "初始 {value}"),
    "tile.interval": ("{low} to {high} (95 %)", "{low} 到 {high}（95 %）"),
    "events": ("What happened on the way", "途中发生的事"),
    "from.model": ("start model", "起始模型"),
    "from.demonstrations": ("demonstrations", "示范"),
    "from.comparisons": ("comparisons", "比较"),
    "from.prompts": ("prompts", "提示"),
    "from.score": ("score from", "得分来源"),
    "how.answers": ("answers", "回答"),
    "how.answers.value": (
        "{total}, {batch} an iteration, up to {length} tokens, temperature {temperature}",
        "共 {total} 条，每次迭代 {batch} 条，最长 {length} 个 token，温度 {temperature}",
    ),
    "how.update": ("learning in an iteration", "每次迭代的学习"),
    "how.update.value": (
        "optimiser steps: {updates} (epochs × mini-batches: {epochs} × {batches}), {clip}",
        "{updates} 次优化步（轮数 × 小批数：{epochs} × {batches}），{clip}",
    ),
    "how.clip": ("ratio clipped at 1 − {low} and 1 + {high}", "比率裁剪在 1 − {low} 与 1 + {high}"),
    "how.no_clip": ("ratio not clipped", "比率不裁剪"),
    "schedule.linear": ("linear", "线性下降"),
    "schedule.cosine": ("cosine", "余弦下降"),
    "schedule.constant": ("constant", "恒定"),
    "how.advantages": ("advantages", "优势"),
    "how.kl": ("KL coefficient", "KL 系数"),
    "how.rate": ("learning rate", "学习率"),
    "how.passes": ("epochs", "轮数"),
    "how.batch": ("rows a step", "每步的行数"),
    "how.loss": ("loss", "损失"),
    "how.reads": ("reads", "读到的文本"),
    "how.lora": ("LoRA", "LoRA"),
    "how.seed": ("seed", "种子"),
    "tokens": ("Token by token", "逐 token"),
    "tokens.note": (
        "Iteration {step}. A token's colour and the number below it are its advantage: blue was better than expected "
        "and is made more probable, orange was worse and is made less probable. · is a space, ↵ a line end.",
        "第 {step} 次迭代。token 的颜色和下面的数字是它的优势：蓝色比预期好，概率会提高；橙色比预期差，"
        "概率会降低。· 是空格，↵ 是换行。",
    ),
    "tokens.numbers": ("The numbers", "各项数值"),
    "tokens.some": (
        "The {n} tokens with the largest advantages, of {of}, in their order.",
        "{of} 个 token 中优势绝对值最大的 {n} 个，按原来的顺序。",
    ),
    "tokens.cut": ("The first {n} of {of} tokens.", "{of} 个 token 中的前 {n} 个。"),
    "pick.high": ("highest score", "得分最高"),
    "pick.low": ("lowest score", "得分最低"),
    "pick.kl": ("largest KL", "KL 最大"),
    "pick.advantage": ("advantage of a token largest in size", "单个 token 的优势绝对值最大"),
    "column.place": ("no.", "序号"),
    "column.token": ("token", "token"),
    "column.log_probs": ("log-prob", "对数概率"),
    "column.ref_log_probs": ("reference's", "参考的"),
    "column.kls": ("KL", "KL"),
    "column.rewards": ("reward", "奖励"),
    "column.values": ("value", "价值"),
    "column.returns": ("return", "回报"),
    "column.advantages": ("advantage", "优势"),
    "column.ratio": ("ratio", "比率"),
    "not_recorded": (
        "This run has no record of its tokens (record_steps), so there is no view of them.",
        "这次训练没有 token 记录（record_steps），所以没有逐 token 的内容。",
    ),
    "rm": ("What the reward model is worth", "奖励模型的质量"),
    "rm.good": ("Good: PPO can optimise this reward model.", "好：PPO 可以以它为目标优化。"),
    "rm.usable": (
        "Usable: it knows more than chance, but is wrong often enough for PPO to find its mistakes.",
        "可用：比随机猜测强，但错误不少，PPO 会找到并利用它的错误。",
    ),
    "rm.not good enough": (
        "Not good enough: PPO would optimise its mistakes.",
        "不够好：PPO 会去优化它的错误。",
    ),
    "rm.cannot tell": (
        "Cannot tell: there are too few held-out pairs for a verdict.",
        "无法判断：留出的比较对太少。",
    ),
    "rm.accuracy": ("right about held-out pairs", "留出比较对上的准确率"),
    "rm.clear": ("right about clear pairs (gap above {gap})", "差距明显（大于 {gap}）的比较对上的准确率"),
    "rm.near": ("right about near-ties (gap up to {gap})", "难分高下（差距不超过 {gap}）的比较对上的准确率"),
    "rm.calibration": ("predicted probabilities off by", "预测的概率平均偏差"),
    "rm.length": ("correlation of score and length", "得分与长度的相关系数"),
    "rm.longer": ("always choosing the longer answer is right in", "一律选更长的回答，准确率"),
    "rm.train": ("right about pairs it learned from", "学过的比较对上的准确率"),
    "rm.pairs": ("{share} ({low} to {high}, {n} pairs)", "{share}（{low} 到 {high}，{n} 对）"),
    "config": ("All options", "全部选项"),
    "config.note": (
        "config.yaml of each step; run it again with clearppo COMMAND --config FILE.",
        "各步的 config.yaml；用 clearppo 命令 --config 文件 可以再跑一遍。",
    ),
    "inside": ("Look inside", "深入查看"),
    "inside.view": (
        "Every answer, every token, every iteration, in the browser:",
        "在浏览器里看每一次迭代、每一条回答、每一个 token：",
    ),
    "inside.chat": ("Talk to the model:", "和模型对话："),
    "inside.again": ("Write this report again, with its figures as PNG files:", "重新生成这份报告，并把图另存为 PNG："),
    "footer": (
        "Written by clearppo report. It loads nothing from elsewhere.",
        "由 clearppo report 生成，不从别处加载任何东西。",
    ),
}


def words(language: str) -> Say:
    """The words of one language, "en" or "zh"."""
    number = LANGUAGES.index(language)

    def say(name: str, /, **filled: object) -> str:
        text = WORDS[name][number]
        return text.format(**filled) if filled else text

    return say


CHART_WORDS: dict[str, tuple[tuple[str, str], tuple[str, str]]] = {
    "score": (
        ("Score and reward", "The reward is the score less the KL's share: what PPO maximises."),
        ("得分与奖励", "奖励是得分减去 KL 的份额：PPO 要使它最大。"),
    ),
    "sources": (
        ("Sources of the score", "Each as its source gave it, before weighting."),
        ("得分的各个来源", "加权之前，各来源给出的数。"),
    ),
    "kl": (
        ("Distance from the start", "KL from the reference, summed over an answer."),
        ("与起点的距离", "与参考模型的 KL，在一条回答上求和。"),
    ),
    "frontier": (
        (
            "Score against distance",
            "What the KL bought: a point is an iteration (of a long run the mean of some), in the order of time.",
        ),
        ("得分与距离", "KL 换来了什么：一点是一次迭代（训练很长时是几次的均值），按时间相连。"),
    ),
    "evaluation": (
        ("Held-out prompts", "Measured on the way: what is optimised, and what is not."),
        ("留出的提示", "途中的评估：被优化的，和没有被优化的。"),
    ),
    "win_rate": (
        ("Win rate on held-out prompts", "Against the start model's answers; a half is as good."),
        ("留出提示上的胜率", "与起始模型的回答相比；一半即不分上下。"),
    ),
    "length": (
        ("Length of the answers", "In tokens, the ending one included."),
        ("回答长度", "以 token 计，包括结束符。"),
    ),
    "cut": (
        ("Answers that were cut", "The share that reached the longest length without ending."),
        ("被截断的回答", "到了最大长度还没有结束的比例。"),
    ),
    "entropy": (
        ("Entropy", "Of the next token's distribution. Towards 0 the policy repeats itself."),
        ("熵", "下一个 token 的分布的熵。趋近 0 时策略总说同样的话。"),
    ),
    "explained": (
        ("What the critic explains", "1: it knows the returns; 0: a constant would do as well."),
        ("评论家解释的方差", "1：它知道回报；0：一个常数也一样好。"),
    ),
    "clipped": (
        ("Clipped tokens", "The share of tokens that had stopped pushing."),
        ("被裁剪的 token", "不再推动更新的 token 的比例。"),
    ),
    "ratio": (
        ("Ratio", "Mean of p / p_old over tokens and epochs."),
        ("比率", "p / p_old 在各 token、各轮上的均值。"),
    ),
    "policy_loss": (("Policy's loss", "Equations (6) and (7)."), ("策略损失", "公式 (6)、(7)。")),
    "value_loss": (("Critic's loss", "Equation (8)."), ("评论家损失", "公式 (8)。")),
    "gradient": (("Gradient norm", "Before it is clipped."), ("梯度范数", "裁剪之前。")),
    "kl_coef": (("KL coefficient", "Score units a nat."), ("KL 系数", "每 nat 的得分。")),
    "rate": (("Learning rate", ""), ("学习率", "")),
    "time": (("Where the time went", "Seconds an iteration, by phase."), ("时间花在哪里", "每次迭代各阶段的秒数。")),
    "loss": (
        ("Loss", "The held-out rows are measured now and then."),
        ("损失", "留出的行隔一阵测一次。"),
    ),
    "accuracy": (
        ("Accuracy", "The share of pairs whose better answer has the higher score."),
        ("准确率", "较好的回答得分较高的比较对所占的比例。"),
    ),
    "by_gap": (
        ("Accuracy by gap", "Quarters of the held-out pairs, narrow gaps first; the dashed line is guessing."),
        ("按差距看准确率", "留出的比较对按差距分成四份，小的在前；虚线是随机猜测。"),
    ),
    "calibration": (
        ("Predicted and observed preference", "On the diagonal the model is as sure as it is right."),
        ("预测的与实际的偏好", "在对角线上，模型有多肯定就有多对。"),
    ),
    "scores": (("Scores of the held-out answers", ""), ("留出回答的得分", "")),
    "measures": (
        ("Before and after, by every measure", "Means and 95 % intervals over held-out prompts."),
        ("各项指标的前后对照", "留出提示上的均值与 95 % 置信区间。"),
    ),
}
"""Title and note of each figure, in English and in Chinese."""

LABELS: dict[str, tuple[str, str]] = {
    "score": ("score", "得分"),
    "rlhf_reward": ("reward (score less KL)", "奖励（得分减 KL）"),
    "nats an answer": ("nats an answer", "nat / 回答"),
    "nats a token": ("nats a token", "nat / token"),
    "share": ("share", "比例"),
    "share of tokens": ("share of tokens", "token 的比例"),
    "share of answers": ("share of answers", "回答的比例"),
    "share of pairs": ("share of pairs", "比较对的比例"),
    "tokens": ("tokens", "token 数"),
    "policy": ("policy", "策略"),
    "critic": ("critic", "评论家"),
    "training": ("training", "训练"),
    "held out": ("held out", "留出"),
    "optimised score": ("score (optimised)", "得分（被优化）"),
    "seconds": ("seconds", "秒"),
    "sampling": ("sampling", "采样"),
    "feedback": ("feedback", "反馈"),
    "learning": ("learning", "学习"),
    "evaluating": ("evaluating", "评估"),
    "saving": ("saving", "保存"),
    "loss": ("loss", "损失"),
    "norm": ("norm", "范数"),
    "ratio": ("ratio", "比率"),
    "score a nat": ("score a nat", "得分 / nat"),
    "learning rate": ("learning rate", "学习率"),
    "gap": ("gap of the labels", "标签之差"),
    "gap of scores": ("gap of its own scores", "自己得分之差"),
    "predicted": ("predicted", "预测"),
    "observed": ("observed", "实际"),
    "answers": ("answers", "回答数"),
    "iteration": ("iteration", "迭代"),
    "step": ("step", "步"),
    "before": ("before", "之前"),
    "after": ("after", "之后"),
}
"""Words within figures."""
