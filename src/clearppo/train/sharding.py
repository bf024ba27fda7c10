"""Each process's part of a checkpoint, written by itself."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clearppo.engines.base import Engine
from clearppo.errors import ClearPPOError, RunDirError
from clearppo.rundir import disk_errors
from clearppo.train.manifest import seal_of
from clearppo.train.shards import at, shard_file, write_shard


def write_shards(
    directory: Path, tree: Mapping[str, Any], shared_out: Mapping[str, Sequence[str]], engine: Engine
) -> dict[str, dict[str, Any]]:
    """Write this process's rows of the tensors in `tree` to which `shared_out` says the ways, by their names. All
    processes write, and know of all files what a manifest says. Raises RunDirError, on all, if one cannot."""
    if not shared_out:
        return {}
    file, told = directory / shard_file(engine.rank, engine.world), ""
    seal: dict[str, Any] = {}
    try:
        if not directory.is_dir():
            raise RunDirError(f"{directory} is not there. Use an --output_dir that all processes see.")
        with disk_errors(file, any_cause=True):
            write_shard(file, {name: at(tree, tuple(way)) for name, way in shared_out.items()})
            seal = seal_of(file)
    except ClearPPOError as error:
        told = str(error)
    answers = engine.gather({"file": file.name, "seal": seal, "error": told})
    for rank, answer in enumerate(answers):
        if answer["error"]:
            raise RunDirError(f"process {rank} cannot write its part of a checkpoint: {answer['error']}")
    return {answer["file"]: answer["seal"] for answer in answers}
