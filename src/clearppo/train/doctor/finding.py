"""What a check found: a number, a verdict, the reason in a sentence and the mend."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verdict = Literal["ok", "look", "stop"]
VERDICTS: tuple[Verdict, ...] = ("ok", "look", "stop")
"""From the best to the worst. look: the run would go, and somebody should look first. stop: it would be in vain."""

CHECKS = (
    "objective",
    "chat_template",
    "eos",
    "pad",
    "prompts_length",
    "duplicate_prompts",
    "sampler_log_probs",
    "ratio_and_kl",
    "padding_invariance",
    "reward_functions",
    "reward_tokenizer",
    "reward_finite",
    "reward_spread",
    "reward_pairs",
    "reward_length",
    "reward_edge_cases",
    "critic_start",
    "kl_against_reward",
    "memory",
    "time",
    "disk",
)
"""The names of all checks, in the order in which they are shown."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One check's result. `reason` says why the verdict is what it is; `mend` what to do, nothing where all is well."""

    name: str
    verdict: Verdict
    measured: str
    reason: str
    mend: str = ""

    def __post_init__(self) -> None:
        if self.name not in CHECKS:
            raise ValueError(f"there is no check {self.name}")
        if (self.verdict == "ok") != (not self.mend):
            raise ValueError(f"{self.name}: whoever has to look needs a mend, and nobody else")

    def __str__(self) -> str:
        """One line: what was found, why, and what to do."""
        parts = (f"{self.name}: {self.measured}.", self.reason, self.mend)
        return " ".join(part for part in parts if part)


@dataclass(frozen=True)
class Problem:
    """Something that a check found wrong: whole sentences."""

    verdict: Verdict
    reason: str
    mend: str


def finding(name: str, measured: str, problems: Sequence[Problem], fine: str) -> Finding:
    """The finding of a check that looked for several problems: the worst one decides and stands first; without any,
    `fine` is the reason."""
    ordered = sorted(problems, key=lambda problem: -VERDICTS.index(problem.verdict))
    return Finding(
        name=name,
        verdict=worst(problem.verdict for problem in ordered),
        measured=measured,
        reason=" ".join(dict.fromkeys(problem.reason for problem in ordered)) or fine,
        mend=" ".join(dict.fromkeys(problem.mend for problem in ordered)),
    )


@dataclass
class Diagnosis:
    """All findings on one run, and the checks that were not made, each with the reason."""

    step: str
    findings: list[Finding] = field(default_factory=list)
    not_checked: dict[str, str] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """The worst of all."""
        return worst(finding.verdict for finding in self.findings)

    def of(self, verdict: Verdict) -> list[Finding]:
        """Those with this verdict."""
        return [finding for finding in self.findings if finding.verdict == verdict]

    def add(self, *findings: Finding) -> None:
        """Note findings, in the order of CHECKS whatever the order in which they come."""
        self.findings += findings
        self.findings.sort(key=lambda finding: CHECKS.index(finding.name))

    def leave_out(self, names: Iterable[str], why: str) -> None:
        """Note that these checks were not made; one that was made stays."""
        made = {finding.name for finding in self.findings}
        self.not_checked |= {name: why for name in names if name not in made}

    def to_json(self) -> Mapping[str, Any]:
        """All of it, as `--json` writes it."""
        return {
            "step": self.step,
            "verdict": self.verdict,
            "findings": [asdict(finding) for finding in self.findings],
            "not_checked": self.not_checked,
        }


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst verdict; ok if there is none."""
    found = set(verdicts)
    return "stop" if "stop" in found else "look" if "look" in found else "ok"
