"""Frozen networks for bf16 autocast: linear layers that are bfloat16 beforehand, and nothing else.

Autocast rounds the weights of a linear layer to bfloat16 at each use. A network that does not learn may as well keep
them so: bit for bit the same results, from about half the memory and without the rounding. Embeddings, norms and
buffers (rotary frequencies) are read in float32 and stay.
"""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from clearppo.models.actor import Actor


def round_linear_layers(network: nn.Module, *, but: nn.Module | None = None) -> None:
    """Round the linear layers of a network that does not learn, in place, all but one. Layers that share their weight
    with an embedding get one of their own."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear | Conv1D) and layer is not but:
            for name, parameter in list(layer.named_parameters(recurse=False)):
                setattr(layer, name, _rounded(parameter))


def own_memory(network: nn.Module) -> None:
    """Give a network that does not learn weights of its own in place of those that lie in a mapped file: as long as one
    of them is used, all of the file that was ever read stays in memory."""
    for parameter in network.parameters():
        parameter.data = parameter.data.clone()


def lean_copy(actor: Actor) -> Actor:
    """A frozen copy that computes what `actor` does now, with rounded linear layers if it computes in bf16 autocast.
    Layers that do not learn anyway (`actor.frozen`) are no copies: they are shared, and so is what is kept of them.

    Whether it really computes the same is checked on a probe; an architecture that reads its weights in some other way
    gets an exact copy.
    """
    if actor.autocast:
        copy = _rounded_copy(actor)
        if torch.equal(_probed(copy), _probed(actor)):
            return copy
    return deepcopy(actor, _shared(actor)).requires_grad_(False).eval()


def _rounded_copy(actor: Actor) -> Actor:
    """Without an exact copy on the way there, which would be the peak of memory."""
    shared = _shared(actor)
    copies: dict[int, Any] = {}
    for layer in actor.modules():
        linear = isinstance(layer, nn.Linear | Conv1D)
        for parameter in layer.parameters(recurse=False) if linear else ():
            if id(parameter) not in shared:
                copies[id(parameter)] = _rounded(parameter)
    rounded = set(copies)
    copy = deepcopy(actor, copies | shared).requires_grad_(False).eval()
    for own, other in zip(actor.modules(), copy.modules(), strict=True):
        if not isinstance(own, nn.Linear | Conv1D):
            for name, parameter in own.named_parameters(recurse=False):
                if id(parameter) in rounded:  # an embedding that is tied to the head
                    setattr(other, name, nn.Parameter(parameter.detach().clone(), requires_grad=False))
    return copy


def _shared(actor: Actor) -> dict[int, Any]:
    return {} if actor.frozen is None else actor.frozen.memo()


def _rounded(parameter: Tensor) -> nn.Parameter:
    return nn.Parameter(parameter.detach().to(torch.bfloat16), requires_grad=False)


@torch.no_grad()
def _probed(actor: Actor) -> Tensor:
    """The logits after four tokens, in the actor's precision."""
    ids = torch.arange(2, 6, device=actor.device)[None] % actor.causal_lm.get_input_embeddings().weight.shape[0]
    with actor.precision():
        return actor.logits(actor.hidden_states(ids, torch.full_like(ids[:, 0], 4)))
