"""docs/record.md says what the files hold, and its Python runs."""

import re
from pathlib import Path

import pytest

from clearppo.record.schema import COLUMNS, METADATA
from tests.record.files import made

PAGE = (Path(__file__).parents[2] / "docs" / "record.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)


def rows(heading: str) -> list[list[str]]:
    """The table that begins with this line, without its head."""
    below = PAGE[PAGE.index(heading) :].splitlines()[2:]
    table = below[: next(i for i, line in enumerate([*below, ""]) if not line.startswith("|"))]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


def test_the_columns() -> None:
    assert rows("| column | type |") == [[f"`{c.name}`", c.typename, c.meaning] for c in COLUMNS]


def test_the_metadata() -> None:
    fields = [[f"`{f.name}`", f"null, or {f.meaning}" if f.null else f.meaning] for f in METADATA.values()]
    assert rows("| field | |") == fields


@pytest.mark.parametrize("code", PYTHON, ids=[code.split()[1] for code in PYTHON])
def test_the_python(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "pandas" in code:
        pytest.importorskip("pandas")
    (tmp_path / "runs" / "first").mkdir(parents=True)
    made(tmp_path / "runs" / "first", step=1, n=20)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "record.md", "exec"), {})
    assert capsys.readouterr().out
