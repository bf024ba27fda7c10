"""Why was this token rewarded or punished? Two or three plain sentences, in English and Chinese."""

from clearppo.ui.earned import GROUPED
from clearppo.ui.equation_words import Words, note
from clearppo.ui.lines import Earned, Token, beyond, bounds

HARDLY = 0.0005
"""A ratio this near to 1 is no change that a person need hear of."""


def story(token: Token, earned: Earned) -> Words:
    """What happened to the token and why: its own share, what came later, what was expected, and where it was cut."""
    if not token.answer["learned"]:
        return note(
            "This answer was left out of learning, because it, or another answer to its prompt, has no score.",
            "这个回答没有参与学习：它（或同一提示的另一个回答）没有得分。",
        )
    parts = [_verdict(token, earned), _why(token, earned), _update(token)]
    return note(
        " ".join(part["en"] for part in parts if part["en"]), "".join(part["zh"] for part in parts if part["zh"])
    )


def signed(x: float | None) -> str:
    """A number with its sign."""
    return "?" if x is None else f"{x:+.3g}".replace("-", "−") if x else "0"


def _verdict(token: Token, earned: Earned) -> Words:
    text, value, before = token.answer["tokens"][token.index], earned.final, earned.plain
    what = _quoted(text)
    if not value:
        return note(f"{what} was neither rewarded nor punished: its advantage is 0.", f"{what} 不奖不罚：优势为 0。")
    en, zh = ("rewarded", "得到了奖励") if value > 0 else ("punished", "受到了惩罚")
    if token.meta["whiten_advantages"] and before is not None:
        more = note(f" ({signed(before)} before whitening)", f"（白化前 {signed(before)}）")
        if before * value < 0:
            more = note(
                f": {signed(before)} by itself, but less than the batch's mean"
                if value < 0
                else f": {signed(before)} by itself, but more than the batch's mean",
                f"：它本身是 {signed(before)}，但{'低' if value < 0 else '高'}于整批的均值",
            )
    else:
        more = note("", "")
    return note(
        f"{what} was {en}: its advantage is {signed(value)}{more['en']}.",
        f"{what} {zh}：优势为 {signed(value)}{more['zh']}。",
    )


def _why(token: Token, earned: Earned) -> Words:
    if token.meta["estimator"] in GROUPED:
        if earned.expected is None:
            return note("", "")
        others = token.meta["estimator"] == "rloo"
        total, mean = signed(earned.total), signed(earned.expected)
        return note(
            f"The whole answer earned {total}, the {'other ' if others else ''}answers to this prompt {mean} on "
            "average; all its tokens share that, whatever each of them did.",
            f"整个回答得到 {total}，{'同一提示的其他' if others else '这条提示的所有'}回答平均 {mean}；"
            "它的每个 token 都分到同样的优势，不管各自做了什么。",
        )
    own = _own(token, earned)
    if earned.following is not None:
        return _by_gae(token, earned, own)
    later = note("", "") if token.last else note(
        f", and the tokens after it brought {signed(earned.later)}", f"，后面的 token 贡献 {signed(earned.later)}"
    )  # fmt: skip
    if earned.expected is None:
        return note(
            f"From here to the end it earned {signed(earned.total)}: {own['en']}{later['en']}.",
            f"从这里到结尾共得到 {signed(earned.total)}：{own['zh']}{later['zh']}。",
        )
    return note(
        f"From here to the end it earned {signed(earned.total)}: {own['en']}{later['en']}. "
        f"The critic had expected {signed(earned.expected)}.",
        f"从这里到结尾共得到 {signed(earned.total)}：{own['zh']}{later['zh']}。"
        f"评论家原本预期 {signed(earned.expected)}。",
    )


def _by_gae(token: Token, earned: Earned, own: Words) -> Words:
    if token.last:
        return note(
            f"Its own reward is {own['en']}; it is the last token, and the critic had expected "
            f"{signed(earned.expected)}.",
            f"它自己的奖励是{own['zh']}；这是最后一个 token，评论家原本预期 {signed(earned.expected)}。",
        )
    return note(
        f"Its own reward is {own['en']}; with it the critic's expectation went from {signed(earned.expected)} to "
        f"{signed(earned.following)}, and what the later tokens did counts {signed(earned.later)} here.",
        f"它自己的奖励是{own['zh']}；有了它，评论家的预期从 {signed(earned.expected)} 变为 "
        f"{signed(earned.following)}，后面的 token 在这里算作 {signed(earned.later)}。",
    )


def _own(token: Token, earned: Earned) -> Words:
    """The token's own reward: its KL, and the score on the last token."""
    kl = note(f"{signed(earned.process)} for its KL from the reference", f"与参考模型的 KL {signed(earned.process)}")
    if token.last and token.scored:
        kl = note(f"{kl['en']} and {signed(earned.score)} for the score", f"{kl['zh']}，得分 {signed(earned.score)}")
    if token.meta["whiten_rewards"]:
        white = signed(earned.reward)
        kl = note(f"{kl['en']} ({white} after whitening)", f"{kl['zh']}（白化后 {white}）")
    return kl


def _update(token: Token) -> Words:
    """What learning did with it."""
    if token.meta["critic_only"]:
        return note(
            "The policy did not move: in this iteration only the critic learned.",
            "策略没有移动：这次迭代只有评论家在学习。",
        )
    read = [(epoch, ratio) for epoch, ratio in enumerate(token.ratios, 1) if ratio is not None]
    if not read:
        return note("", "")
    low, high = bounds(token.meta["objective"])
    cut = [(epoch, ratio) for epoch, ratio in read if beyond(ratio, token.at("advantages"), low, high)]
    last = read[-1][1]
    if cut:
        epoch, ratio = cut[0]
        rest = len(cut) - 1
        return note(
            f"In epoch {epoch} its probability had already {_changed(ratio)['en']}, beyond the clip, so it "
            f"pushed no further{f' (the same in {rest} more)' if rest else ''}.",
            f"在第 {epoch} 轮，它的概率已{_changed(ratio)['zh']}，超出裁剪范围，所以不再有梯度"
            f"{f'（另有 {rest} 轮也是如此）' if rest else ''}。",
        )
    if len(read) == 1:
        return note("", "")
    if token.meta["objective"]["clip"] is None:
        return note(
            f"When last read, its probability had {_changed(last)['en']}.",
            f"最后一次读到时，它的概率{_changed(last)['zh']}。",
        )
    return note(
        f"It was never clipped: when last read, its probability had {_changed(last)['en']}.",
        f"它从未被裁剪：最后一次读到时，它的概率{_changed(last)['zh']}。",
    )


def _changed(ratio: float) -> Words:
    """How a probability has changed, by its ratio to the old one."""
    if abs(ratio - 1) < HARDLY:
        return note("hardly changed", "几乎没变")
    if ratio >= 2 or ratio <= 1 / 2:
        return note(f"become {ratio:.3g} times the old one", f"变为原来的 {ratio:.3g} 倍")
    way = note("risen", "上升") if ratio > 1 else note("fallen", "下降")
    share = f"{100 * abs(ratio - 1):.3g} %"
    return note(f"{way['en']} by {share}", f"{way['zh']}了 {share}")


def _quoted(text: str) -> str:
    """A token's text, in which everything can be seen: blanks, line ends, and what would turn the words around it."""
    shown = (_SEEN.get(c) or (c if c.isprintable() else f"⟨{ord(c):04X}⟩") for c in text)
    return f"“{''.join(shown)}”"


_SEEN = {" ": "·", "\n": "↵", "\t": "→"}
