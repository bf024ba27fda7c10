"""Our own decoder in every family that it knows: against transformers, and its fast ways against the plain ones."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from clearppo.models.build import make_actor
from clearppo.models.loading import load_causal_lm
from clearppo.rollout.decoder import OwnDecoder, TransformersDecoder, linear, make_decoder, own
from clearppo.rollout.decoder.attention import step_attention, visible
from tests.rollout.test_decoder import PROMPTS, TOLERANCE, Script, model_of
from tests.tiny import tiny_causal_lm

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 32}
SLIDING = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}

# name: (family, more of the configuration)
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, no groups": ("llama", {"num_key_value_heads": 4}),
    "llama, one key head, biases, own head size": (
        "llama",
        {"num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True, "head_dim": 12},
    ),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama 3": ("llama", {"rope_parameters": LLAMA3}),
    "yarn": ("llama", {"rope_parameters": YARN}),
    "linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0}}),
    "qwen2": ("qwen2", {}),
    "qwen2, half of it sliding": ("qwen2", SLIDING),
    "qwen3": ("qwen3", {"num_key_value_heads": 2, "head_dim": 16}),
    "mistral": ("mistral", {}),
    "mistral, no window": ("mistral", {"sliding_window": None}),
    "gpt2": ("gpt2", {}),
    "gpt2, scaled by layer": ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "n_inner": 40}),
    "gpt_neox": ("gpt_neox", {}),
    "gpt_neox, one after the other": ("gpt_neox", {"use_parallel_residual": False, "attention_bias": False}),
    "gpt_neox, all dimensions turn": (
        "gpt_neox",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 1.0}},
    ),
}


def built(tmp_path: Path, kind: str, dtype: torch.dtype = torch.float32, *, autocast: bool = False):
    """The path of a tiny model, and an actor around it whose biases and norms are not what they start as."""
    family, more = KINDS[kind]
    path = tiny_causal_lm(tmp_path, family=family, **more)
    model = load_causal_lm(path)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape))
    model.save_pretrained(path)
    return path, make_actor(load_causal_lm(path, dtype=dtype), autocast=autocast)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_every_family_equals_full_forward_passes(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    path, actor = built(tmp_path, kind, dtype)
    decoder = make_decoder(actor)
    assert isinstance(decoder, OwnDecoder), decoder.why
    assert decoder.exact
    assert decoder.joins
    assert decoder.packed == (dtype == torch.float32)
    # Qwen3's norm of a head is computed in float32 always, here over a head's dimensions in another order.
    atol = 2e-5 if (kind, dtype) == ("qwen3", torch.float64) else TOLERANCE[dtype]
    Script(decoder, model_of(path, dtype), atol=atol).whole()


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_rounds_where_autocast_rounds(tmp_path: Path, kind: str) -> None:
    path, actor = built(tmp_path, kind, autocast=True)
    decoder = make_decoder(actor, dtype=torch.bfloat16)
    assert isinstance(decoder, OwnDecoder), decoder.why
    assert not decoder.exact
    # Logits of up to 4 or so are each rounded by up to 0.008, and so is everything on the way to them.
    Script(decoder, model_of(path), atol=0.3, autocast=True).whole()


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "gpt_neox"])
def test_pure_bfloat16_policies_are_decoded_in_bfloat16(tmp_path: Path, kind: str) -> None:
    path, actor = built(tmp_path, kind, torch.bfloat16)
    decoder = make_decoder(actor)
    assert isinstance(decoder, OwnDecoder), decoder.why
    assert not decoder.exact
    Script(decoder, model_of(path, torch.bfloat16), atol=0.35).whole()


def test_packed_and_plain_linear_layers_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, actor = built(tmp_path, "qwen2")
    for dtype in (torch.float32, torch.bfloat16):
        logits = []
        for packed in (True, False):
            monkeypatch.setattr(own, "can_pack", lambda *_, packed=packed: packed)
            decoder = OwnDecoder(actor, dtype=dtype)
            assert decoder.packed == packed
            assert ("packed" in decoder.why) == packed
            decoder.begin(rows=5, length=16)
            decoder.start(PROMPTS, [1] * 5)
            logits.append(decoder.logits(decoder.step(torch.arange(5))))
        torch.testing.assert_close(*logits, atol=0.1 if dtype == torch.bfloat16 else 1e-4, rtol=0)


@pytest.mark.parametrize("broken", ["gone", "wrong"])
def test_packing_that_fails_its_probe_is_not_used(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    def other(x, weight, bias):
        if broken == "gone":
            raise AttributeError("_linear_pointwise")
        return torch.nn.functional.linear(x, weight.to_dense(), bias) * 1.5

    monkeypatch.setattr(linear, "_packed_linear", other)
    linear._probe.cache_clear()
    assert not linear.can_pack(torch.float32, torch.device("cpu"))
    linear._probe.cache_clear()
    assert not linear.can_pack(torch.float64, torch.device("cpu"))
    assert not linear.can_pack(torch.float32, torch.device("meta"))


def test_a_model_that_a_probe_refutes_goes_the_generic_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, actor = built(tmp_path, "llama")
    real = own.blueprint_of
    monkeypatch.setattr(own, "blueprint_of", lambda model: replace(real(model), eps=0.5))
    decoder = make_decoder(actor)
    assert isinstance(decoder, TransformersDecoder)
    assert "its logits would differ by" in decoder.why


@pytest.mark.parametrize(
    ("kind", "more", "why"),
    [
        ("llama", {"hidden_act": "quick_gelu"}, "the activation quick_gelu"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10.0, "factor": 2.0}}, "type dynamic"),
        ("gpt2", {"activation_function": "tanh"}, "the activation tanh"),
        ("gemma2", {"num_key_value_heads": 2, "head_dim": 8}, "Gemma2ForCausalLM is not one of"),
    ],
)
def test_what_is_not_known_goes_the_generic_way(tmp_path: Path, kind: str, more: dict[str, Any], why: str) -> None:
    path = tiny_causal_lm(tmp_path, family=kind, **more)
    decoder = make_decoder(make_actor(load_causal_lm(path)))
    assert isinstance(decoder, TransformersDecoder)
    assert why in decoder.why
    Script(decoder, model_of(path), atol=1e-3).whole()


def test_bf16_attention_one_by_one_equals_float64() -> None:
    """The products that replace PyTorch's kernel on a CPU, held to attention written out in float64."""
    random = torch.Generator().manual_seed(1)
    queries = torch.randn(5, 2, 3, 8, generator=random).bfloat16()
    keys, values = torch.randn(2, 5, 2, 33, 8, generator=random).bfloat16()
    ends = torch.tensor([0, 3, 32, 31, 15])
    for window in (None, 4):
        mask = visible(ends, 33, window, torch.float32)
        found = step_attention(queries, keys, values, mask, 0.3)
        for row, end in enumerate(ends.tolist()):
            seen = slice(0 if window is None else max(0, end - window + 1), end + 1)
            weights = (queries[row].double() @ keys[row, :, seen].double().mT * 0.3).softmax(-1)
            torch.testing.assert_close(found[row].double(), weights @ values[row, :, seen].double(), atol=0.02, rtol=0)
    whole = step_attention(queries, keys, values, None, 0.3)
    expected = step_attention(queries.double(), keys.double(), values.double(), None, 0.3)
    torch.testing.assert_close(whole.double(), expected, atol=0.02, rtol=0)


