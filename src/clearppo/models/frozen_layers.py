"""Lower layers that do not learn: what they make of a text is computed once and kept.

The frozen reference shares them with the policy, so of it only the upper layers are a copy (trlx calls this a hydra).
"""

from collections import OrderedDict
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from clearppo.errors import ConfigError, ModelError
from clearppo.models.loading import first_line


@dataclass(frozen=True, kw_only=True)
class Freeze:
    """How many of a network's lowest layers do not learn, and of how many rows what they give is kept."""

    layers: int
    rows: int


class FrozenLayers:
    """A transformers backbone whose lowest `freeze.layers` layers, and all that stands before them, do not learn.

    Their output for a row of tokens never changes, so it is kept under the row's token ids, for the `freeze.rows` rows
    that were read last: hidden size x 4 bytes a token in float32 or autocast. Whichever pass reads a row first pays for
    it; every later one, of learning or of a reference that shares the layers, starts from there.

    The frozen parameters, `parameters`, ask for no gradient from here on. An output head that is tied to the input
    embedding is the same matrix, and so is frozen too.

    Raises ConfigError unless 0 < layers < number of layers; ModelError if the backbone cannot be run in two halves,
    which is checked once on a probe: they must give exactly what the whole gives.
    """

    def __init__(self, backbone: Any, freeze: Freeze) -> None:
        count = freeze.layers
        path, layers = _layer_list(backbone)
        if not 0 < count < len(layers):
            few = len(layers) - 1
            mend = f"Use --freeze_layers {few} or less." if few else "Leave --freeze_layers out."
            raise ConfigError(
                f"freeze_layers = {count}, and {backbone.config._name_or_path or 'the model'} has {len(layers)} "
                f"layer{'s' * (few > 0)}, of which one at least must learn. {mend}"
            )
        self.freeze = freeze
        self.n_layers = len(layers)
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()  # the row that was read last stands last
        below, above = list(layers[:count]), list(layers[count:])
        self._tap, self._entry = _Tap(below[-1]), _Entry()
        # The lists keep their length, because transformers looks up a layer's kind by its place.
        self._lower = _with_layers(backbone, path, [*below[:-1], self._tap, *(_Pass() for _ in above)])
        self._upper = _with_layers(backbone, path, [*(_Pass() for _ in below[:-1]), self._entry, *above])
        self._check(backbone)
        self.parameters = self._frozen(backbone, below, above)
        for parameter in self.parameters:
            parameter.requires_grad_(False)

    def states(self, ids: Int[Tensor, "B L"], lengths: Int[Tensor, " B"]) -> Float[Tensor, "B L H"]:
        """The backbone's last hidden states of rows of `lengths` tokens, padded on the right with anything.

        Gradients reach the upper layers only. What stands behind a row's end must not be read.
        """
        return self._above(self._below(ids, lengths))

    def forget(self) -> None:
        """Keep nothing. What is kept may differ in its last bits from what another batch would make of the same row,
        so a run that can be resumed starts each iteration with nothing."""
        self._kept.clear()

    def memo(self) -> dict[int, Any]:
        """What a deepcopy shares with its original when it is given this: the frozen weights, and what is kept."""
        return {id(self._kept): self._kept} | {id(parameter): parameter for parameter in self.parameters}

    def names_in(self, backbone: nn.Module) -> list[str]:
        """The names of the backbone's modules that have frozen weights of their own; adapters have no place there."""
        frozen = {id(parameter) for parameter in self.parameters}
        return [
            name
            for name, module in backbone.named_modules()
            if any(id(parameter) in frozen for parameter in module.parameters(recurse=False))
        ]

    @torch.no_grad()
    def _below(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """The output of the frozen layers [B, L, H], kept or computed; 0 behind a row's end."""
        tokens = torch.cat([lengths.unsqueeze(1), ids], dim=1).cpu().numpy()  # one transfer
        keys = [row[1 : 1 + row[0]].tobytes() for row in tokens]
        found = {key: self._kept[key] for key in keys if key in self._kept}
        missing = list({key: row for row, key in enumerate(keys) if key not in found}.values())
        if missing:
            sizes = tokens[missing, 0].tolist()
            fresh = self._run_lower(ids[torch.tensor(missing, device=ids.device), : max(sizes)])
            # Clones, because a view would keep the whole batch alive, padding and all.
            found |= {
                keys[row]: fresh[i, :size].clone() for i, (row, size) in enumerate(zip(missing, sizes, strict=True))
            }
        for key in keys:
            self._kept[key] = found[key]
            self._kept.move_to_end(key)
        while len(self._kept) > self.freeze.rows:
            self._kept.popitem(last=False)
        hidden = pad_sequence([found[key] for key in keys], batch_first=True)
        return nn.functional.pad(hidden, (0, 0, 0, ids.shape[1] - hidden.shape[1]))

    def _run_lower(self, ids: Tensor) -> Tensor:
        # Embedded here, because given token ids without a mask transformers warns of each that may be padding.
        self._lower(inputs_embeds=self._lower.get_input_embeddings()(ids), use_cache=False)
        return self._tap.taken()

    def _above(self, hidden: Tensor) -> Tensor:
        self._entry.hidden = hidden
        try:
            # As embeddings they only say how many rows and columns there are: the entry puts them where they belong.
            return self._upper(inputs_embeds=hidden, use_cache=False).last_hidden_state
        finally:
            self._entry.hidden = None

    @torch.no_grad()
    def _check(self, backbone: Any) -> None:
        probe = _probe(backbone)
        whole = backbone(input_ids=probe, use_cache=False).last_hidden_state
        try:
            hidden = self._run_lower(probe)
            self._run_lower(probe.flip(0))  # another text in between, in case that layers talk to each other
            halves = self._above(hidden)
        except Exception as error:
            raise _cannot_be_cut(backbone, first_line(error)) from error
        if not torch.equal(whole, halves):
            raise _cannot_be_cut(backbone, "the two halves give another result than the whole")

    def _frozen(self, backbone: Any, below: list[nn.Module], above: list[nn.Module]) -> list[nn.Parameter]:
        """The parameters of the layers below, and of those outside all layers the ones that nothing above reads."""
        lower = _parameters(below)
        upper = _parameters(above)
        if lower.keys() & upper.keys():
            raise _cannot_be_cut(backbone, "its layers share their weights")
        outside = [p for p in backbone.parameters() if id(p) not in lower and id(p) not in upper]
        learns = [parameter.requires_grad for parameter in outside]
        with torch.no_grad():
            hidden = self._run_lower(_probe(backbone))
        with torch.enable_grad():
            for parameter in outside:
                parameter.requires_grad_(True)
            gradients = torch.autograd.grad(self._above(hidden).sum(), outside, allow_unused=True)
        for parameter, learned in zip(outside, learns, strict=True):
            parameter.requires_grad_(learned)
        unread = [parameter for parameter, gradient in zip(outside, gradients, strict=True) if gradient is None]
        return [*lower.values(), *unread]


class _Pass(nn.Module):
    """In the place of a layer that is not run."""

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden


class _Tap(nn.Module):
    """A layer whose output is wanted."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self._output: Tensor | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        output = self._output = self.layer(*args, **kwargs)
        return output

    def taken(self) -> Tensor:
        """The output of the last forward pass, once."""
        output, self._output = self._output, None
        if not isinstance(output, Tensor):
            raise TypeError("a layer's output is no tensor")
        return output


class _Entry(nn.Module):
    """In the place of the uppermost frozen layer: what it gave before."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden: Tensor | None = None

    def forward(self, *_: Any, **__: Any) -> Tensor:
        assert self.hidden is not None
        return self.hidden


def _layer_list(backbone: Any) -> tuple[str, nn.ModuleList]:
    """The list of the backbone's layers, and its dotted name: the outermost of as many parts as there are layers."""
    count = getattr(backbone.config.get_text_config(), "num_hidden_layers", None)
    for name, part in backbone.named_modules():
        if isinstance(part, nn.ModuleList) and len(part) == count:
            return name, part
    raise _cannot_be_cut(backbone, f"it has no list of {count} layers")


def _with_layers(backbone: nn.Module, path: str, layers: list[nn.Module]) -> Any:
    """The backbone with other layers: a shell around the same parts, so that not one weight stands twice."""
    name, _, rest = path.partition(".")
    shell = copy(backbone)
    child = nn.ModuleList(layers) if not rest else _with_layers(backbone.get_submodule(name), rest, layers)
    shell._modules = {**backbone._modules, name: child}  # a copied module holds the original's own dict
    return shell


def _parameters(modules: list[nn.Module]) -> dict[int, nn.Parameter]:
    return {id(parameter): parameter for module in modules for parameter in module.parameters()}


def _probe(backbone: Any) -> Int[Tensor, "2 5"]:
    embedding = backbone.get_input_embeddings().weight
    return torch.arange(2, 12, device=embedding.device).view(2, 5) % embedding.shape[0]


def _cannot_be_cut(backbone: Any, why: str) -> ModelError:
    return ModelError(
        f"--freeze_layers cannot be used with {type(backbone).__name__}: {why}. Leave it out, or use a decoder such as "
        "those of Llama, Qwen, Mistral, GPT-2 or Pythia."
    )
