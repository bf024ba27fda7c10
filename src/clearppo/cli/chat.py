"""`clearppo chat MODEL`: talk to a model in the terminal."""

import sys
from collections.abc import Iterator
from typing import Any

import click


@click.command()
@click.argument("model")
@click.option("--temperature", type=float, default=0.7, show_default=True, help="0 takes the most probable token.")
@click.option("--top_p", type=float, default=1.0, show_default=True, help="Draw from the most probable this share.")
@click.option("--top_k", type=int, default=0, show_default=True, help="Draw from this many tokens; 0 = all.")
@click.option("--max_new_tokens", type=int, default=256, show_default=True, help="Length of an answer in tokens.")
@click.option("--system", default=None, help="A system message to begin with.")
@click.option("--raw", is_flag=True, help="Continue the text as it is, without the chat template, nothing remembered.")
@click.option("--seed", type=int, default=42, show_default=True, help="Seed of the random numbers.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
def chat(model: str, **options: Any) -> None:
    """Talk to MODEL: a directory (of a run, say), a hub name, or smollm2-135m-instruct.

    A line is a message; an empty line or Ctrl-D ends. /new forgets the conversation. Lines may also be piped in.
    """
    from clearppo.build.chat import build_chat

    talker = build_chat(
        model,
        device=options["device"],
        max_tokens=options["max_new_tokens"],
        temperature=options["temperature"],
        top_k=options["top_k"],
        top_p=options["top_p"],
        seed=options["seed"],
    )
    raw = options["raw"] or not talker.has_template
    opening = [{"role": "system", "content": options["system"]}] if options["system"] else []
    if sys.stdin.isatty():
        how = "It continues your text." if raw else "It remembers the conversation; /new forgets it."
        click.echo(f"{model}. {how} An empty line ends.")
    messages = list(opening)
    for line in _lines():
        if line == "/new":
            messages = list(opening)
            continue
        prompt: Any = line if raw else [*messages, {"role": "user", "content": line}]
        answer = ""
        for piece in talker.answer(prompt):
            answer += piece
            click.echo(_printable(piece), nl=False)
        click.echo()
        if not raw:
            messages = [*prompt, {"role": "assistant", "content": answer}]


def _lines() -> Iterator[str]:
    """What the user types, until an empty line or the end."""
    while True:
        if sys.stdin.isatty():
            click.echo("> ", nl=False)
        line = sys.stdin.readline()
        if not line.strip():
            return
        yield line.strip()


def _printable(text: str) -> str:
    """Without the control characters that would drive the terminal."""
    return "".join(c for c in text if c.isprintable() or c in "\n\t")
