"""`clearppo env`: what a bug report needs to say about the machine."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

PACKAGES = (
    "clearppo", "torch", "transformers", "peft", "safetensors", "tokenizers", "datasets", "accelerate", "pydantic",
    "PyYAML", "click", "rich", "pyarrow", "jaxtyping", "numpy", "gguf", "vaderSentiment", "textblob",
    "fastapi", "uvicorn",
)  # fmt: skip


@click.command()
def env() -> None:
    """Print versions and hardware as plain text, to paste into a bug report.

    It names no paths, users or hosts.
    """
    facts = [("platform", platform.platform()), ("python", sys.version.split()[0])]
    facts += [(package, _version(package)) for package in PACKAGES]
    facts += _hardware()
    for name, value in facts:
        click.echo(f"{name}: {value}")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _hardware() -> list[tuple[str, str]]:
    facts = [
        ("CPU cores", str(os.cpu_count())),
        ("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "not set")),
        ("CLEARPPO_ALLOCATOR", os.environ.get("CLEARPPO_ALLOCATOR", "not set (freed memory is kept, with glibc)")),
    ]
    try:
        import torch
    except Exception as error:  # a broken torch is the very thing that a bug report is about
        return [*facts, ("torch import", f"failed: {type(error).__name__}: {error}")]
    return [*facts, *_cpu(torch), *_cuda(torch), ("MPS", _yes(torch.backends.mps.is_available()))]


def _cpu(torch: Any) -> list[tuple[str, str]]:
    return [
        ("torch threads", f"{torch.get_num_threads()} (interop {torch.get_num_interop_threads()})"),
        ("CPU capability", torch.backends.cpu.get_cpu_capability()),
        ("CPU bf16 instructions", _cpu_bf16(torch)),
    ]


def _cpu_bf16(torch: Any) -> str:
    """The bf16 instruction sets that the CPU has; torch computes in bf16 without them too, slowly."""
    if not hasattr(torch.cpu, "get_capabilities"):  # torch before 2.10
        return "unknown"
    found = [name for name, has in torch.cpu.get_capabilities().items() if has is True and "bf16" in name]
    return ", ".join(sorted(found)) or "none"


def _cuda(torch: Any) -> list[tuple[str, str]]:
    if not torch.cuda.is_available():
        return [("CUDA", "no" if torch.version.cuda is None else f"built for {torch.version.cuda}, no device")]
    facts = [("CUDA", f"{torch.version.cuda}, bf16 {_yes(torch.cuda.is_bf16_supported())}")]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        capability = f"{properties.major}.{properties.minor}"
        facts.append((f"cuda:{index}", f"{properties.name}, {properties.total_memory / 2**30:.1f} GiB, {capability}"))
    return facts


def _yes(fact: bool) -> str:
    return "yes" if fact else "no"
