"""The units of metrics, as their registrations spell them, in both languages."""

from clearppo.catalogue.words import Text

UNITS: dict[str, Text] = {
    "1": ("a plain number", "无单位"),
    "answers": ("answers", "条回答"),
    "answers per second": ("answers a second", "回答 / 秒"),
    "nats per pair, or per prompt": ("nats a pair, or a prompt", "nat / 对，或 nat / 提示"),
    "nats per response": ("nats an answer", "nat / 回答"),
    "nats per token": ("nats a token", "nat / token"),
    "passes": ("passes over the rows", "遍"),
    "score": ("score", "得分"),
    "score per nat": ("score a nat", "得分 / nat"),
    "score squared": ("score squared", "得分的平方"),
    "share": ("share", "比例"),
    "share of 4-grams": ("share of 4-grams", "4-gram 的比例"),
    "share of answers": ("share of answers", "回答的比例"),
    "share of pairs": ("share of pairs", "比较对的比例"),
    "share of prompts": ("share of prompts", "提示的比例"),
    "share of tokens": ("share of tokens", "token 的比例"),
    "steps": ("steps", "步"),
    "tokens": ("tokens", "token"),
    "tokens per second": ("tokens a second", "token / 秒"),
    "updates": ("updates", "次更新"),
    "yes or no": ("1 for yes, 0 for no", "1 为是，0 为否"),
}
