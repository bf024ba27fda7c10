"""The final model may be that of the best checkpoint."""

from clearppo.rundir import CHECKPOINT
from clearppo.train.checkpoint import Best, Checkpoint
from clearppo.train.keeping import Keeper
from clearppo.train.manifest import damage
from clearppo.train.weights import load_weights


def load_best(keeper: Keeper, best: Best | None) -> str:
    """Put the learned weights, and their average, back to what they were in the best checkpoint. Returns what the model
    is then, for its card. Where there is no best step, or its checkpoint is gone, a note says so and all stays."""
    if best is None:
        keeper.listener.note("no measurement said which iteration is the best: the final model is that of the last one")
        return ""
    said = f"the final model is that of iteration {best.step}, the best by {best.metric} ({best.value:.4g})"
    if best.step != keeper.step:
        place = keeper.run_dir.path / f"{CHECKPOINT}{best.step}"
        if (wrong := damage(place, best.step)) is not None:
            keeper.listener.note(
                f"the final model is that of the last iteration: {place.name}, the best by {best.metric}, cannot be "
                f"used ({wrong})"
            )
            return ""
        checkpoint = Checkpoint(place, best.step)
        load_weights(keeper.learned, checkpoint.state["weights"], checkpoint.path)
        keeper.late["average"].load_state(checkpoint.state["late"]["average"])
    keeper.listener.note(said)
    return f" T{said[1:]}."
