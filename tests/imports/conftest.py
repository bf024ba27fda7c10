"""Importing a text as if it stood in a file, and running the command."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from clearppo.cli import main
from clearppo.foreign import Imported, import_settings

Import = Callable[..., Imported]


@pytest.fixture
def imported(tmp_path: Path) -> Import:
    """`imported("kl_coef: 0.1", "ppo.yaml")`, or of a mapping: what import_settings makes of it."""

    def imported(content: str | Mapping[str, Any], name: str = "trl.yaml", **more: Any) -> Imported:
        file = tmp_path / name
        text = content if isinstance(content, str) else yaml.safe_dump(dict(content))
        file.write_text(text, encoding="utf-8")
        return import_settings(file, **more)

    return imported


@pytest.fixture
def run() -> Callable[..., Result]:
    """`run("x.yaml")`: the result of `clearppo import-config x.yaml`."""

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["import-config", *arguments])

    return run
