"""`clearppo import-config`: settings of TRL as a configuration of ours."""

import shlex
from pathlib import Path

import click

from clearppo.cli.json_file import writable, write_json
from clearppo.errors import ConfigError


@click.command(
    name="import-config",
    epilog="\b\nExamples:\n  clearppo import-config trl_ppo.yaml\n"
    "  clearppo import-config train.sh --num_processes 8 --output ppo.yaml\n"
    "  clearppo import-config my_ppo_script.py --output ppo.yaml",
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write the YAML there; without it only the table."
)
@click.option("--overwrite", is_flag=True, help="Replace the file of --output if it is there.")
@click.option("--json", "as_json", type=click.Path(path_type=Path), metavar="FILE", help="Write the findings, too.")
@click.option(
    "--from",
    "program",
    type=click.Choice(["auto", "trl"]),
    default="auto",
    show_default=True,
    help="Whose settings they are; so far only TRL's are read.",
)
@click.option(
    "--step", type=click.Choice(["sft", "reward", "ppo"]), help="What the settings are for, where FILE does not tell."
)
@click.option(
    "--num_processes",
    "--num-processes",
    type=click.IntRange(min=1),
    metavar="N",
    help="Processes that the run had in all; the batch is so many times as large. Read from a launcher's own option.",
)
def import_config(
    file: Path,
    output: Path | None,
    overwrite: bool,
    as_json: Path | None,
    program: str,
    step: str | None,
    num_processes: int | None,
) -> None:
    """Turn TRL's settings in FILE into a configuration of ours, and say of each what became of it.

    FILE is YAML with settings of TRL's PPOConfig, SFTConfig or RewardConfig (those of its scripts may stand beside
    them), a Python script that makes one of them, or a shell script (.sh) that starts TRL. It is read and never run:
    of Python, only literal values are taken. The PPOConfig of TRL 0.11 and earlier is known by its names.

    Defaults of TRL that are not ours are written out, so that the run is the same.
    """
    target, found = writable(output, "output"), writable(as_json, "json")
    if target is not None and target.exists() and not overwrite:
        raise ConfigError(f"--output {target} is there already. Name another file, or add --overwrite.")
    if target is not None and target.absolute() == file.expanduser().absolute():
        raise ConfigError(f"--output {target} is FILE itself. Name another file.")
    from clearppo.cli.import_table import show_imported
    from clearppo.foreign import STAND_IN, import_settings

    imported = import_settings(file.expanduser(), step=step, processes=num_processes)
    show_imported(imported)
    if target is not None:
        from clearppo.disk import replace_whole
        from clearppo.rundir import disk_errors

        with disk_errors(target, "output", any_cause=True):
            replace_whole(target, imported.text.encode())
        click.echo(f"wrote {click.format_filename(target)}")
    write_json(found, imported.to_json(), "json")
    flags = " ".join(f"--{name} {STAND_IN[name]}" for name in imported.missing)
    name = shlex.quote(str(target)) if target else "FILE"
    start = "Then:" if target else "With --output FILE it is written; then:"
    click.echo(f"{start} clearppo {imported.step} --config {name}{' ' if flags else ''}{flags}")
