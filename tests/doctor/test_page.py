"""docs/doctor.md names every check, and no other."""

import re
from pathlib import Path

from clearppo.train.doctor.finding import CHECKS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "doctor.md"


def test_the_table_has_every_check_in_its_order() -> None:
    assert tuple(re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), flags=re.M)) == CHECKS
