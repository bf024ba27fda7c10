"""From models and configurations to a plan, and what a run writes of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from clearppo.build.plan import plan_of_run, plan_run
from clearppo.build.plan_inputs import described, inputs_of, shape_of, spread
from clearppo.build.ppo import build_ppo
from clearppo.cli.main import main
from clearppo.config import PPOConfig, SFTConfig, load_config
from clearppo.engines.peak import Peak, peak_resident_bytes, resident_bytes
from clearppo.models.build import Lora, with_lora
from clearppo.models.fused_layers import fuse_layers
from clearppo.models.loading import load_causal_lm
from clearppo.plan.shape import token_bytes
from clearppo.train.listener import Silence
from clearppo.train.stopwatch import Stopwatch
from tests.tiny import FAMILIES, tiny_causal_lm

REWARD = "def score(prompts, completions, **columns):\n    return [float(len(text)) for text in completions]\n"


@pytest.fixture
def flags(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "reward.py").write_text(REWARD, encoding="utf-8")
    rows = [{"prompt": "The film " + "was " * (i % 5)} for i in range(8)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {
        "model_name_or_path": tiny_causal_lm(tmp_path / "model"),
        "dataset_name": str(tmp_path / "prompts.jsonl"),
        "reward_funcs": f"{tmp_path / 'reward.py'}:score",
        "output_dir": str(tmp_path / "run"),
        "total_episodes": 16,
        "batch_size": 8,
        "response_length": 6,
        "fixed_length": True,
        "device": "cpu",
        "save_steps": 0,
        "sample_steps": 0,
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shape_counts_every_parameter_without_the_weights(tmp_path: Path, family: str) -> None:
    path = tiny_causal_lm(tmp_path, family=family)
    model = load_causal_lm(path)
    shape = shape_of(model)
    assert shape == shape_of(described(path, classifier=False))
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    adapted = with_lora(model, Lora(r=3, alpha=3, target_modules="all-linear"))
    learned = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert 3 * shape.lora == learned
    assert shape_of(adapted.get_base_model()) == shape


def test_some_layers_are_adapted(tmp_path: Path) -> None:
    model = load_causal_lm(tiny_causal_lm(tmp_path))
    names = ["q_proj", "v_proj"]
    shape = shape_of(model, names)
    adapted = with_lora(model, Lora(r=2, alpha=2, target_modules=names))
    assert 2 * shape.lora == sum(p.numel() for p in adapted.parameters() if p.requires_grad)


@pytest.mark.parametrize("heads", [4, 2])
def test_what_a_token_keeps_is_what_autograd_keeps(tmp_path: Path, heads: int) -> None:
    """Of fused layers to a few per cent, with as many heads of keys as of queries and with fewer."""
    path = tiny_causal_lm(
        tmp_path, context=256, hidden_size=64, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=heads,
        intermediate_size=160,
    )  # fmt: skip
    model = load_causal_lm(path)
    assert fuse_layers(model)
    each = (kept(model, 200) - kept(model, 100)) / 100
    assert token_bytes(shape_of(model), length=200, stream=4, work=4) == pytest.approx(each, rel=0.05)


def kept(model: nn.Module, tokens: int) -> int:
    """Bytes that the backward pass of the backbone keeps, each storage once, the weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return x

    ids = torch.arange(tokens)[None] % 50 + 5
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        model.model(input_ids=ids, use_cache=False)  # pyright: ignore[reportCallIssue]
    return sum(found.values())


def test_inputs_are_read_from_configs_and_texts(flags: dict[str, Any]) -> None:
    found = inputs_of(load_config(PPOConfig, flags=flags))
    assert (found.rounds, found.judge, len(found.lengths)) == (2, None, 8)
    assert max(found.lengths) > min(found.lengths)
    assert len(spread(range(10_000))) == 512
    assert spread(range(3)) == [0, 1, 2]


def test_more_takes_more(flags: dict[str, Any]) -> None:
    def peak(**more: object) -> float:
        return plan_run(load_config(PPOConfig, flags={**flags, **more})).peak_bytes

    plain = peak()
    assert peak(critic="separate") > plain
    assert peak(use_peft=True) < plain
    assert peak(response_length=60) > plain


def test_a_run_writes_its_plan_and_what_it_took(flags: dict[str, Any], tmp_path: Path) -> None:
    notes: list[str] = []

    class Notes(Silence):
        def note(self, text: str) -> None:
            notes.append(text)

    run = build_ppo(load_config(PPOConfig, flags=flags), listener=Notes())
    run.train()
    plan = json.loads((tmp_path / "run" / "plan.json").read_text(encoding="utf-8"))
    assert plan["peak_bytes"] == sum(plan["bytes"][plan["peak_phase"]].values())
    assert plan["seconds_per_iteration"] > 0
    assert plan["measured"]["seconds_per_iteration"] > 0
    assert [text for text in notes if text.startswith("plan: about")]
    timings = [json.loads(line) for line in (tmp_path / "run" / "timings.jsonl").read_text().splitlines()]
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert not [name for name in metrics[0] if name.startswith("memory/")]
    if resident_bytes() is None:
        return
    assert {f"memory/{phase}" for phase in ("sampling", "feedback", "learning")} <= set(timings[0])
    most = max(value for row in timings for name, value in row.items() if name.startswith("memory/"))
    assert plan["measured"]["peak_bytes"] >= 0.98 * most * 2**30
    assert [text for text in notes if text.startswith("peak memory ")]

    shown = CliRunner().invoke(main, ["plan", str(tmp_path / "run")])
    assert shown.exit_code == 0
    assert "measured GiB" in shown.output
    assert "of the planned one" in shown.output


