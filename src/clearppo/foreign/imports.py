"""From somebody's file to a configuration of ours, checked by our own schema."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from clearppo.config import SCHEMAS, CommandConfig, OptionError, leaves, load_config, sections, values
from clearppo.errors import ConfigError
from clearppo.foreign.arithmetic import joint
from clearppo.foreign.found import Imported
from clearppo.foreign.read import read
from clearppo.foreign.rule import Rules
from clearppo.foreign.step import is_old, step_of
from clearppo.foreign.trl_old import OLD_PPO
from clearppo.foreign.trl_steps import PPO, REWARD, SFT
from clearppo.foreign.work import Work
from clearppo.foreign.write import yaml_text

RULES: Mapping[tuple[str, bool], Rules] = MappingProxyType(
    {("ppo", False): PPO, ("ppo", True): OLD_PPO, ("sft", False): SFT, ("reward", False): REWARD}
)
"""By the step, and whether it is the PPO of TRL 0.11 and earlier."""

STAND_IN: Mapping[str, str] = MappingProxyType(
    {"model_name_or_path": "MODEL", "dataset_name": "FILE", "output_dir": "DIRECTORY", "reward_model_path": "MODEL"}
)
"""What must be given beside a file that does not say it, and what stands for it while the rest is checked."""

_PROGRAMS = {False: "TRL", True: "TRL 0.11 or earlier"}


def import_settings(file: Path, *, step: str | None = None, processes: int | None = None) -> Imported:
    """What the settings of `file` are here: TRL's YAML, a Python script that makes its configuration, or a shell script
    that starts it. `step` is needed where the file does not tell it, `processes` where more than one ran it.

    Raises ConfigError for a file that cannot be read, or in which there is nothing of TRL's.
    """
    source = read(file, step)
    step = step_of(source, file, step)
    old = is_old(source) if source.old is None else source.old
    old = old and step == "ppo"
    work = Work(source, RULES[step, old], processes or source.processes or 1)
    work.notes += source.notes
    work.simple()
    joint(work, step, old=old)
    config, missing = _checked(work, step, file)
    defaults = {name: leaf.default for name, leaf in leaves(SCHEMAS[step]).items()}
    resolved = values(config)
    work.options = {option: replace(put, value=resolved[option]) for option, put in work.options.items()}
    options = {option: put.value for option, put in work.options.items()}
    findings = work.findings(defaults)
    text = yaml_text(step, file.name, _PROGRAMS[old], work, findings, missing)
    _loads(text, step, missing, config)
    return Imported(
        step=step, program=_PROGRAMS[old], findings=findings, options=options, missing=missing, notes=work.notes,
        text=text, config=config,
    )  # fmt: skip


def _checked(work: Work, step: str, file: Path) -> tuple[CommandConfig, list[str]]:
    """The configuration of the options that the schema takes; what it refuses is taken back, with its sentence."""
    schema = SCHEMAS[step]
    needed = [name for name in STAND_IN if name in leaves(schema)]
    if step != "ppo":
        needed = [name for name in needed if leaves(schema)[name].required]
    while True:
        missing = [name for name in needed if name not in work.options]
        tree: dict[str, dict[str, object]] = {section: {} for section in sections(schema)}
        given = {option: put.value for option, put in work.options.items()} | {n: STAND_IN[n] for n in missing}
        for option, value in given.items():
            tree[leaves(schema)[option].section][option] = value
        try:
            return schema.model_validate(tree), missing
        except OptionError as error:
            if error.option not in work.options:
                raise ConfigError(f"{file}: {error}") from None
            work.take_back(error.option, str(error))


def _loads(text: str, step: str, missing: list[str], config: CommandConfig) -> None:
    """Read the text as `--config` would, and compare: what is written is what was checked."""
    with tempfile.TemporaryDirectory(prefix="clearppo-") as directory:
        file = Path(directory) / "imported.yaml"
        file.write_text(text, encoding="utf-8")
        found = load_config(SCHEMAS[step], config_path=file, flags={name: STAND_IN[name] for name in missing})
    assert found == config, "the YAML says something else than what was checked"
