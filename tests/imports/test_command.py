"""`clearppo import-config`: what it prints, writes and imports."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from clearppo.cli import main

TEXT = """kl_coef: 0.1
max_grad_norm: 0.5
num_mini_batches: 4
gradient_accumulation_steps: 4
hub_model_id: me/x
kl_cof: 1
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trl.yaml").write_text(TEXT, encoding="utf-8")
    return tmp_path / "trl.yaml"


def test_every_setting_is_a_row(run: Any, file: Path) -> None:
    result = run("trl.yaml")
    assert result.exit_code == 0, result.output
    words = " ".join(result.stdout.split())
    for said in (
        "kl_coef: 0.1 (line 1) carried kl_coef: 0.1",
        "did nothing",
        "not carried",
        "unknown",
        "nothing is ever",
    ):
        assert said in words
    assert "missing: --output_dir, which the file does not say" in words
    assert "written out, though TRL's default is ours: " in words
    assert "1 unknown." in words
    assert [path.name for path in file.parent.iterdir()] == ["trl.yaml"]


def test_what_is_written_is_taken_by_the_command_that_is_named(run: Any, file: Path) -> None:
    result = run("trl.yaml", "--output", "ppo.yaml", "--json", "found.json", "--num-processes", "2")
    assert result.exit_code == 0, result.output
    *_, wrote, wrote_json, then = result.stdout.splitlines()
    assert (wrote, wrote_json) == ("wrote ppo.yaml", "wrote found.json")
    assert then.startswith("Then: clearppo ppo --config ppo.yaml --model_name_or_path MODEL --dataset_name FILE")
    found = json.loads(Path("found.json").read_text(encoding="utf-8"))
    assert found["step"] == "ppo"
    assert found["options"]["batch_size"] == 64
    assert {it["status"] for it in found["findings"]} == {
        "carried", "default", "same", "did nothing", "not carried", "unknown"
    }  # fmt: skip
    first = Path("ppo.yaml").read_bytes()
    again = run("trl.yaml", "--output", "ppo.yaml", "--overwrite", "--num_processes", "2")
    assert again.exit_code == 0
    assert Path("ppo.yaml").read_bytes() == first


def test_plan_reads_it_up_to_the_model(run: Any, file: Path) -> None:
    assert run("trl.yaml", "--output", "ppo.yaml").exit_code == 0
    result = CliRunner().invoke(main, ["ppo", "--config", "ppo.yaml"])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: Missing: --model_name_or_path") or "reward_funcs" in result.stderr


def test_a_disk_that_refuses_leaves_what_was_there(run: Any, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("ppo.yaml").write_text("mine", encoding="utf-8")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("clearppo.disk.os.fsync", full)
    result = run("trl.yaml", "--output", "ppo.yaml", "--overwrite")
    assert result.exit_code == 2
    assert "no space left to write ppo.yaml" in result.stderr
    assert Path("ppo.yaml").read_text(encoding="utf-8") == "mine"
    assert {path.name for path in file.parent.iterdir()} == {"trl.yaml", "ppo.yaml"}


def test_nothing_heavy_is_imported(file: Path) -> None:
    code = (
        "import sys\nfrom clearppo.cli import main\n"
        "try:\n    main(['import-config', 'trl.yaml'])\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "print('HEAVY', *sorted({'torch', 'transformers', 'numpy', 'pyarrow', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "HEAVY"
