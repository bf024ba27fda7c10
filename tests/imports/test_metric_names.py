"""TRL's dashboards show our runs: its metrics have their names here."""

from clearppo.train.metrics import REGISTRY
from tests.imports import trl_names


def test_all_metrics_of_trls_ppo_have_their_names_here() -> None:
    assert set(trl_names.METRICS) <= set(REGISTRY)
