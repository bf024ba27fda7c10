"""Frozen lower layers: the same numbers and gradients as the whole model, from what was computed once."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from transformers import AlbertConfig, AlbertModel, AutoModelForCausalLM

from clearppo.errors import ConfigError, ModelError
from clearppo.models.build import prepare_network
from clearppo.models.frozen_layers import Freeze, FrozenLayers
from tests.tiny import FAMILIES, tiny_config, tiny_tokenizer

SIZES = (4, 9, 6)
MORE = {
    "qwen3": {"head_dim": 8, "num_key_value_heads": 2},
    "gemma2": {"head_dim": 8, "num_key_value_heads": 2},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0},
}


def backbone_of(family: str, layers: int = 3, dtype: torch.dtype = torch.float64) -> Any:
    torch.manual_seed(0)
    config = tiny_config(family, tiny_tokenizer(), num_hidden_layers=layers, **MORE.get(family, {}))
    model = AutoModelForCausalLM.from_config(config)
    return getattr(model, model.base_model_prefix).to(dtype).eval()


def rows(sizes: tuple[int, ...] = SIZES, width: int | None = None, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded rows; what stands behind their ends is another token for every width."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.full((len(sizes), width or max(sizes)), 7 + (width or 0) % 5)
    for row, size in enumerate(sizes):
        ids[row, :size] = torch.randint(5, 100, (size,), generator=generator)
    return ids, torch.tensor(sizes)


def real(states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The states of the rows' own tokens, one after another."""
    return torch.cat([row[:size] for row, size in zip(states, lengths.tolist(), strict=True)])


