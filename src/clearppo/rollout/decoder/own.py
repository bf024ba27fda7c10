"""Our own decoder: preallocated keys and values, rows that come and go at any time, few operations a step."""

from collections.abc import Callable, Iterator, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from clearppo.models.actor import Actor
from clearppo.rollout.decoder.attention import band, step_attention, visible
from clearppo.rollout.decoder.cache import close_gaps
from clearppo.rollout.decoder.families import UnknownModelError, blueprint_of
from clearppo.rollout.decoder.graphs import StepGraphs
from clearppo.rollout.decoder.linear import can_pack
from clearppo.rollout.decoder.network import Network

PREFILL_CELLS = 8192  # padded prompt tokens that go through the layers at once; bounds what a prefill needs
COLUMN_BUCKET = 64


class OwnDecoder:
    """Decodes with its own copy of the linear weights, for the families of decoder/families.py.

    Row r's token t lies in column t of its keys and values, so rows of different ages need no padding; a step hides the
    columns that a row has not reached. Raises UnknownModelError at construction if it does not know the model.
    """

    joins = True

    def __init__(self, actor: Actor, *, dtype: torch.dtype | None = None) -> None:
        weight = actor.causal_lm.get_input_embeddings().weight
        _refuse(actor)
        self.work = work = torch.bfloat16 if actor.autocast else dtype or weight.dtype
        self.device = actor.device
        self.packed = can_pack(work, self.device)
        self._network = Network(
            blueprint_of(actor.causal_lm), stream=weight.dtype, work=work, device=self.device, packed=self.packed
        )
        self.exact = work == weight.dtype and work in (torch.float32, torch.float64)
        self.why = f"ClearPPO's own decoder ({'packed ' if self.packed else ''}{str(work).removeprefix('torch.')})"
        self._lengths: list[int] = []  # of the live rows, in tokens
        self._rows = self._columns = 0
        self._storage = torch.empty(0, dtype=work, device=self.device)
        self._run: Callable[[int, int], Tensor] | None = None
        self.load(actor)

    def load(self, actor: Actor) -> None:
        """See Decoder."""
        self._network.load(actor.causal_lm)
        self._forget()

    def release(self) -> None:
        """See Decoder. On a GPU all stays where it is, because recorded graphs read it there."""
        if self.device.type != "cuda":
            self._network.release()
            self._give_up_room()
            self._rows = self._columns = 0
            self._lengths = []

    def begin(self, *, rows: int, length: int) -> None:
        """See Decoder. The memory that is there is kept if it is large enough.

        On the CPU its layout is that of this batch alone, so that no bit depends on earlier ones. On a GPU the layout
        is kept too if it is large enough in both, for the graphs that were recorded on it; that is the `state`.
        """
        if self.device.type != "cuda" or rows > self._rows or length > self._columns:
            self._make_room(rows, -(-length // COLUMN_BUCKET) * COLUMN_BUCKET)
        self._forget()

    def state(self) -> dict[str, int]:
        """See Decoder."""
        return {"rows": self._rows, "columns": self._columns} if self.device.type == "cuda" else {}

    def load_state(self, state: Mapping[str, int]) -> None:
        """See Decoder. A state of another kind of device says nothing."""
        if self.device.type == "cuda" and state and (state["rows"], state["columns"]) != (self._rows, self._columns):
            self._make_room(state["rows"], state["columns"])
        self._forget()

    @torch.no_grad()
    def start(self, prompts: list[list[int]], copies: list[int]) -> Float[Tensor, "N H"]:
        """See Decoder. Raises RuntimeError if `begin` made too little room."""
        live = len(self._lengths)
        if live + sum(copies) > self._rows or max(map(len, prompts)) > self._columns:
            raise RuntimeError(
                f"{live} + {sum(copies)} rows, the longest of {max(map(len, prompts))} tokens, do not fit into the "
                f"{self._rows} rows of {self._columns} tokens that begin() made room for"
            )
        hidden = [self._prefill(prompts[a:b], copies[a:b]) for a, b in _portions(prompts)]
        new = self._lengths[live:]
        self._ends[live : live + len(new)] = torch.tensor(new, device=self.device)
        return torch.cat(hidden)

    @torch.no_grad()
    def step(self, tokens: Int[Tensor, " N"]) -> Float[Tensor, "N H"]:
        """See Decoder. Raises RuntimeError if a row would outgrow its room."""
        rows, longest = len(self._lengths), max(self._lengths)
        if longest >= self._columns:
            raise RuntimeError(f"a row has filled the {self._columns} tokens that begin() made room for")
        self._tokens[:rows] = tokens
        if self._run is None:
            hidden = self._step(rows, longest + 1, masked=min(self._lengths) != longest)
        else:
            # A graph is of a fixed size. Rows that are not live write into their own first columns.
            size = self._bucket(rows, 1, self._rows), self._bucket(longest + 1, COLUMN_BUCKET, self._columns)
            hidden = self._run(*size)[:rows].clone()
        self._ends[:rows] += 1
        self._lengths = [length + 1 for length in self._lengths]
        return hidden

    @torch.no_grad()
    def keep(self, rows: list[int]) -> list[int]:
        """See Decoder."""
        places = close_gaps(rows, len(self._lengths))
        self._lengths = [self._lengths[row] for row in places]
        for place, row in enumerate(places):
            if place != row:
                end = self._lengths[place]
                self._cache[:, :, place, :, :end] = self._cache[:, :, row, :, :end]
        self._ends[: len(places)] = torch.tensor(self._lengths, device=self.device)
        self._ends[len(places) :] = 0
        return places

    @torch.no_grad()
    def logits(self, hidden: Float[Tensor, "N H"]) -> Float[Tensor, "N V"]:
        """See Decoder."""
        return self._network.logits(hidden)

    def _make_room(self, rows: int, columns: int) -> None:
        plan = self._network.blueprint
        shape = (len(plan.scales), 2, rows, plan.kv_heads, columns, plan.head_dim)
        size = torch.Size(shape).numel()
        if size > self._storage.numel():
            self._give_up_room()  # before the new one is taken
            # Zeros, because a hidden column weighs 0, and 0 times what memory holds may be NaN.
            self._storage = torch.zeros(size, dtype=self.work, device=self.device)
        self._rows, self._columns = rows, columns
        self._cache = self._storage[:size].view(shape)
        self._lines = [layer.view(-1, plan.head_dim) for layer in self._cache]
        # Where row r's keys and values begin in a layer's lines, in the order in which a step makes them.
        first = torch.arange(2 * rows * plan.kv_heads, device=self.device) * columns
        self._first = first.view(2, rows, plan.kv_heads).transpose(0, 1).reshape(rows, -1)
        self._ends = torch.zeros(rows, dtype=torch.long, device=self.device)
        self._tokens = torch.zeros(rows, dtype=torch.long, device=self.device)
        self._turns = self._network.turns(columns)
        self._run = StepGraphs(self._step) if self.device.type == "cuda" else None

    def _give_up_room(self) -> None:
        # A view, even an empty one, or a recorded graph would keep all of it.
        self._storage = self._storage.new_empty(0)
        self._cache, self._lines, self._run = self._storage, [], None

    def _forget(self) -> None:
        self._lengths = []
        if self._rows:
            self._ends.zero_()

    def _prefill(self, prompts: list[list[int]], copies: list[int]) -> Float[Tensor, "N H"]:
        """Run these prompts without padding but in attention, and give their keys and values to all copies."""
        plan, live, count = self._network.blueprint, len(self._lengths), sum(copies)
        lengths, width = [len(prompt) for prompt in prompts], max(map(len, prompts))
        rows, origin = slice(live, live + count), [i for i, number in enumerate(copies) for _ in range(number)]
        self._lengths += [lengths[i] for i in origin]
        cells = [i * width + t for i, length in enumerate(lengths) for t in range(length)]
        where, source = torch.tensor(cells, device=self.device), torch.tensor(origin, device=self.device)
        masks = {window: band(width, window, self.work, self.device) for window in set(plan.windows)}

        def attend(index: int, fused: Tensor) -> Tensor:
            padded = fused.new_zeros(len(prompts) * width, *fused.shape[1:]).index_copy_(0, where, fused)
            padded = padded.view(len(prompts), width, *fused.shape[1:]).transpose(1, 2)
            q, k, v = padded.split([plan.heads, plan.kv_heads, plan.kv_heads], dim=1)
            self._cache[index, 0, rows, :, :width] = k[source]
            self._cache[index, 1, rows, :, :width] = v[source]
            mask = masks[plan.windows[index]]
            read = F.scaled_dot_product_attention(
                q, k, v, mask, is_causal=mask is None, scale=plan.scales[index], enable_gqa=plan.heads != plan.kv_heads
            )
            return read.transpose(1, 2).reshape(len(prompts) * width, -1)[where]

        tokens = torch.tensor([token for prompt in prompts for token in prompt], device=self.device)
        positions = where % width
        hidden = self._network.run(
            self._network.embed(tokens, positions), None if self._turns is None else self._turns[positions], attend
        )
        return hidden[torch.tensor(lengths, device=self.device).cumsum(0)[source] - 1]

    def _step(self, rows: int, columns: int, *, masked: bool = True) -> Float[Tensor, "N H"]:
        """One token for the first `rows` rows, which see their own part of the first `columns` columns."""
        plan, ends = self._network.blueprint, self._ends[:rows]
        line = self._first[:rows] + ends[:, None]
        groups = (plan.kv_heads, plan.heads // plan.kv_heads)
        # Made once for all layers, so in the precision in which they are added.
        mask_type = torch.promote_types(self.work, torch.float32) if self.device.type == "cpu" else self.work
        masks = {
            window: visible(ends, columns, window, mask_type) if masked or (window or columns) < columns else None
            for window in set(plan.windows)
        }

        def attend(index: int, fused: Tensor) -> Tensor:
            self._lines[index][line] = fused[:, plan.heads :]
            cache = self._cache[index, :, :rows, :, :columns]
            queries = fused[:, : plan.heads].unflatten(1, groups)
            read = step_attention(queries, cache[0], cache[1], masks[plan.windows[index]], plan.scales[index])
            return read.reshape(rows, -1)

        turns = None if self._turns is None else self._turns[ends]
        return self._network.run(self._network.embed(self._tokens[:rows], ends), turns, attend)

    @staticmethod
    def _bucket(size: int, smallest: int, largest: int) -> int:
        """The first of smallest, 2 smallest, 4 smallest, ... that holds `size`, but not above `largest`."""
        while smallest < size:
            smallest *= 2
        return min(smallest, largest)


def _portions(prompts: list[list[int]]) -> Iterator[tuple[int, int]]:
    """Neighbouring prompts from a to b that are at most PREFILL_CELLS padded tokens, or one prompt."""
    start = width = 0
    for end, prompt in enumerate(prompts):
        width = max(width, len(prompt))
        if end > start and (end + 1 - start) * width > PREFILL_CELLS:
            yield start, end
            start, width = end, len(prompt)
    yield start, len(prompts)


def _refuse(actor: Actor) -> None:
    if actor.device.type not in ("cpu", "cuda"):
        raise UnknownModelError(f"the device {actor.device.type}")
    if not all(parameter.is_floating_point() for parameter in actor.causal_lm.parameters()):
        raise UnknownModelError("quantised weights")
