"""What every metric means. Names with a * stand for a family: rewards/*/mean, time/*.

METRICS: an entry for each name that metrics.jsonl or timings.jsonl can have.
"""

from collections.abc import Mapping

from clearppo.catalogue.metrics.answers import ANSWERS
from clearppo.catalogue.metrics.critic import CRITIC, SAMPLING
from clearppo.catalogue.metrics.evaluation import EVALUATION
from clearppo.catalogue.metrics.machine import MACHINE
from clearppo.catalogue.metrics.steps import STEPS
from clearppo.catalogue.metrics.updates import UPDATES
from clearppo.catalogue.words import MetricWords

METRICS: Mapping[str, MetricWords] = {**ANSWERS, **EVALUATION, **UPDATES, **CRITIC, **SAMPLING, **STEPS, **MACHINE}
