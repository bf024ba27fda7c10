"""One vLLM server as it said it is; and what brings weights to several."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from clearppo.errors import ConfigError
from clearppo.rollout.vllm.http import EngineHTTP, EngineRefused

VERSION = (0, 32)
"""The oldest vLLM whose weight transfer is spoken here."""
OURS = "clearppo"
"""The name of our back end of vLLM's weight transfer (inside/clearppo_vllm.py)."""
START = "Start it by clearppo vllm-serve MODEL."


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What is handed over: names as a Hugging Face directory has them, with shapes and types; `stream` begins to give
    them, in this order and one after the other. Where they are shared out over processes all must read the stream."""

    shapes: Mapping[str, tuple[Sequence[int], torch.dtype]]
    stream: Callable[[], Iterator[tuple[str, Tensor]]]


Each = Callable[[Sequence["Engine"], Callable[["Engine"], Any]], None]
"""Calls the same of several engines at once."""


@runtime_checkable
class Sender(Protocol):
    """Brings weights to engines that have been told that an update begins."""

    def send(self, engines: Sequence["Engine"], weights: Weights, each: "Each") -> None: ...


@dataclass(eq=False)
class Engine:
    """One server, and what it said of itself."""

    http: EngineHTTP
    dtype: torch.dtype = torch.float32
    backend: str = OURS
    vllm: str = ""
    devices: int = 1
    room: int = 0
    lost: str | None = None
    introduced: bool = False

    def meet(self) -> None:
        """Learn what the server is. Raises ConfigError if it cannot serve us, EngineLost if it is not there."""
        url = self.http.url
        try:
            told = self.http.get("/version")
        except EngineRefused as error:
            said = str(error).replace(f"the vLLM server at {url}", "it").rstrip(".")
            raise ConfigError(f"what answers at {url} is no vLLM server: {said}. {START}") from error
        version = str(told.get("version", "")) if isinstance(told, dict) else ""
        if not version:
            raise ConfigError(f"what answers at {url} is no vLLM server: it does not name its version. {START}")
        if _numbers(version) < VERSION:
            raise ConfigError(
                f"the vLLM server at {url} is version {version}, and its weights can be changed from 0.32 "
                "on. Install a newer vLLM there."
            )
        try:
            config = self.http.get("/server_info?config_format=json")["vllm_config"]
            model, transfer = config["model_config"], config["weight_transfer_config"]
            self.dtype = getattr(torch, str(model["dtype"]).removeprefix("torch."))
            self.room, mode = int(model["max_model_len"]), str(model["logprobs_mode"])
            self.devices = int(config["parallel_config"]["world_size"])
        except (EngineRefused, KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"the vLLM server at {url} does not tell how it was started: it needs VLLM_SERVER_DEV_MODE=1. {START}"
            ) from error
        if mode != "processed_logprobs":
            raise ConfigError(
                f"the vLLM server at {url} gives {mode}, which are not of the distribution that it draws from. Start "
                "it with --logprobs-mode processed_logprobs, or by clearppo vllm-serve MODEL."
            )
        if not transfer or transfer.get("backend") not in (OURS, "nccl"):
            seen = f"the back end {transfer.get('backend')}" if transfer else "none"
            raise ConfigError(
                f"the vLLM server at {url} has {seen} for weights to come by; clearppo and nccl are known. {START}"
            )
        self.backend, self.vllm = str(transfer["backend"]), version


def _numbers(version: str) -> tuple[int, ...]:
    numbers: list[int] = []
    for part in version.split("+")[0].split("."):
        digits = "".join(c for c in part if c.isdigit())
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
