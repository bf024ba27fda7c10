"""What a run has learned is saved when it ends early."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

from clearppo.errors import ClearPPOError
from clearppo.rundir import RunDir
from clearppo.train.listener import Listener
from clearppo.train.undisturbed import undisturbed


@contextlib.contextmanager
def rescued(
    save: Callable[[str, str], None], history: Sequence[object], n_rounds: int, *, round: str, noun: str = "model",
    run_dir: RunDir, listener: Listener,
) -> Iterator[None]:  # fmt: skip
    """If the block ends early (an error that ClearPPO understands, or Ctrl-C) after at least one round, what has been
    learned is saved in output_dir/interrupted before the error goes on. `save(name, ended)` never hides the error.

    `history` grows by an entry a round, of `n_rounds` in all; one is called `round`, and what is saved `noun`.
    """
    try:
        yield
    except (ClearPPOError, KeyboardInterrupt) as error:
        done = len(history)
        if done:
            place = run_dir.path / "interrupted"
            listener.phase("saving")
            try:
                with undisturbed():
                    save(place.name, f"Ended early after {done} of {n_rounds} {round}s: {type(error).__name__}.")
            except ClearPPOError as unsaved:
                listener.note(f"not saved: {unsaved}")
            else:
                listener.note(f"the {noun} after {done} {round}s is in {place}")
        raise
