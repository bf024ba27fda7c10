"""`clearppo serve-reward`: a reward model behind HTTP, for --reward_urls and --judge_url."""

from typing import Any

import click

GATHER = {"true": True, "false": False}
BF16 = {"auto": None, **GATHER}


@click.command()
@click.argument("model")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any that is free.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; another lets others in.")
@click.option(
    "--batch_size", type=click.IntRange(1), default=16, show_default=True, help="Answers in the model at once."
)
@click.option("--max_rows", type=click.IntRange(1), default=1024, show_default=True, help="Most answers a request.")
@click.option("--max_body_mib", type=click.IntRange(1), default=16, show_default=True, help="Largest request in MiB.")
@click.option("--auth_env", metavar="NAME", default=None, help="Ask for the token in this environment variable.")
@click.option(
    "--gather",
    type=click.Choice(list(GATHER)),
    default="true",
    show_default=True,
    help="Requests that wait share a pass through the model: faster, but the last bits of a score then depend on what "
    "came beside it. false: equal requests get equal bits.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--bf16", type=click.Choice(list(BF16)), default="auto", show_default=True, help="Compute in bfloat16.")
@click.option("--trust_remote_code", is_flag=True, help="Run model code that comes with the model.")
def serve_reward(model: str, **options: Any) -> None:
    """Serve the reward model MODEL, a directory (of clearppo reward, say) or a hub name, until Ctrl-C.

    POST /score takes {"prompts": [...], "completions": [...]} and answers {"scores": [...]}; POST /get_reward takes
    OpenRLHF's {"query": [...], "prompts": [...]} and answers {"rewards": [...]}; GET /health says that it is there.
    Train against it with clearppo ppo --reward_urls http://127.0.0.1:8000/score.
    """
    from clearppo.build.serve import build_server

    server = build_server(
        model,
        host=options["host"],
        port=options["port"],
        batch_size=options["batch_size"],
        gather=GATHER[options["gather"]],
        max_rows=options["max_rows"],
        max_body_mib=options["max_body_mib"],
        device=options["device"],
        bf16=BF16[options["bf16"]],
        auth_env=options["auth_env"],
        trust_remote_code=options["trust_remote_code"],
    )
    if server.is_open:
        asked = "with the token" if options["auth_env"] else "without any token (--auth_env NAME asks for one)"
        click.echo(
            f"warning: host = {options['host']} lets other machines ask this server, {asked}, by plain HTTP.", err=True
        )
    click.echo(f"serving {model} at {server.url}  (Ctrl-C ends)")
    server.run()
