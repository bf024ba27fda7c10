"""Decoders: how the sampler turns tokens into next-token logits, fast. `make_decoder` chooses one for a model."""

import torch

from clearppo.models.actor import Actor
from clearppo.rollout.decoder.base import Decoder
from clearppo.rollout.decoder.families import UnknownModelError
from clearppo.rollout.decoder.generic import TransformersDecoder
from clearppo.rollout.decoder.own import OwnDecoder
from clearppo.rollout.decoder.probe import difference

__all__ = ["Decoder", "OwnDecoder", "TransformersDecoder", "make_decoder"]


def make_decoder(actor: Actor, *, dtype: torch.dtype | None = None) -> Decoder:
    """The fastest decoder that computes what `actor` computes.

    `dtype` None decodes in the policy's own precision; bfloat16 keeps a copy that computes as bf16 autocast over the
    actor's weights does. Our own decoder is taken for the families that it knows, if a probe agrees with the model;
    the decoder's `why` says what was chosen and, for transformers' way, what stood against our own.
    """
    try:
        own = OwnDecoder(actor, dtype=dtype)
        reason = difference(own, actor, work=own.work)
    except UnknownModelError as error:
        reason = str(error)
    else:
        if reason is None:
            return own
    return TransformersDecoder(actor, dtype=dtype, why=f"transformers' own model ({reason})")
