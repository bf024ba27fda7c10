"""What the rows of an explanation are called, in the terminal and on the pages."""

from clearppo.catalogue.words import LANGUAGES, Text

LABELS: dict[str, Text] = {
    "metric": ("metric", "指标"),
    "quantity": ("number of a token", "token 的数值"),
    "column": ("number of an answer", "回答的数值"),
    "option": ("option", "选项"),
    "alarm": ("alarm", "警报"),
    "check": ("check of clearppo doctor", "clearppo doctor 的检查"),
    "equation": ("equation", "公式"),
    "error": ("error", "错误"),
    "exit code": ("exit code", "退出码"),
    "sentence": ("message", "报错"),
    "brief": ("", ""),
    "unit": ("unit", "单位"),
    "formula": ("formula", "算法"),
    "healthy": ("healthy", "正常"),
    "high": ("high", "过高"),
    "low": ("low", "过低"),
    "rings": ("rings when", "何时响"),
    "bad": ("if not well", "不正常时"),
    "causes": ("likely causes", "可能的原因"),
    "mend": ("mend", "办法"),
    "default": ("default", "默认值"),
    "allowed": ("allowed", "可取"),
    "condition": ("effect only with", "只在此时有效"),
    "recipes": ("recipes", "配方"),
    "section": ("section", "所在部分"),
    "options": ("options", "选项"),
    "metrics": ("metrics", "指标"),
    "alarms": ("alarms", "警报"),
    "checks": ("checks", "检查"),
    "source": ("source", "出处"),
    "computed": ("computed by", "计算处"),
    "commands": ("runs of", "所属命令"),
    "file": ("stands in", "所在文件"),
    "similar": ("also called", "又叫"),
    "more": ("more", "详见"),
    "explain": ("What it means", "含义"),
    "close": ("Close", "关闭"),
    "near": ("See also", "另见"),
    "which": ("Which one? clearppo explain NAME:", "是哪一个？clearppo explain 名字："),
}
"""The kinds of things that are explained, the rows of an explanation, and what stands around them."""

SHORT = frozenset({"options", "metrics", "alarms", "checks", "similar", "commands"})
"""Rows that are lists of names, and stand on one line."""


def label(name: str, language: str) -> str:
    """What a row is called."""
    return LABELS[name][LANGUAGES.index(language)]
