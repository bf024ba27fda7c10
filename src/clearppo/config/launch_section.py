"""The section `cluster` of the commands that train: who starts their processes, and on which machines."""

from typing import Annotated, Literal

from pydantic import Field

from clearppo.config.kinds import OnlyIf
from clearppo.config.section import Section

_BY_RAY = OnlyIf("launch", "equals", "nothing else is started by this command", "--launch ray", value="ray")

Launch = Annotated[
    Literal["here", "ray"],
    Field(
        description="Who starts the processes that train. here: this command is one of them, and torchrun may have "
        "started others beside it. ray: Ray does, on this machine or a cluster of several; what the first process "
        "prints is printed here. Install it with pip install 'clearppo[ray]'."
    ),
]
NumProcesses = Annotated[
    int, _BY_RAY, Field(ge=1, le=100_000, description="Processes that train together, each with a GPU or with CPUs.")
]
CpusPerProcess = Annotated[
    int,
    _BY_RAY,
    Field(
        ge=1,
        le=100_000,
        description="CPUs that each process is given, and threads that it computes with where there is no GPU.",
    ),
]
RayAddress = Annotated[
    str | None,
    _BY_RAY,
    Field(
        min_length=1,
        description="The cluster's head as host:port (the port is 6379 where nobody chose another), or auto for the "
        "cluster that this machine belongs to. none: RAY_ADDRESS in the environment, and without that a Ray of the "
        "run's own on this machine, which ends with it.",
    ),
]
MaxRestarts = Annotated[
    int,
    _BY_RAY,
    Field(
        ge=0,
        le=100_000,
        description="When a process is killed or crashes, or its machine is lost, start all again from the last "
        "checkpoint, so many times at most. A mistake that would come again (exit codes 2 and 3) ends the run.",
    ),
]


class LaunchConfig(Section):
    """Who starts the processes that train, and on which machines."""

    launch: Launch = "here"
    num_processes: NumProcesses = 1
    cpus_per_process: CpusPerProcess = 1
    ray_address: RayAddress = None
    max_restarts: MaxRestarts = 3
