"""Accelerators by name: how much they hold, how fast they multiply and read, and where that is written."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from clearppo.errors import ConfigError

GIB = 2**30
TERA = 1e12


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """A GPU. `memory` in bytes, as a program sees it; `half` and `single` in FLOP/s of dense bfloat16 and float32
    products (no TF32: torch's default); `bandwidth` of its memory and `link` to its neighbours, one way, in bytes/s;
    `node`: how many stand in one machine at most. `source` is the document that has the numbers."""

    name: str
    memory: float
    half: float
    single: float
    bandwidth: float
    link: float
    node: int
    source: str

    def peak(self, work: int) -> float:
        """FLOP/s of products of numbers of so many bytes."""
        return self.half if work == 2 else self.single


_PCIE4, _PCIE5 = 32e9, 64e9  # x16, one way
_NVLINK3, _NVLINK4, _NVLINK5 = 300e9, 450e9, 900e9
NETWORK = 50e9
"""Bytes/s between machines for each GPU: one 400 Gbit/s adapter a GPU, as in NVIDIA's DGX H100."""


def _known(*rows: tuple[str, float, float, float, float, float, int, str]) -> Mapping[str, Accelerator]:
    """name, GiB that a program sees, TFLOP/s of both precisions, TB/s, link, GPUs a machine, source"""
    return MappingProxyType({
        name: Accelerator(
            name=name, memory=memory * GIB, half=half * TERA, single=single * TERA, bandwidth=read * TERA, link=link,
            node=node, source=source,
        )
        for name, memory, half, single, read, link, node, source in rows
    })  # fmt: skip


ACCELERATORS = _known(
    ("h100", 79, 989, 67, 3.35, _NVLINK4, 8, "NVIDIA H100 datasheet, SXM"),
    ("h100-pcie", 79, 756, 51, 2.0, _PCIE5, 8, "NVIDIA H100 datasheet, PCIe"),
    ("h200", 139, 989, 67, 4.8, _NVLINK4, 8, "NVIDIA H200 datasheet, SXM"),
    ("b200", 178, 2250, 75, 7.7, _NVLINK5, 8, "NVIDIA HGX B200 datasheet"),
    ("a100-80", 79, 312, 19.5, 2.04, _NVLINK3, 8, "NVIDIA A100 datasheet, SXM 80 GB"),
    ("a100-40", 39, 312, 19.5, 1.56, _NVLINK3, 8, "NVIDIA A100 datasheet, SXM 40 GB"),
    ("l40s", 44, 362, 91.6, 0.864, _PCIE4, 8, "NVIDIA L40S datasheet"),
    ("l4", 22, 121, 30.3, 0.3, _PCIE4, 8, "NVIDIA L4 datasheet"),
    ("a10", 22, 125, 31.2, 0.6, _PCIE4, 4, "NVIDIA A10 datasheet"),
    ("rtx4090", 23.5, 165, 82.6, 1.01, _PCIE4, 4, "NVIDIA Ada GPU architecture, whitepaper"),
    ("rtx3090", 23.5, 71, 35.6, 0.936, _PCIE4, 4, "NVIDIA GA102 GPU architecture, whitepaper"),
    ("mi300x", 191, 1307, 163, 5.3, 448e9, 8, "AMD Instinct MI300X data sheet"),
)
ALIASES = {"a100": "a100-80", "h100-sxm": "h100", "4090": "rtx4090", "3090": "rtx3090"}
MOST = 65536
_ASKED = re.compile(r"^(?P<name>[a-z0-9-]+?)(?::(?P<count>\d{1,6}))?$")


@dataclass(frozen=True, kw_only=True)
class Place:
    """So many accelerators of a kind, `node` in each machine; None: this machine's CPU."""

    accelerator: Accelerator | None
    count: int = 1
    node: int = 1

    @property
    def name(self) -> str:
        """As it is typed."""
        if self.accelerator is None:
            return "cpu"
        return self.accelerator.name if self.count == 1 else f"{self.accelerator.name}:{self.count}"

    @property
    def link(self) -> float:
        """Bytes/s that one of them can send to the others, all at once: the slowest way among them."""
        assert self.accelerator is not None
        return self.accelerator.link if self.count <= self.node else min(self.accelerator.link, NETWORK)


def place(asked: str, node: int | None = None) -> Place:
    """From what a user types, such as `cpu`, `l4` or `h100:64`; `node`: GPUs in a machine, if not as many as there may
    be. Raises ConfigError with the names that are known."""
    found = _ASKED.match(asked.strip().lower())
    name = ALIASES.get(found["name"], found["name"]) if found else ""
    count = int(found["count"] or 1) if found else 0
    if name == "cpu" and count == 1 and node is None:
        return Place(accelerator=None)
    if name not in ACCELERATORS:
        near = difflib.get_close_matches(name or asked, [*ACCELERATORS, *ALIASES, "cpu"], n=1)
        hint = f" Did you mean {near[0]}?" if near and name != "cpu" else ""
        raise ConfigError(
            f"device = {asked} is none that plan knows.{hint} Use --device cpu, or one of "
            f"{', '.join(ACCELERATORS)}, with its number behind it where there are several, such as h100:8."
        )
    if not 1 <= count <= MOST:
        raise ConfigError(f"device = {asked}: the number of GPUs must be from 1 to {MOST}. Write --device {name}:8.")
    known = ACCELERATORS[name]
    if node is not None and node < 1:
        raise ConfigError(f"gpus_per_node = {node}; a machine has 1 or more. Use --gpus_per_node {known.node}.")
    return Place(accelerator=known, count=count, node=min(node or known.node, count))
