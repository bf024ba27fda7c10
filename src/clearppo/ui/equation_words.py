"""The words beside a token's equations, in English and Chinese; the terms are those of docs/glossary.md."""

Words = dict[str, str]


def note(en: str, zh: str) -> Words:
    """A text in both languages."""
    return {"en": en, "zh": zh}


NAMES = {
    "process_reward": note("process reward", "过程奖励"),
    "score": note("score", "得分"),
    "reward": note("reward", "奖励"),
    "reward_whitened": note("reward, whitened", "白化后的奖励"),
    "return": note("return", "回报"),
    "delta": note("what this step changed (TD error)", "这一步带来的变化（TD 误差）"),
    "advantage": note("advantage", "优势"),
    "advantage_whitened": note("advantage, whitened", "白化后的优势"),
    "weight": note("importance weight", "截断重要性权重"),
    "actor": note("actor loss of the token", "该 token 的演员损失"),
    "critic": note("critic loss of the token", "该 token 的评论家损失"),
    "kl_loss": note("KL in the loss", "损失中的 KL"),
    "loss": note("loss of the token", "该 token 的损失"),
}

NOTES = {
    "full_kl": note(
        "The KL over the whole vocabulary; one token's log-probs cannot tell it, so it is taken from the record.",
        "这是整个词表上的 KL；单个 token 的对数概率算不出它，所以直接取自记录。",
    ),
    "no_score": note("Nobody scored this answer, so it earns nothing.", "没有人给这个回答打分，所以它没有奖励。"),
    "whiten_reward": note(
        "Rewards are divided by their deviation over the batch; their mean stays.",
        "奖励除以整批的标准差；均值不变。",
    ),
    "whiten_advantage": note(
        "Advantages get mean 0 and deviation 1 over the batch: shift is minus the mean, scale 1 / deviation.",
        "优势在整批上变成均值 0、标准差 1：shift 是负的均值，scale 是标准差的倒数。",
    ),
    "last": note("The last token: behind it value and return are 0.", "最后一个 token：它之后的价值和回报都是 0。"),
    "same": note("Every token of the answer has the same advantage.", "回答中每个 token 的优势都相同。"),
    "equal": note(
        "All answers to the prompt earned the same: none is better than another.",
        "这条提示的所有回答得到的都一样：没有哪个更好。",
    ),
    "group_cut": note(
        "Not all answers to this prompt are recorded (--record_answers), so the recorded advantage is shown.",
        "这条提示的回答没有全部记录（--record_answers），所以这里显示的是记录下来的优势。",
    ),
    "left_out": note(
        "The answer was left out of learning: it, or another answer to its prompt, has no score.",
        "这个回答没有参与学习：它（或同一提示的另一个回答）没有得分。",
    ),
    "clipped": note(
        "Clipped: the ratio has left the range, so this epoch gave the token no gradient.",
        "被裁剪：比率已超出范围，所以这一轮该 token 没有梯度。",
    ),
    "dual": note(
        "The dual clip bounds the loss: the token got no gradient.", "双重裁剪限制了损失：该 token 没有梯度。"
    ),
    "share": note(
        "Divided by the tokens of its mini-batch, and summed with theirs, it is part of (7).",
        "除以所在小批的 token 数，再与其他 token 相加，就是（7）的一部分。",
    ),
    "first_is_old": note(
        "The old log-prob is that of the learning pass itself, so the ratio is exactly 1.",
        "旧的对数概率就是学习这一遍自己的，所以比率恰好是 1。",
    ),
    "warm_up": note(
        "Only the critic learned in this iteration (warm-up): the actor's part moved nothing.",
        "这次迭代只有评论家在学习（预热）：演员的部分没有移动任何东西。",
    ),
    "old_value": note(
        "With the value as it was when the token was sampled; the live value moves from step to step.",
        "这里用的是采样时的价值；实时的价值每一步都在变。",
    ),
    "full_kl_loss": note(
        "The full KL in the loss needs the whole vocabulary and is not in the record.",
        "损失中的完整 KL 需要整个词表，记录里没有。",
    ),
    "entropy": note(
        "Without the entropy's part: it needs the whole vocabulary and is not in the record.",
        "不含熵的部分：它需要整个词表，记录里没有。",
    ),
}
