"""A transformer as numbers: how many parameters of which kind, and what one token keeps for the backward pass."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A transformer. `matrices` are the entries of the linear layers of all its layers, `others` all else that is no
    embedding and no head (norms, biases), `embeddings` those of the input tables, `head` those of the output matrix,
    which is the embeddings' own if `tied`; 0 for a classifier.

    `lora` is the number of entries that a rank of 1 adds in all layers. `fused`: models/fused_layers.py serves it.
    `short_attention`: on a CPU in half precision, scores of texts up to 256 tokens are kept (models/attention.py).
    """

    layers: int
    hidden: int
    wide: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    embeddings: int
    matrices: int
    others: int
    head: int
    tied: bool
    lora: int
    fused: bool

    @property
    def parameters(self) -> int:
        """All of them; what is tied counts once."""
        return self.embeddings + self.matrices + self.others + (0 if self.tied else self.head)

    @property
    def attention(self) -> int:
        """Numbers of a token's queries."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Numbers of a token's keys, or of its values."""
        return self.kv_heads * self.head_dim

    def upper(self, frozen: int) -> float:
        """The share of the layers that stands above the lowest `frozen` ones."""
        return 1 - frozen / self.layers

    def classifier(self) -> "Shape":
        """The same with a head of one output, which is nothing."""
        return replace(self, head=0, tied=False)


def kept_numbers(*, hidden: int, attention: int, keys: int, wide: int, fused: bool) -> tuple[int, int]:
    """Numbers that one token keeps in a layer between forward and backward pass: those of the residual stream, in the
    precision of the weights, and those that products of matrices read, in theirs.

    A Llama layer of transformers: the inputs of both norms; what they feed, queries, keys, values, the attention's
    result, once more the states that products read; gate, up, their activation and product. Where
    models/fused_layers.py serves: the inputs of both norms; their results, queries, keys, values and the attention's
    result; gate and up.
    """
    stream = 2 * hidden
    read = 2 * hidden + 2 * attention + 2 * keys
    return (stream, read + 2 * wide) if fused else (stream, read + 2 * hidden + 4 * wide)


def layer_bytes(shape: Shape, *, length: int, stream: int, work: int, scores: bool) -> int:
    """Bytes that one token of a text of `length` tokens keeps in a layer: `stream` and `work` are the bytes of a number
    of the residual stream and of a product. `scores`: attention keeps its weights, and values of its own; elsewhere
    the values of fused layers are a view that keeps the queries and keys beside them, too."""
    states, read = kept_numbers(
        hidden=shape.hidden, attention=shape.attention, keys=shape.keys, wide=shape.wide, fused=shape.fused
    )
    beside = shape.attention + shape.keys if shape.fused else 0
    # transformers' norms keep their states in float32.
    stream = stream if shape.fused else max(stream, 4)
    return states * stream + (read + (shape.heads * length if scores else beside)) * work


def token_bytes(
    shape: Shape, *, length: int, stream: int, work: int, scores: bool = False, checkpointing: bool = False,
    frozen: int = 0,
) -> int:  # fmt: skip
    """The same of all layers that gradients pass. With checkpointing the input of each layer, and one whole layer."""
    layers, one = shape.layers - frozen, layer_bytes(shape, length=length, stream=stream, work=work, scores=scores)
    if checkpointing:
        return layers * shape.hidden * stream + one
    return layers * one
