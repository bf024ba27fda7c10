"""The benchmarks of speed and memory: FLOPs beside torch's own count, the peer's prompts, ratios, small whole runs."""

import argparse
import json
import math
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from benchmarks import (
    apart,
    flops,
    generation,
    host,
    inputs,
    iteration,
    memory,
    microbatch,
    one_generation,
    one_run,
    output,
    ppo_case,
    ppo_runs,
    vs_trl,
)
from benchmarks.ppo_case import LAYOUTS, PRECISIONS, Case
from clearppo.config import PPOConfig, load_config
from clearppo.models.build import Lora, with_lora
from tests.tiny import tiny_causal_lm, tiny_config, tiny_tokenizer

REPO = Path(__file__).resolve().parents[2]
SCRIPTS: dict[str, ModuleType] = {
    "iteration": iteration, "vs_trl": vs_trl, "generation": generation, "memory": memory, "microbatch": microbatch,
}  # fmt: skip


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What `models` hands out: a tiny policy and a reward model on it."""
    return inputs.make(tmp_path_factory.mktemp("models"), model="", smoke=True, adapter=False)


def small(paths: dict[str, str], layout: str = "shared", **more: Any) -> Case:
    few = {"batch": 3, "response_length": 4, "prompt_min": 3, "prompt_max": 6, "iters": 3, "threads": 1}
    return Case(model=paths["model"], reward=paths["reward"], layout=layout, **{**few, **more})


# ------------------------------------------------------------------------------------------------ FLOPs


def counted(run: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def tiny(family: str, kind: Any = AutoModelForCausalLM, **more: Any) -> Any:
    torch.manual_seed(0)
    return kind.from_config(tiny_config(family, tiny_tokenizer(), **more), attn_implementation="eager")


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "qwen2"])
def test_flops_are_those_that_torch_counts(family: str) -> None:
    """torch counts the whole square of the attention, of which causal attention needs half, and rotary embeddings,
    which are products of a matrix with one column: a percent at most."""
    L = 24
    model = tiny(family, hidden_size=64, num_attention_heads=4)
    net = flops.network(model)
    ids = torch.arange(L)[None] + 3
    forward = (net.backbone.forward + net.head.forward) * L + 4 * net.attention * L**2
    assert counted(lambda: model(ids)) == pytest.approx(forward, rel=0.01)
    both = (net.backbone.learning + net.head.learning) * L + 12 * net.attention * L**2
    assert counted(lambda: model(ids).logits.sum().backward()) == pytest.approx(both, rel=0.01)


def test_a_classifier_has_no_vocabulary_to_project_on() -> None:
    net = flops.network(tiny("llama", AutoModelForSequenceClassification, num_labels=1))
    assert net.head == flops.Weights()
    assert net.backbone.learned == flops.network(tiny("llama")).backbone.learned + 32  # its one-row head


def test_only_adapters_learn_under_lora() -> None:
    plain = flops.network(tiny("llama"))
    wrapped = with_lora(tiny("llama"), Lora(r=2, alpha=4, target_modules="all-linear")).get_base_model()
    lora = flops.network(wrapped)
    assert lora.backbone.frozen == plain.backbone.learned
    assert 0 < lora.backbone.learned < plain.backbone.learned
    assert flops.network(wrapped, adapters=False).backbone == flops.Weights(frozen=plain.backbone.learned)
    assert lora.head == flops.Weights(frozen=plain.head.learned)


def test_of_frozen_layers_learning_needs_nothing() -> None:
    net = flops.network(tiny("llama"), freeze_layers=1)
    assert net.upper.learned * 2 == net.backbone.learned
    assert net.upper_attention * 2 == net.attention


def test_the_formulas_by_hand() -> None:
    net = flops.Network(
        backbone=flops.Weights(learned=10, frozen=5),
        upper=flops.Weights(learned=7),
        head=flops.Weights(frozen=100),
        attention=3,
        upper_attention=2,
    )
    batch = flops.Batch([2, 4], response=3)  # sequences of 5 and 7 tokens
    assert flops.generation(net, batch) == 2 * 15 * (4 + 6) + 2 * 3 * (25 + 49) + 2 * 100 * 6
    assert flops.scoring(net, batch, head=True) == 2 * 15 * 12 + 2 * 3 * 74 + 2 * 100 * 6
    assert flops.scoring(net, batch, head=False) == 2 * 15 * 12 + 2 * 3 * 74
    assert flops.learning(net, batch, epochs=2, head=True) == 2 * (6 * 7 * 12 + 6 * 2 * 74 + 4 * 100 * 6)


# ------------------------------------------------------------------------------------------------ inputs


def test_the_prompts_are_the_peer_s() -> None:
    """Its own lines, run beside ours."""
    if not vs_trl.SCRIPT.is_file():
        pytest.skip("needs the folder ../shared/bench, which is not there")
    source = vs_trl.SCRIPT.read_text(encoding="utf-8")
    tokenizer = tiny_tokenizer()
    names: dict[str, Any] = {
        "torch": torch,
        "tok": tokenizer,
        "a": SimpleNamespace(batch=16, iters=2, prompt_style="plain", prompt_min=5, prompt_max=9),
    }
    exec(source[source.index("g = torch.Generator") : source.index("ds = Dataset")], names)
    ours = inputs.peer_prompts(tokenizer, batch=16, iters=2, shortest=5, longest=9)
    assert [list(row) for row in ours] == names["rows"]


def test_long_prompts_find_text_enough() -> None:
    rows = inputs.peer_prompts(tiny_tokenizer(), batch=2, iters=1, shortest=3000, longest=3001)
    assert {len(row) for row in rows} == {3000, 3001}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_case_is_a_configuration(layout: str, precision: str, paths: dict[str, str], tmp_path: Path) -> None:
    config = load_config(PPOConfig, flags=small(paths, layout, precision=precision).flags(tmp_path))
    assert config.num_iterations == 3
    assert config.sampling.fixed_length
    assert config.model.critic == LAYOUTS[layout]["critic"]


def test_two_thirds_of_the_layers_are_frozen(tmp_path: Path) -> None:
    model = tiny_causal_lm(tmp_path, num_hidden_layers=6)
    assert small({"model": model, "reward": model}, "frozen").freeze_layers == 4
    assert small({"model": model, "reward": model}, "shared").freeze_layers == 0


def test_options_by_name_win(paths: dict[str, str], tmp_path: Path) -> None:
    case = small(paths, micro=2, budget="auto", gradient_checkpointing=True, options={"kl_coef": "0.1"})
    flags = case.flags(tmp_path)
    assert (flags["micro_batch_size"], flags["max_tokens_per_microbatch"], flags["kl_coef"]) == (2, "auto", "0.1")
    assert flags["gradient_checkpointing"] is True


# ------------------------------------------------------------------------------------------------ arithmetic


def test_the_exponent_of_a_power_is_found() -> None:
    assert ppo_case.exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2)
    assert ppo_case.exponent([8, 16, 32], [5, 5, 5]) == pytest.approx(0)
    assert math.isnan(ppo_case.exponent([8, 8], [1, 2]))
    assert math.isnan(ppo_case.exponent([1, 2], [0, 1]))


def result_of(seconds: float, *, batch: int = 4, peak_mb: int = 1024, layout: str = "lora") -> dict[str, Any]:
    """The parts of a result that tables and ratios read."""
    return {
        "case": {"layout": layout, "precision": "auto", "batch": batch},
        "total_s": seconds,
        "phases": {"sampling": seconds / 2, "feedback": seconds / 4, "learning": seconds / 4},
        "parts": {"generate": seconds / 3, "reference": seconds / 5, "backward": seconds / 8, "step": seconds / 80},
        "unaccounted_share": 0.01,
        "response_tokens_per_s": 10.0,
        "generation_tokens_per_s": 20.0,
        "flop": {"reference": 1e9},
        "flop_per_s": {"learning": 3e11},
        "learning_share_of_peak": 0.75,
        "memory": {"imported_mb": 100, "loaded_mb": 500, "loading_peak_mb": 600, "peak_mb": peak_mb},
        "host": host.host(),
    }


def peer_result(seconds: float, gb: float) -> dict[str, Any]:
    return {
        "total_s": seconds, "gen_s": 1.0, "scoring_s": 1.0, "learning_s": 1.0, "resp_tok_per_s": 1.0, "peak_rss_GB": gb,
        "trl": "1.12.0", "torch": "2.13.0",
    }  # fmt: skip


def test_ratios_are_of_medians_and_of_the_largest_peak() -> None:
    ours = {"lora": [result_of(2.0), result_of(4.0, peak_mb=2048), result_of(3.0)]}
    theirs = {
        "TRL": [peer_result(30.0, 8.0), peer_result(24.0, 4.0)],
        "TRL, tuned": [peer_result(9.0, 8.0), peer_result(9.0, 8.0)],
    }
    (cell,) = vs_trl.compared(ours, theirs, epochs=1).values()
    assert cell["times_as_fast"] == {"TRL": 9.0, "TRL, tuned": 3.0}
    assert cell["memory"] == 0.25
    assert vs_trl.compared(ours, theirs, epochs=4)["lora"]["targets"] == {"TRL": 7.0}
    text = vs_trl.shown(
        {
            "ours": ours,
            "theirs": theirs,
            "compared": vs_trl.compared(ours, theirs, epochs=1),
            "settings": {"batch": 16, "response_length": 32, "prompt_min": 16, "prompt_max": 32, "epochs": 1},
            "host": result_of(1.0)["host"],
        }
    )
    assert "9.00x (met: at least 7x)" in text
    assert "3.00x (MISSED: at least 4.5x)" in text
    assert "0.25 (met: at most 0.25)" in text


def test_growth_is_fitted_for_each_layout() -> None:
    results = {
        f"{layout}, batch {n}": result_of(seconds, batch=n, layout=layout)
        for layout, costs in (("shared", (1.0, 2.0, 4.0)), ("lora", (1.0, 4.0, 16.0)))
        for n, seconds in zip((8, 16, 32), costs, strict=True)
    }
    measured = {"results": results, "failed": {"x": "out of memory"}}
    shared, lora = iteration.growth(measured, "batch")
    assert shared["iteration"] == pytest.approx(1)
    assert lora["learning"] == pytest.approx(2)
    assert lora["peak memory"] == pytest.approx(0)
    text = iteration.shown(measured | {"growth": [shared, lora]}, "batch")
    assert "Grows with which power of batch" in text
    assert "FAILED: x\nout of memory" in text
    assert iteration.growth(measured, None) == []


def test_memory_is_shown_as_a_share_of_the_first() -> None:
    text = memory.shown({"results": {"a": result_of(1.0), "b": result_of(1.0, peak_mb=256)}, "failed": {}})
    assert re.search(r"^b +0\.10 +0\.49 +0\.59 +0\.25 +25% +1$", text, re.M)
    assert "GPU peak" not in text


def test_a_table_of_generation_compares_with_its_own_batch() -> None:
    def found(tokens_per_s: float, step: float | None, floor: float | None) -> dict[str, Any]:
        return {
            "tokens_per_s": tokens_per_s, "tokens": 64, "step_ms": step, "floor_ms": floor,
            "memory": {"peak_mb": 512}, "host": host.host(),
        }  # fmt: skip

    results = {
        f"8 x 4, {generation.BASE}": found(10.0, 5.0, None),
        "8 x 4, ClearPPO, float32": found(35.0, 6.0, 4.0),
        "9 x 4, ClearPPO, float32": found(35.0, None, 4.0),
    }
    text = generation.shown({"results": results, "failed": {}})
    assert re.search(r"^8 x 4, ClearPPO, float32 +35\.0 +3\.50x +64 +6\.0 +4\.0 +1\.50x", text, re.M)
    assert re.search(r"^9 x 4, ClearPPO, float32 +35\.0 +64 +4\.0 +0\.50$", text, re.M)


def test_micro_batches_and_budgets_become_cases(paths: dict[str, str]) -> None:
    named = dict(microbatch.cases(small(paths), "1,4", "24,auto"))
    assert {name: (case.micro, case.budget) for name, case in named.items()} == {
        "1 rows": (1, None),
        "4 rows": (4, None),
        "budget of 24": (3, 24),
        "budget of auto": (3, "auto"),
    }


def test_points_of_growth(paths: dict[str, str]) -> None:
    chosen = argparse.Namespace(grow="epochs", smoke=False)
    named = iteration.points(small(paths), chosen, {})
    assert [(name, case.epochs) for name, case in named] == [
        ("shared, epochs 1", 1), ("shared, epochs 2", 2), ("shared, epochs 4", 4),
    ]  # fmt: skip
    sizes = {name: {"model": name, "reward": f"{name}-r"} for name in inputs.SIZES}
    chosen.grow = "model_size"
    named = iteration.points(small(paths, precision="float32"), chosen, sizes)
    assert [(case.model, case.reward) for _, case in named] == [(name, f"{name}-r") for name in inputs.SIZES]
    assert named[0][0] == "shared, float32, 45m"


# ------------------------------------------------------------------------------------------------ the command lines


def commands(page: str) -> list[tuple[str, list[str]]]:
    """(script, flags) of every timing that a text tells its reader to run."""
    lines = re.findall(r"-m benchmarks\.(\w+)([^\n`]*)", page)
    return [(name, shlex.split(words, comments=True)) for name, words in lines if name in SCRIPTS]


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_a_script_says_to_type_is_understood(script: str) -> None:
    found = commands(str(SCRIPTS[script].__doc__))
    assert len(found) >= 3
    for name, words in found:
        SCRIPTS[name].arguments().parse_args(words)


@pytest.mark.parametrize("page", ["benchmarks/README.md", "docs/performance.md"])
def test_what_the_pages_say_to_type_is_understood(page: str) -> None:
    found = commands((REPO / page).read_text(encoding="utf-8"))
    assert {name for name, _ in found} == set(SCRIPTS)
    for name, words in found:
        SCRIPTS[name].arguments().parse_args(words)


def test_an_unknown_layout_and_a_single_iteration_are_refused() -> None:
    with pytest.raises(SystemExit, match="sharde is none of separate, shared"):
        ppo_runs.names("shared,sharde", LAYOUTS)
    with pytest.raises(SystemExit, match="Use 2 or more"):
        ppo_runs.checked(iteration.arguments().parse_args(["--iters", "1"]))


def test_without_the_peer_s_script_there_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["vs_trl", "--peer_python", "python", "--peer_script", str(tmp_path / "gone.py")])
    with pytest.raises(SystemExit) as stop:
        vs_trl.main()
    assert stop.value.code == output.CANNOT_RUN
    assert "needs the peer's script" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ processes


def test_the_last_line_of_a_process_is_its_result() -> None:
    said = apart.last_line([sys.executable, "-c", "print('words'); print('{\"a\": 1}')"], "it")
    assert said == {"a": 1}


@pytest.mark.parametrize("code", ["raise SystemExit('no memory')", "print('no memory')"])
def test_a_process_that_fails_says_why(code: str) -> None:
    with pytest.raises(apart.RunFailedError, match=r"it failed with exit code [01]:\nno memory"):
        apart.last_line([sys.executable, "-c", code], "it")


def test_a_case_that_fails_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch, paths: dict[str, str]) -> None:
    def measure(case: Case) -> dict[str, Any]:
        if case.layout == "lora":
            raise apart.RunFailedError("out of memory")
        return {"layout": case.layout}

    monkeypatch.setattr(Case, "measure", measure)
    measured = ppo_runs.measure_all([(name, small(paths, name)) for name in ("lora", "shared")])
    assert measured == {"results": {"shared": {"layout": "shared"}}, "failed": {"lora": "out of memory"}}


def test_the_machine_is_known() -> None:
    line = output.in_words(host.host())
    assert "Machine: " in line
    assert f"torch {torch.__version__}" in line
    assert host.matrix_peak(torch.float32, torch.device("cpu"), seconds=0.01) > 1e8
    assert host.peak_mb() >= 100


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_floor_s_products_are_products(dtype: torch.dtype) -> None:
    """Packed where torch can: whatever way is taken, it multiplies by this weight."""
    weight = torch.randn(48, 32).to(dtype)
    x = torch.randn(4, 32).to(dtype)
    torch.testing.assert_close(one_generation.product(weight, 4)(x), x @ weight.T)


# ------------------------------------------------------------------------------------------------ whole runs


@pytest.mark.e2e
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_is_measured_whole(layout: str, paths: dict[str, str], tmp_path: Path) -> None:
    if "share_trunk" in LAYOUTS[layout]:
        paths = inputs.make(tmp_path, model="", smoke=True, adapter=True)
    case = replace(small(paths, layout), reward=ppo_runs.reward_of(layout, paths))
    result = one_run.measured(case)
    assert result["case"] == asdict(case)
    assert len(result["all_totals_s"]) == case.iters - 1
    assert sum(result["phases"].values()) <= max(result["all_totals_s"]) * 1.01
    assert {"generate", "weights", "reference", "backward", "step"} <= set(result["parts"])
    assert all(rate > 0 for rate in result["flop_per_s"].values())
    assert 3 * case.batch <= result["prompt_tokens"] <= 6 * case.batch
    assert result["flop"]["iteration"] == sum(n for name, n in result["flop"].items() if name != "iteration")
    assert result["memory"]["peak_mb"] >= result["memory"]["imported_mb"]
    assert len(ppo_case.row(layout, result)) == len(ppo_case.HEADING)
    json.dumps(result)


@pytest.mark.e2e
@pytest.mark.parametrize("who", ["clearppo", "transformers"])
def test_generation_is_measured(who: str, paths: dict[str, str]) -> None:
    writing = generation.Writing(
        who=who, model=paths["model"], dtype="float32", batch=5, response_length=6, repeats=1, threads=1
    )
    result = one_generation.measured(writing)
    assert result["tokens"] == 5 * 6
    assert result["tokens_per_s"] > 0
    assert (result["floor_ms"] is None) == (who == "transformers")
    stopped = one_generation.measured(replace(writing, slots=2, stop="e"))
    assert 5 <= stopped["tokens"] < 5 * 6  # half of all tokens hold an e
    assert stopped["step_ms"] is None
    json.dumps(result)


@pytest.mark.e2e
def test_a_script_from_the_command_line(tmp_path: Path) -> None:
    """Its last line is the result, which is in the file too."""
    written = tmp_path / "result.json"
    said = subprocess.run(
        [sys.executable, "-m", "benchmarks.iteration", "--smoke", "--layouts", "shared", "--output", str(written)],
        cwd=REPO, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout.splitlines()[-1]) == json.loads(written.read_text(encoding="utf-8"))
    assert "An iteration of PPO" in said.stdout


@pytest.mark.e2e
def test_ours_and_the_peer_take_turns(tmp_path: Path, paths: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the peer prints what its script would; the environment shows through its numbers."""
    script = tmp_path / "peer.py"
    script.write_text(
        "import json, os, sys\n"
        "tuned = os.environ.get('ACCELERATE_MIXED_PRECISION') == 'bf16'\n"
        f"print(json.dumps({peer_result(8.0, 4.0)!r} | {{'total_s': 4.0 if tuned else 8.0, 'argv': sys.argv[1:]}}))\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(Case, "measure", lambda case: result_of(2.0, layout=case.layout))
    monkeypatch.setattr(ppo_runs, "apart", lambda module, given: paths)
    words = ["--peer_python", sys.executable, "--peer_script", str(script), "--rounds", "2", "--smoke"]
    result = vs_trl.run(ppo_runs.checked(vs_trl.arguments().parse_args(words)))
    assert {name: len(runs) for name, runs in (result["theirs"] | result["ours"]).items()} == {
        "TRL": 2, "TRL, tuned": 2, "separate": 2, "shared": 2, "lora": 2,
    }  # fmt: skip
    assert result["compared"]["lora"]["times_as_fast"] == {"TRL": 4.0, "TRL, tuned": 2.0}
    given = result["theirs"]["TRL"][0]["argv"]
    flags = dict(zip(given[::2], given[1::2], strict=True))
    assert flags["--model"] == paths["model"]
    assert (flags["--batch"], flags["--response_length"], flags["--iters"]) == ("4", "6", "2")
    assert "times as fast as TRL, tuned" in vs_trl.shown(result)