def test_a_run_goes_on_where_no_plan_can_be_made(flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AttributeError("no such layer")

    monkeypatch.setattr("clearppo.build.plan.measured_speed", fail)
    config, notes = load_config(PPOConfig, flags=flags), list[str]()
    assert plan_of_run(config, inputs_of(config), note=notes.append) is None
    assert notes == ["no plan of memory and time: no such layer"]


def test_the_command(flags: dict[str, Any], tmp_path: Path) -> None:
    words = [text for name, value in flags.items() if name != "device" for text in (f"--{name}", str(value))]
    file = tmp_path / "found.json"
    here = CliRunner().invoke(main, ["plan", *words, "--device", "cpu", "--json", str(file)])
    assert here.exit_code == 0
    assert "what would change it" in here.output
    assert json.loads(file.read_text())["device"] == "cpu"
    assert not (tmp_path / "run").exists()
    there = CliRunner().invoke(main, ["plan", *words, "--device", "h100:8"])
    assert there.exit_code == 0
    assert "options      --sharding none" in there.output
    assert "of several GPUs nothing was measured" in there.output
    asked = CliRunner().invoke(main, ["plan", *words, "--device", "h100:8", "--sharding", "full", "--sampler", "vllm"])
    assert "options      --sharding full --sampler vllm --vllm_mode" in asked.output
    two = CliRunner().invoke(main, ["plan", *words, "--processes", "2", "--sharding", "full", "--json", str(file)])
    assert two.exit_code == 0
    assert "a process at the peak" in two.output
    found = json.loads(file.read_text())
    assert next(iter(found["bytes"])) == "loading"
    assert found["bytes"]["sampling"]["gathered"] > 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--device", "h1000"], "is none that plan knows"),
        (["--device", "cpu", "--gpus_per_node", "8"], "--gpus_per_node 8 has no effect"),
        (["--device", "h100:8", "--processes", "8"], "--processes 8 is for this machine"),
        (["--sharding", "full"], "Say how many with --processes 2"),
        (["--model_name_or_path", "/nowhere/at/all"], "/nowhere/at/all"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(flags: dict[str, Any], more: list[str], said: str) -> None:
    given = {name: value for name, value in flags.items() if name != "device" and f"--{name}" not in more}
    words = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    found = CliRunner().invoke(main, ["plan", *words, *more])
    assert found.exit_code == 2
    assert said in found.output
    assert found.output.count("\n") == 1


def test_a_directory_without_a_plan(tmp_path: Path) -> None:
    found = CliRunner().invoke(main, ["plan", str(tmp_path)])
    assert found.exit_code == 2
    assert "holds no plan.json" in found.output
    (tmp_path / "plan.json").write_text("[1", encoding="utf-8")
    found = CliRunner().invoke(main, ["plan", str(tmp_path)])
    assert found.exit_code == 2
    assert "cannot be read" in found.output
    (tmp_path / "plan.json").write_text("{}", encoding="utf-8")
    found = CliRunner().invoke(main, ["plan", str(tmp_path), "--kl_coef", "1"])
    assert found.exit_code == 2
    assert "leave out --kl_coef" in found.output


def test_sft_is_planned_too(flags: dict[str, Any], tmp_path: Path) -> None:
    rows = [{"prompt": f"The film {i}", "completion": " was good." * (1 + i % 3)} for i in range(20)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    options = {name: flags[name] for name in ("model_name_or_path", "output_dir", "device")}
    config = load_config(SFTConfig, flags={**options, "dataset_name": str(tmp_path / "texts.jsonl"), "batch_size": 4})
    plan = plan_run(config)
    assert list(plan.seconds) == ["learning"]
    assert plan.round == "step"
    assert plan.rounds == 5


@pytest.mark.skipif(resident_bytes() is None, reason="this system does not say how much is resident")
def test_the_peak_of_a_moment() -> None:
    peak = Peak(torch.device("cpu"))
    peak.forget()
    if peak.bytes() is None:
        pytest.skip("this system cannot begin anew")
    before = peak.bytes() or 0
    block = torch.ones(2**26)  # 256 MiB
    seen = (peak.bytes() or 0) - before
    assert seen > 0.8 * block.nbytes
    assert peak_resident_bytes() == peak.bytes()


def test_the_stopwatch_keeps_the_highest_phase() -> None:
    class Told(Peak):
        def __init__(self, values: list[int]) -> None:
            self.values, self.forgotten = values, 0

        def forget(self) -> None:
            self.forgotten += 1

        def bytes(self) -> int | None:
            return self.values.pop(0)

    gib = 2**30
    peak = Told([1 * gib, 3 * gib, 3 * gib, 2 * gib, 3 * gib + 1, 4 * gib])
    watch = Stopwatch(Silence(), peak)
    watch.phase("sampling", lambda: None)()
    assert watch.highest == (3 * gib, "sampling")
    watch.phase("learning", lambda: None)()
    assert watch.highest == (3 * gib, "sampling")  # 1 % more is nobody's
    assert watch.peaks() == {"sampling": 3.0, "learning": 2.0}
    assert watch.peaks() == {}
    watch.look()
    assert watch.highest == (3 * gib, "sampling")
    watch.look()
    assert watch.highest == (4 * gib, "saving")
    assert Stopwatch(Silence()).peaks() == {}
