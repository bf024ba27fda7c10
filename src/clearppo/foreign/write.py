"""The imported settings as YAML with comments: where each option comes from, and what was not carried over."""

import textwrap
from collections.abc import Sequence

from clearppo.config import SCHEMAS, leaves, sections
from clearppo.config.dump import scalar
from clearppo.foreign.found import Finding, printable, words
from clearppo.foreign.work import Put, Work

WIDTH = 118


def yaml_text(
    step: str, file: str, program: str, work: Work, findings: Sequence[Finding], missing: Sequence[str]
) -> str:
    """YAML that `clearppo STEP --config` accepts, once what is missing is given."""
    lines = [f"# {program}'s settings of {printable(file)}, for clearppo {step}. Made by clearppo import-config."]
    lines += ["# Options that are not here have ClearPPO's defaults (clearppo explain NAME)."]
    schema = SCHEMAS[step]
    for section in sections(schema):
        lines += ["", f"{section}:"]
        entries = [
            _entry(name, work.options[name], work)
            for name, leaf in leaves(schema).items()
            if leaf.section == section and name in work.options
        ]
        absent = [_absent(name, file) for name in missing if leaves(schema)[name].section == section]
        if not entries and not absent:
            del lines[-2:]
            continue
        if not entries:
            lines[-1] += " {}"
        lines += entries + absent
    for title, status in (
        ("What did nothing in TRL", "did nothing"), ("Not carried over", "not carried"),
        ("Not read", "not read"), ("Unknown", "unknown"),
    ):  # fmt: skip
        told = [it for it in findings if it.status == status]
        if told:
            lines += ["", f"# {title}:"]
            for it in told:
                value = "" if status == "not read" else f" = {words(it.value)}"
                lines += _comment(f"{printable(it.name)}{value}: {it.why}")
    if work.notes:
        lines += ["", "# To look at:"]
        for note in work.notes:
            lines += _comment(note)
    return "\n".join(lines) + "\n"


def _absent(name: str, file: str) -> str:
    other = ", or --reward_funcs file.py:name" if name == "reward_model_path" else ""
    return f"  # {name}: not in {printable(file)}; fill it in, or give --{name}{other}"


def _entry(name: str, put: Put, work: Work) -> str:
    given = [it for it in put.names if work.given(it)]
    source = ", ".join(given) if given else "TRL's default" if put.names else ""
    unread = {it.name for it in work.source.unread} & set(put.names)
    if unread and not given:
        source = f"not what the file says, which could not be read, but {source}"
    if given == [name]:
        source = ""
    remark = "; ".join(part for part in (source, put.why) if part and part != "TRL's default; TRL's default")
    if remark == "TRL's default; TRL's default":
        remark = "TRL's default"
    return f"  {name}: {scalar(put.value)}" + (f" # {printable(remark)}" if remark else "")


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        printable(text), WIDTH, initial_indent="# - ", subsequent_indent="#   ", break_on_hyphens=False
    )
