"""Weights from GPU to GPU, by vLLM's own NCCL back end. Here alone vLLM is imported, for its side of the sender.

No GPU has been at hand where this was written: what is said to the engines is tested, the transfer itself is not.
"""

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from clearppo.errors import ConfigError
from clearppo.rollout.vllm.engine import Each, Engine, Weights


class NCCLSender:
    """Broadcasts from this process's GPU to those of all engines, one tensor after the other. The group that it needs
    is made anew when other engines are there than before."""

    def __init__(self) -> None:
        self._engine: Any = None
        self._source: Any = None
        self._together: list[Engine] = []

    def send(self, engines: Sequence[Engine], weights: Weights, each: Each) -> None:
        """See Sender. Raises ConfigError where NCCL cannot be used."""
        if list(engines) != self._together or not all(engine.introduced for engine in engines):
            self._meet(engines, each)
        self._source.weights, self._source.dtype = weights, engines[0].dtype
        self._engine.send_weights()

    def _meet(self, engines: Sequence[Engine], each: Each) -> None:
        if not torch.cuda.is_available():
            raise ConfigError(
                "the vLLM server was started with --weight_transfer nccl, which goes from GPU to GPU, and this process "
                "has none. Start it without --weight_transfer."
            )
        try:
            from vllm.distributed.weight_transfer import WeightTransferTrainerFactory  # pyright: ignore[reportMissingImports]
            from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ConfigError(
                f"the vLLM server was started with --weight_transfer nccl, for which this Python needs vLLM too: "
                f"{error}. Install it (pip install vllm), or start the server without --weight_transfer."
            ) from error
        if self._engine is not None:
            self._engine.shutdown()
        self._source = _source()
        self._engine = WeightTransferTrainerFactory.trainer_init(
            NCCLTrainerInitInfo(
                rank=0,
                master_address=address_for(engines),
                master_port=_free_port(),
                world_size=1 + sum(engine.devices for engine in engines),
            ),
            client=Client(engines, each),
            source=self._source,
        )
        self._together = list(engines)
        for engine in engines:
            engine.introduced = True


class Client:
    """What vLLM's sender tells the engines, said to all of them: each has the ranks behind those of the one before."""

    def __init__(self, engines: Sequence[Engine], each: Each) -> None:
        self._engines, self._each = engines, each

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        first, infos = int(init_info["rank_offset"]), dict[str, dict[str, Any]]()
        for engine in self._engines:
            infos[engine.http.url] = {**init_info, "rank_offset": first}
            first += engine.devices
        self._post("init_weight_transfer_engine", infos)

    def start_weight_update(self) -> None:
        """It has been told to them already."""

    def update_weights(self, update_info: Any) -> None:
        self._post("update_weights", {engine.http.url: update_info for engine in self._engines}, key="update_info")

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """It will be told to them, with the name of the weights."""

    def _post(self, route: str, bodies: Mapping[str, Any], key: str = "init_info") -> None:
        self._each(self._engines, lambda engine: engine.http.post(f"/{route}", {key: bodies[engine.http.url]}))


def _source() -> Any:
    """vLLM's view of the weights: `weights` are those that are sent next, `dtype` the engines'."""
    from vllm.distributed.weight_transfer import ParamMeta, WeightSource  # pyright: ignore[reportMissingImports]

    class Source(WeightSource):
        weights: Weights
        dtype: torch.dtype

        def metadata(self) -> list[Any]:
            return [
                ParamMeta(name, self.dtype if dtype.is_floating_point else dtype, tuple(shape))
                for name, (shape, dtype) in self.weights.shapes.items()
            ]

        def __iter__(self) -> Iterator[tuple[str, Tensor]]:
            for name, weight in self.weights.stream():
                tensor = weight.detach().cuda()
                yield name, tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    return Source()


def address_for(engines: Sequence[Engine]) -> str:
    """Where engines find this process: on this machine if all are on it, else by what torchrun calls the first one."""
    hosts = {urlsplit(engine.http.url).hostname for engine in engines}
    if hosts <= {"localhost", "127.0.0.1", "::1"}:
        return "127.0.0.1"
    return os.environ.get("MASTER_ADDR") or socket.gethostbyname(socket.gethostname())


def _free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
