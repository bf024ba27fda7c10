"""How long a text may be: one that is too long is left out and counted, or is an error, and never cut."""

from dataclasses import dataclass, field

from clearppo.errors import ConfigError, DataError


@dataclass(kw_only=True)
class LengthLimit:
    """Admits texts by their length in tokens, and counts what it sees.

    Texts longer than `max_length` are left out; without it, one longer than `room` (the model's context; None if
    unknown) is an error. `source` and `noun` name the rows, and `option` the one that gave `max_length`, in messages.

    Raises ConfigError if `max_length` is more than `room`.
    """

    max_length: int | None
    room: int | None
    source: str
    noun: str
    option: str = "max_length"
    n_seen: int = field(default=0, init=False)
    n_too_long: int = field(default=0, init=False)
    longest: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.max_length is not None and self.room is not None and self.max_length > self.room:
            raise ConfigError(
                f"{self.option} = {self.max_length} is more than the {self.room} tokens of the model's context. "
                f"Use --{self.option} {self.room}."
            )

    def admits(self, length: int, place: str) -> bool:
        """Whether a text of so many tokens is kept. Raises DataError if, without `max_length`, it does not fit."""
        self.n_seen += 1
        self.longest = max(self.longest, length)
        if self.max_length is None:
            if self.room is not None and length > self.room:
                raise DataError(
                    f"{place}: {length} tokens, and the model's context has {self.room}. "
                    f"Use --{self.option} {self.room} to leave such rows out."
                )
            return True
        self.n_too_long += length > self.max_length
        return length <= self.max_length

    def require(self, n_kept: int) -> None:
        """Raises DataError if nothing is left, or there was nothing."""
        if not self.n_seen:
            raise DataError(f"{self.source} holds no {self.noun}. Give at least one.")
        if not n_kept:
            whole_context = self.room is not None and self.room == self.max_length
            mend = "Use a model with a longer context." if whole_context else f"Use a larger --{self.option}."
            raise DataError(
                f"all {self.n_seen} {self.noun} of {self.source} are longer than {self.option} = {self.max_length} "
                f"tokens (the longest has {self.longest}). {mend}"
            )