def test_a_prompts_portions_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, actor = built(tmp_path, "mistral", torch.float64)
    for cells in (1, 12, 30):
        monkeypatch.setattr(own, "PREFILL_CELLS", cells)
        Script(OwnDecoder(actor), model_of(path, torch.float64), atol=1e-10).whole()


def test_room_is_kept_and_its_limits_are_held(tmp_path: Path) -> None:
    _, actor = built(tmp_path, "llama")
    decoder = OwnDecoder(actor)
    decoder.begin(rows=4, length=60)
    storage = decoder._storage.data_ptr()
    for rows, length in ((2, 20), (4, 64), (1, 256)):
        decoder.begin(rows=rows, length=length)
        assert decoder._storage.data_ptr() == storage
    decoder.begin(rows=2, length=64)
    decoder.start([[1]], [1])
    with pytest.raises(RuntimeError, match=r"1 \+ 2 rows"):
        decoder.start([[1]], [2])
    decoder.begin(rows=2, length=64)
    decoder.start([[3] * 63], [1])
    decoder.step(torch.tensor([1]))
    with pytest.raises(RuntimeError, match="a row has filled the 64 tokens"):
        decoder.step(torch.tensor([1]))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral"])
def test_steps_of_fixed_sizes_equal_full_forward_passes(tmp_path: Path, kind: str) -> None:
    """What CUDA graphs record: more rows and columns than there are, the rows behind the live ones writing too."""
    path, actor = built(tmp_path, kind, torch.float64)
    decoder = OwnDecoder(actor)
    seen = set()

    def run(rows: int, columns: int) -> torch.Tensor:
        seen.add((rows, columns))
        return decoder._step(rows, columns)

    decoder.begin(rows=8, length=130)
    decoder._run = run
    decoder.begin = lambda **_: decoder._forget()  # as on a GPU, where room that is large enough is kept
    Script(decoder, model_of(path, torch.float64), atol=1e-10).whole()
    assert {rows for rows, _ in seen} == {1, 2, 4, 8}
    assert {columns for _, columns in seen} == {64}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "gpt_neox", "mistral"])
def test_cuda_graphs_equal_full_forward_passes(tmp_path: Path, kind: str) -> None:
    path, actor = built(tmp_path, kind, torch.float64)
    decoder = make_decoder(actor.to("cuda"))
    assert isinstance(decoder, OwnDecoder), decoder.why
    assert not decoder.packed
    assert decoder._run is not None
    model = model_of(path, torch.float64)
    Script(decoder, model, atol=1e-6).whole()
    with torch.no_grad():
        for mine, theirs in zip(actor.parameters(), model.parameters(), strict=True):
            theirs.mul_(1.1)
            mine.copy_(theirs)
    decoder.load(actor)  # the recorded graphs read the new weights
    Script(decoder, model, atol=1e-6).whole()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_cuda_bf16_is_near_autocast(tmp_path: Path, kind: str) -> None:
    path, actor = built(tmp_path, kind, autocast=True)
    decoder = make_decoder(actor.to("cuda"), dtype=torch.bfloat16)
    assert isinstance(decoder, OwnDecoder), decoder.why
    Script(decoder, model_of(path), atol=0.3, autocast=True).whole()
