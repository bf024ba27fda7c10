"""What `clearppo replay` shows: whether it is the same, what learning did, and which tokens moved."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from clearppo.build.replay import Replay
from clearppo.train.replay.check import Check
from clearppo.train.replay.effect import Moved

LEARNING = (
    "lr", "objective/kl_coef", "loss/policy_avg", "loss/value_avg", "loss/kl_avg", "loss/ptx_avg",
    "policy/approxkl_avg", "policy/clipfrac_avg", "policy/entropy_avg", "policy/grad_norm", "policy/early_stop",
    "val/ratio", "val/ratio_var", "val/error", "val/clipfrac_avg",
)  # fmt: skip
"""The metrics that are shown, where they exist."""
AFTER = {
    "optimiser_steps": "optimiser steps",
    "kl_after": "KL from the policy before, nats a token",
    "kl_after_largest": "the largest of a token, nats",
    "probability_moved": "mean change of a token's probability",
    "entropy_after": "entropy afterwards, nats a token",
    "explained_var_after": "explained variance of the values afterwards",
}
"""What is measured when the iteration is over, and its words."""
SHOWN_DIFFERENCES = 5


def show(found: Replay) -> None:
    """All of it, on stdout."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=max(console.width, 140), no_color=True)
    before = f": {found.iterations} before it learned again first" if found.iterations else ""
    console.print(escape(f"iteration {found.step} of {found.run}, from {found.origin}{before}"), soft_wrap=True)
    console.print(escape(verdict(found.check, found.cause)), soft_wrap=True)
    console.print(_numbers(found))
    if found.outcome.tokens:
        console.print(_tokens(found))


def verdict(check: Check, cause: str | None) -> str:
    """Whether it is the same, in a sentence or some lines."""
    if not check.identical:
        shown = [f"  {difference}" for difference in check.differences[:SHOWN_DIFFERENCES]]
        more = len(check.differences) - len(shown)
        return "\n".join(["different:", *shown, *([f"  and {more} more"] if more else []), *([cause] if cause else [])])
    parts = [f"{check.metrics:,} metrics", f"{check.recorded:,} recorded numbers"]
    if check.weights:
        parts.append(f"{check.weights:,} weights ({check.weights_of})")
    if check.memory:
        parts.append(f"{check.memory:,} numbers that the optimiser remembers")
    weights = "" if check.weights else " (no checkpoint of this iteration: weights are not compared)"
    return f"identical: {', '.join(parts)}{weights}"


def _numbers(found: Replay) -> Table:
    outcome = found.outcome
    table = Table(header_style="dim")
    table.add_column("")
    table.add_column("as it was", justify="right")
    changed = outcome.changed
    if changed is not None:
        table.add_column(escape(_settings(found)), justify="right", overflow="fold")
    other = {} if changed is None else changed

    def row(words: str, was: float | None, now: float | None) -> None:
        table.add_row(words, _told(was), *([] if changed is None else [_told(now)]))

    for name in LEARNING:
        if name in outcome.numbers or name in other:
            row(name, outcome.numbers.get(name), other.get(name))
    table.add_section()
    for name, words in AFTER.items():
        if name in outcome.numbers or name in other:
            row(words, outcome.numbers.get(name), other.get(name))
    table.add_section()
    for what, parts in (("first gradient", outcome.gradient), ("update of the weights", outcome.update)):
        for part, pair in parts.items():
            if part == "all" or "critic" in parts:
                of_part = "" if part == "all" else f", the {part}'s part"
                row(f"{what}{of_part}: length", pair.norm, pair.norm_changed)
                if changed is not None and pair.cosine is not None:
                    table.add_row(f"{what}{of_part}: cosine", "", f"{pair.cosine:.6f}")
    return table


def _settings(found: Replay) -> str:
    return ", ".join(f"{name} {_word(was)} → {_word(now)}" for name, (was, now) in found.settings.items())


def _word(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value).lower()


def _told(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _tokens(found: Replay) -> Table:
    tokens, changed = found.outcome.tokens, found.outcome.changed is not None
    table = Table(title=f"the {len(tokens)} tokens whose probability moved most", title_justify="left")
    table.add_column("answer", justify="right")
    table.add_column("token", overflow="fold")
    for name in ("advantage", "before", "after", *(["changed"] if changed else [])):
        table.add_column(name, justify="right")
    for token in tokens:
        moved = [f"{token.before:.4f}", f"{token.after:.4f}"]
        if token.after_changed is not None:
            moved.append(f"{token.after_changed:.4f}")
        advantage = "" if token.advantage is None else f"{token.advantage:+.3f}"
        table.add_row(str(token.row), _in_context(token), advantage, *moved)
    return table


def _in_context(token: Moved) -> str:
    left, text, right = (escape(_visible(part)) for part in (token.left, token.text, token.right))
    return f"[dim]{left}[/dim]«[bold]{text}[/bold]»[dim]{right}[/dim]"


def _visible(text: str) -> str:
    """A token as a terminal can show it: no model's answer drives it."""
    return "".join("⏎" if c == "\n" else c if c.isprintable() else "·" for c in text)
