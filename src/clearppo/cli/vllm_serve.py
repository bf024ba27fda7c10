"""`clearppo vllm-serve`: a vLLM server that takes the weights of a run, for --vllm_server_base_url."""

import click


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("model")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="Where to listen.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; another lets others in.")
@click.option(
    "--weight_transfer",
    type=click.Choice(["clearppo", "nccl"]),
    default="clearppo",
    show_default=True,
    help="How new weights come. clearppo: through the memory of the machine that it shares with the run, on any "
    "device. nccl: from GPU to GPU, between machines too.",
)
@click.option(
    "--vllm_python",
    metavar="PATH",
    default=None,
    help="The Python that has vLLM, if it is another one: vLLM pins its own torch and transformers.",
)
@click.argument("flags", nargs=-1, type=click.UNPROCESSED)
def vllm_serve(
    model: str, port: int, host: str, weight_transfer: str, vllm_python: str | None, flags: tuple[str, ...]
) -> None:
    """Serve MODEL, the one that a run starts from, with vLLM until Ctrl-C. FLAGS are vLLM's own, such as
    --tensor-parallel-size 2 or --dtype float32.

    A run then asks it with clearppo ppo --sampler vllm --vllm_mode server --vllm_server_base_url http://127.0.0.1:8000.
    One run at a time: its weights are the run's.
    """
    from clearppo.build.vllm_serve import become, vllm_server

    server = vllm_server(model, host=host, port=port, python=vllm_python, transfer=weight_transfer, flags=flags)
    if host not in ("127.0.0.1", "localhost", "::1"):
        click.echo(
            f"warning: host = {host} lets other machines change this engine's weights and run its inner calls, without "
            "any password. Use it in a network of your own only.",
            err=True,
        )
    click.echo(f"starting vLLM with {model}, to answer at {server.url}  (Ctrl-C ends)")
    become(server)
