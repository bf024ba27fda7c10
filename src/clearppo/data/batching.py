"""Which rows come together: batches of texts of like length, and a part of the rows held out."""

from collections.abc import Hashable, Sequence

import torch

from clearppo.errors import DataError

MEGABATCH = 50
"""So many batches' rows are sorted by length together: enough to be alike, few enough to stay random."""


def length_grouped(lengths: Sequence[int], batch_size: int, generator: torch.Generator) -> list[list[int]]:
    """One epoch of batches of row numbers: every row once, rows of like length together, the batches in random order.

    The rows are shuffled, cut into portions of at most 50 batches (at least four portions, where there are rows for
    it), sorted by length inside each portion, and cut into batches; one batch is smaller if `batch_size` does not
    divide the number of rows. The batch with the longest row comes first: if memory does not suffice, it fails at once.
    All chance is `generator`'s.
    """
    order = torch.randperm(len(lengths), generator=generator).tolist()
    # Few rows in one portion would give the same batches in every epoch.
    portion = batch_size * max(1, min(MEGABATCH, len(order) // (4 * batch_size)))
    rows: list[int] = []
    for start in range(0, len(order), portion):
        rows += sorted(order[start : start + portion], key=lambda row: lengths[row], reverse=True)
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    batches = [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
    if batches:
        first = max(range(len(batches)), key=lambda i: max(lengths[row] for row in batches[i]))
        batches.insert(0, batches.pop(first))
    return batches


def split_off(
    keys: Sequence[Hashable],
    fraction: float | int,
    seed: int,
    *,
    noun: str = "rows",
    without: str = "--eval_fraction 0",
) -> tuple[list[int], list[int]]:
    """Row numbers to learn from, and about `fraction` of all, held out; rows of one key are never on both sides.

    Both are in ascending order, and at least one row is on each side if `fraction` is above 0 (nothing is held out at
    0). Raises DataError, which calls the rows `noun` and says that `without` switches it off, if all have one key, so
    that nothing can be held out.
    """
    if fraction == 0:
        return list(range(len(keys))), []
    groups: dict[Hashable, list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    if len(groups) < 2:
        raise DataError(
            f"none of the {len(keys)} {noun} can be held out: they are all about one prompt. "
            f"Give others as --eval_dataset_name, or {without} to measure nothing."
        )
    generator = torch.Generator().manual_seed(seed)
    members = list(groups.values())
    shuffled = [members[i] for i in torch.randperm(len(members), generator=generator).tolist()]
    wanted = fraction * len(keys)
    held: list[int] = []
    for rows in shuffled:
        if len(held) + len(rows) <= wanted:
            held += rows
    held = held or min(shuffled, key=len)
    apart = set(held)
    return [row for row in range(len(keys)) if row not in apart], sorted(held)
