"""Whatever a file says: either one sentence, or YAML that loads (import_settings loads it and compares)."""

import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clearppo.config import SCHEMAS, load_config
from clearppo.errors import ConfigError
from clearppo.foreign import STAND_IN, import_settings
from clearppo.foreign.found import STATUSES
from clearppo.foreign.imports import RULES

NAMES = sorted({name for rules in RULES.values() for name in rules})
VALUES: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.integers(),
    st.floats(),
    st.sampled_from(["3e-6", "auto", "none", "steps", "no", "eos", "all", "wandb", "cosine", "k3", "bfloat16", "1"]),
    st.text(max_size=8),
    st.lists(st.one_of(st.text(max_size=4), st.integers(0, 9)), max_size=3),
    st.dictionaries(st.text(max_size=4), st.integers(0, 9), max_size=2),
)
ANY = st.dictionaries(st.one_of(st.sampled_from(NAMES), st.text(max_size=6)), VALUES, max_size=12)
FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def imports(name: str, text: str, **more: Any) -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / name
        file.write_text(text, encoding="utf-8")
        try:
            found = import_settings(file, **more)
        except ConfigError:
            return
        again = Path(directory) / "again.yaml"
        again.write_text(found.text, encoding="utf-8")
        flags = {missing: STAND_IN[missing] for missing in found.missing}
        assert load_config(SCHEMAS[found.step], config_path=again, flags=flags) == found.config
        assert {finding.status for finding in found.findings} <= set(STATUSES)
        assert all(finding.why for finding in found.findings if finding.status in ("not carried", "did nothing"))


@FEW
@given(content=ANY, step=st.sampled_from(["sft", "reward", "ppo"]), processes=st.integers(1, 9))
def test_yaml(content: dict[str, Any], step: str, processes: int) -> None:
    imports("any.yaml", yaml.safe_dump(content, allow_unicode=True), step=step, processes=processes)


@FEW
@given(content=st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=8), old=st.booleans())
def test_python(content: dict[str, Any], old: bool) -> None:
    known = {"ppo_epochs": 3, **content} if old else {"kl_coef": 0.1, **content}
    imports("any.py", f"PPOConfig({', '.join(f'{name}={value!r}' for name, value in known.items())})\n")


@FEW
@given(text=st.text(st.sampled_from("ab-= '\"\\\n;|&<>$`#1.py,_{}[]:*!~"), max_size=80))
def test_shell(text: str) -> None:
    imports("any.sh", f"python ppo.py --kl_coef {text}")
    imports("any.sh", text)


@FEW
@given(text=st.text(max_size=60), name=st.sampled_from(["x.yaml", "x.py", "x.json"]))
def test_any_text(text: str, name: str) -> None:
    imports(name, text)