def one_by_one(backbone: Any, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The last hidden states of each row alone, by the whole backbone."""
    found = [backbone(ids[i : i + 1, :n]).last_hidden_state[0] for i, n in enumerate(lengths.tolist())]
    return torch.cat(found)


class Counted:
    """How many rows pass through a layer."""

    def __init__(self, layer: torch.nn.Module) -> None:
        self.rows = 0
        layer.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.rows += len(args[0] if args else kwargs["hidden_states"])


def layers_of(backbone: Any) -> Any:
    return backbone.h if hasattr(backbone, "h") else backbone.layers


@pytest.mark.parametrize("family", [*FAMILIES, "qwen3", "gemma2", "opt"])
@pytest.mark.parametrize("count", [1, 2])
def test_the_two_halves_are_the_whole(family: str, count: int) -> None:
    backbone = backbone_of(family)
    frozen = FrozenLayers(backbone, Freeze(layers=count, rows=8))
    ids, lengths = rows(width=11)
    with torch.no_grad():
        expected = one_by_one(backbone, ids, lengths)
        first = real(frozen.states(ids, lengths), lengths)
        again = real(frozen.states(ids, lengths), lengths)
    torch.testing.assert_close(first, expected, atol=1e-11, rtol=1e-9)
    assert torch.equal(first, again)


@pytest.mark.parametrize("family", [*FAMILIES, "opt"])
def test_gradients_are_those_of_the_whole_and_stop_at_the_frozen_layers(family: str) -> None:
    backbone = backbone_of(family)
    plain = deepcopy(backbone)
    frozen = FrozenLayers(backbone, Freeze(layers=2, rows=8))
    ids, lengths = rows()
    weights = torch.randn(sum(SIZES), 32, dtype=torch.float64)
    (one_by_one(plain, ids, lengths) * weights).sum().backward()
    for _ in range(2):  # computed, then kept
        backbone.zero_grad()
        (real(frozen.states(ids, lengths), lengths) * weights).sum().backward()
        learned = 0
        for (name, parameter), whole in zip(backbone.named_parameters(), plain.parameters(), strict=True):
            if not parameter.requires_grad:
                assert parameter.grad is None, name
                continue
            assert parameter.grad is not None, name
            torch.testing.assert_close(parameter.grad, whole.grad, atol=1e-9, rtol=1e-8)
            learned += 1
        assert learned > 2


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_below_is_frozen_and_nothing_above(family: str) -> None:
    backbone = backbone_of(family)
    frozen = FrozenLayers(backbone, Freeze(layers=2, rows=8))
    learning = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    last = {name for name, _ in backbone.named_parameters() if name.startswith(("layers.2.", "h.2."))}
    norm = {name for name, _ in backbone.named_parameters() if name.startswith(("norm.", "ln_f.", "final_layer_norm."))}
    assert learning == last | norm
    assert len(frozen.parameters) == len(list(backbone.parameters())) - len(learning)
    names = frozen.names_in(backbone)
    assert any(name.startswith(("layers.1.", "h.1.")) for name in names)
    assert not any(name.startswith(("layers.2.", "h.2.", "norm", "ln_f", "final_layer_norm")) for name in names)
    assert {"wte", "wpe"} <= set(names) or {"embed_tokens"} <= set(names) or {"embed_in"} <= set(names)


def test_what_did_not_learn_before_does_not_learn_now() -> None:
    backbone = backbone_of("llama")
    backbone.norm.weight.requires_grad_(False)
    FrozenLayers(backbone, Freeze(layers=1, rows=8))
    assert not backbone.norm.weight.requires_grad
    assert backbone.layers[2].mlp.up_proj.weight.requires_grad


def test_a_row_is_computed_once_whatever_its_neighbours_order_and_padding() -> None:
    backbone = backbone_of("llama")
    frozen = FrozenLayers(backbone, Freeze(layers=1, rows=3))
    lower, upper = Counted(layers_of(backbone)[0]), Counted(layers_of(backbone)[1])
    with torch.no_grad():
        ids, lengths = rows()
        expected = one_by_one(backbone, ids, lengths)
        lower.rows = upper.rows = 0
        frozen.states(ids, lengths)
        assert (lower.rows, upper.rows) == (3, 3)
        wider, _ = rows(width=14)
        order = torch.tensor([2, 0, 1])
        moved = frozen.states(wider[order], lengths[order])
        assert moved.shape == (3, 14, 32)
        assert (lower.rows, upper.rows) == (3, 6)
        found = real(moved[torch.argsort(order)], lengths)
        torch.testing.assert_close(found, expected, atol=1e-11, rtol=1e-9)
        frozen.states(ids[1:2], lengths[1:2])
        assert lower.rows == 3


def test_the_same_row_twice_in_a_batch_is_computed_once_and_so_is_each_prefix_alone() -> None:
    backbone = backbone_of("llama")
    frozen = FrozenLayers(backbone, Freeze(layers=1, rows=8))
    lower = Counted(layers_of(backbone)[0])
    ids, _ = rows((6,))
    lengths = torch.tensor([6, 4, 6])
    with torch.no_grad():
        expected = one_by_one(backbone, ids.repeat(3, 1), lengths)
        lower.rows = 0
        found = real(frozen.states(ids.repeat(3, 1), lengths), lengths)
    assert lower.rows == 2
    torch.testing.assert_close(found, expected, atol=1e-11, rtol=1e-9)


def test_only_the_rows_read_last_are_kept() -> None:
    backbone = backbone_of("llama")
    frozen = FrozenLayers(backbone, Freeze(layers=1, rows=3))
    lower = Counted(layers_of(backbone)[0])
    old, new = rows(), rows((5, 5), seed=1)
    with torch.no_grad():
        frozen.states(*old)
        frozen.states(*new)
        assert lower.rows == 5
        frozen.states(old[0][2:], old[1][2:])  # the third of the old rows is still there
        assert lower.rows == 5
        newer = rows((5, 5), seed=3)
        frozen.states(*newer)
        frozen.states(old[0][2:], old[1][2:])  # and again, because it was read after the new ones
        assert lower.rows == 7
        frozen.states(old[0][:1], old[1][:1])
        assert lower.rows == 8
        more = rows((3, 4, 5, 6, 7), seed=2)  # more rows than are kept, at once
        torch.testing.assert_close(
            real(frozen.states(*more), more[1]), one_by_one(backbone, *more), atol=1e-11, rtol=1e-9
        )


def test_autocast_gives_what_it_gives_without_the_halves() -> None:
    backbone = backbone_of("llama", dtype=torch.float32)
    frozen = FrozenLayers(backbone, Freeze(layers=2, rows=4))
    ids, lengths = rows((7, 7, 7))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        whole = backbone(ids).last_hidden_state
        assert torch.equal(frozen.states(ids, lengths), whole)
        assert torch.equal(frozen.states(ids, lengths), whole)


def test_checkpointed_activations_change_nothing() -> None:
    ids, lengths = rows()
    gradients = []
    for checkpointing in (False, True):
        backbone = backbone_of("llama").train()
        if checkpointing:
            prepare_network(backbone, gradient_checkpointing=True)
        backbone.eval()
        frozen = FrozenLayers(backbone, Freeze(layers=1, rows=4))
        backbone.train()
        real(frozen.states(ids, lengths), lengths).square().sum().backward()
        gradients.append([parameter.grad for parameter in backbone.parameters() if parameter.requires_grad])
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-12, rtol=1e-10)


def test_a_copy_shares_the_frozen_weights_and_what_is_kept_of_them() -> None:
    holder = torch.nn.Module()
    holder.backbone = backbone_of("gpt2")
    holder.frozen = FrozenLayers(holder.backbone, Freeze(layers=2, rows=4))
    lower = Counted(layers_of(holder.backbone)[0])
    ids, lengths = rows()
    with torch.no_grad():
        start = holder.frozen.states(ids, lengths)
        copied = deepcopy(holder, holder.frozen.memo())
        for parameter in holder.backbone.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
        assert torch.equal(copied.frozen.states(ids, lengths), start)
        assert not torch.equal(holder.frozen.states(ids, lengths), start)
    assert lower.rows == 3
    ours = {id(parameter) for parameter in holder.backbone.parameters()}
    shared = [parameter for parameter in copied.backbone.parameters() if id(parameter) in ours]
    assert len(shared) == len(holder.frozen.parameters)


@pytest.mark.parametrize("count", [3, 4])
def test_one_layer_at_least_must_learn(count: int) -> None:
    with pytest.raises(ConfigError, match=r"has 3 layers.*--freeze_layers 2 or less"):
        FrozenLayers(backbone_of("llama"), Freeze(layers=count, rows=4))


def test_layers_that_share_their_weights_cannot_be_cut() -> None:
    backbone = backbone_of("llama")
    backbone.layers[2].mlp = backbone.layers[0].mlp
    with pytest.raises(ModelError, match="share their weights"):
        FrozenLayers(backbone, Freeze(layers=1, rows=4))


def test_layers_that_read_more_than_the_layer_below_cannot_be_cut() -> None:
    backbone = backbone_of("llama")
    seen: dict[str, torch.Tensor] = {}
    backbone.layers[0].register_forward_hook(lambda *args: seen.update(first=args[2]))
    backbone.layers[2].register_forward_hook(lambda *args: args[2] + seen.pop("first"))
    with pytest.raises(ModelError, match=r"--freeze_layers cannot be used with LlamaModel: "):
        FrozenLayers(backbone, Freeze(layers=1, rows=4))


def test_a_model_without_a_list_of_layers_cannot_be_cut() -> None:
    config = AlbertConfig(
        vocab_size=50, embedding_size=8, hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=8
    )
    with pytest.raises(ModelError, match="no list of 3 layers"):
        FrozenLayers(AlbertModel(config).eval(), Freeze(layers=1, rows=4))
