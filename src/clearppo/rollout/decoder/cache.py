"""Keys and values of a batch that shrinks: preallocated buffers whose finished rows are given up."""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

ATTENTION_LAYERS = frozenset({"full_attention", "sliding_attention"})


class SlotLayer(DynamicLayer):
    """One layer's keys and values in a buffer of full length, so that a step writes one column and copies nothing."""

    def __init__(self, max_length: int) -> None:
        super().__init__()
        self.max_length = max_length
        self.length = 0
        self.keys: Tensor
        self.values: Tensor

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        rows, heads, _, width = key_states.shape
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = key_states.new_empty(rows, heads, self.max_length, width)
        self.values = value_states.new_empty(rows, value_states.shape[1], self.max_length, value_states.shape[3])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the new columns of the rows that are left and return all columns of these rows."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, end = key_states.shape[0], self.length + key_states.shape[2]
        self.keys[:rows, :, self.length : end] = key_states
        self.values[:rows, :, self.length : end] = value_states
        self.length = end
        return self.keys[:rows, :, :end], self.values[:rows, :, :end]

    def move_row(self, source: int, target: int) -> None:
        """Row `source` takes the place of row `target`."""
        self.keys[target, :, : self.length] = self.keys[source, :, : self.length]
        self.values[target, :, : self.length] = self.values[source, :, : self.length]

    def get_seq_length(self) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0


class ShrinkingCache:
    """A transformers cache from which rows can be dropped.

    Models whose layers all attend keep their columns in slots, and a dropped row costs the move of one other row.
    Others (state-space layers) use transformers' own cache, of which the kept rows are copied.
    """

    def __init__(self, config: Any, max_length: int) -> None:
        text = config.get_text_config()
        kinds = set(getattr(text, "layer_types", None) or ATTENTION_LAYERS)
        self._slotted = kinds <= ATTENTION_LAYERS and not hasattr(text, "ssm_cfg") and not hasattr(text, "state_size")
        self.cache: Cache = (
            Cache(layers=[SlotLayer(max_length) for _ in range(text.num_hidden_layers)])
            if self._slotted
            else DynamicCache(config=text)
        )
        self.attends = any(isinstance(layer, DynamicLayer) for layer in self.cache.layers)
        """Whether any layer looks back at columns; pure state-space models keep none, so a step has one column."""

    def select(self, rows: Int[Tensor, " M"]) -> None:
        """The rows become copies of these, in this order; a row may stand several times."""
        self.cache.reorder_cache(rows)  # pyright: ignore[reportArgumentType]

    def keep(self, rows: list[int], count: int) -> list[int]:
        """Keep `rows` of the `count` rows there are. Returns, for each slot that is left, the row that lies there."""
        if not self._slotted:
            self.select(torch.tensor(rows))
            return rows
        places = close_gaps(rows, count)
        for place, source in enumerate(places):
            if place != source:
                for layer in self.cache.layers:
                    assert isinstance(layer, SlotLayer)
                    layer.move_row(source, place)
        return places


def close_gaps(rows: list[int], count: int) -> list[int]:
    """For each place 0 to len(rows) - 1 the row that shall lie there, if these of `count` rows are kept.

    As few rows as can be move: the last ones take the places of those that leave.
    """
    kept, places = set(rows), list(range(len(rows)))
    spare = [row for row in range(len(rows), count) if row in kept]
    return [place if place in kept else spare.pop() for place in places]
