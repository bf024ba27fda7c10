"""What goes wrong in a run of PPO long before a number is not finite: rules over the numbers that it writes.

    RULES                       what is looked for, by name: metrics, when it rings, patience, advice
    Alarms(facts).look(...)     called once an iteration: the alarms that begin and those that are over
    replayed(rows, facts)       the same over the metrics of a whole run, as a list of events

Pure functions of the history, in plain Python: a run that goes on from a checkpoint and a benchmark come to the same
events. They audit; they promise no prediction.
"""

from clearppo.alarms.history import Facts, History
from clearppo.alarms.names import ACTIONS, NAMES
from clearppo.alarms.rules import RULES, Rule
from clearppo.alarms.sight import Sight
from clearppo.alarms.state import Alarms, Event, replayed

__all__ = ["ACTIONS", "NAMES", "RULES", "Alarms", "Event", "Facts", "History", "Rule", "Sight", "replayed"]
