"""Whether weights are shared out, and what is put away."""

from typing import Any

import pytest
import torch

import clearppo
from clearppo.build.sharding import Sharing, decide
from clearppo.config import PPOConfig, load_config
from clearppo.engines.local import LocalEngine
from clearppo.errors import ConfigError
from clearppo.plan.memory import Table
from clearppo.plan.result import Plan
from tests.resume.runs import options_of
from tests.tiny import tiny_causal_lm


class TwoProcesses(LocalEngine):
    """This one, and another that says what it is told to."""

    world = 2

    def __init__(self, other: Any) -> None:
        super().__init__(torch.device("cpu"))
        self.other = other

    def gather(self, value: Any) -> list[Any]:
        return [value, self.other]


def config(**options: Any) -> PPOConfig:
    given = {"model_name_or_path": "m", "dataset_name": "d", "output_dir": "o", "reward_funcs": "r.py:f", **options}
    return load_config(PPOConfig, flags=given)


def plan(fits: bool) -> Plan:
    return Plan(
        device="cpu", rounds=1, available_bytes=2.5e9,
        table=Table(phases={"learning": {"weights": 2e9 if fits else 3e9}}),
        seconds={}, changes=[], largest={}, facts=[], assumptions=[],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "here", "there", "full"),
    [
        ("none", False, False, False),
        ("full", True, True, True),
        ("auto", True, True, False),
        ("auto", False, True, True),
        ("auto", True, False, True),
    ],
)
def test_what_does_not_fit_everywhere_is_shared_out(asked: str, here: bool, there: bool, full: bool) -> None:
    notes: list[str] = []
    seen: list[str] = []

    def planned(wanted: PPOConfig) -> Plan:
        seen.append(wanted.run.sharding)
        return plan(here)

    found = decide(config(sharding=asked), TwoProcesses(there), planned, notes.append)
    assert found.full is full
    assert found.numbers == ({"sharding": "full"} if full else {})
    assert bool(notes) is (asked == "auto" and full)
    assert seen == ["auto", "full"] if notes else [asked]


def test_one_process_shares_nothing_out() -> None:
    found = decide(config(sharding="auto"), LocalEngine(torch.device("cpu")), lambda _: plan(False), print)
    assert found == Sharing(full=False, plan=found.plan)


def test_offloading_without_shares_is_an_error() -> None:
    with pytest.raises(ConfigError, match="offload = cpu has no effect because sharding = none: each process has all"):
        config(offload="cpu")


@pytest.mark.parametrize("option", ["sharding", "offload_frozen"])
def test_what_needs_processes_or_a_gpu_is_an_error_without(option: str, tmp_path: Any) -> None:
    options = {**options_of("ppo", tmp_path, tiny_causal_lm(tmp_path / "model")), "output_dir": str(tmp_path / "run")}
    value, said = ("full", "there is one") if option == "sharding" else ("true", "computes on cpu")
    with pytest.raises(ConfigError, match=said):
        clearppo.ppo(**{**options, option: value})
    assert not (tmp_path / "run").exists()
