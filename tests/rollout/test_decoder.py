"""Every decoder against full forward passes of the transformers model over each row's own tokens."""

import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from clearppo.models.attention import torchs_own
from clearppo.models.build import Lora, make_actor
from clearppo.models.loading import load_causal_lm
from clearppo.rollout.decoder import Decoder, OwnDecoder, TransformersDecoder, make_decoder
from tests.tiny import FAMILIES, tiny_causal_lm

PROMPTS = [[5, 9, 31], [7], [40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50], [11, 12], [5, 9, 31, 8]]
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}


class Script:
    """Drives a decoder through random tokens and odd orders, and holds every row's logits to a full forward pass."""

    def __init__(self, decoder: Decoder, model, *, atol: float, autocast: bool = False, vocab: int = 120) -> None:
        self.decoder, self.model, self.atol, self.vocab = decoder, model, atol, vocab
        self.autocast = autocast
        self.rows: list[list[int]] = []
        self.random = random.Random(3)

    def begin(self, rows: int, length: int) -> None:
        self.decoder.begin(rows=rows, length=length)
        self.rows = []

    def start(self, prompts: list[list[int]], copies: list[int]) -> None:
        hidden = self.decoder.start(prompts, copies)
        new = [list(prompt) for prompt, count in zip(prompts, copies, strict=True) for _ in range(count)]
        self.rows += new
        self._check(hidden, new)

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            tokens = [self.random.randrange(self.vocab) for _ in self.rows]
            for row, token in zip(self.rows, tokens, strict=True):
                row.append(token)
            self._check(self.decoder.step(torch.tensor(tokens, device=self.decoder.device)), self.rows)

    def keep(self, rows: list[int]) -> None:
        places = self.decoder.keep(rows)
        assert sorted(places) == sorted(rows)
        self.rows = [self.rows[place] for place in places]

    def _check(self, hidden: torch.Tensor, rows: list[list[int]]) -> None:
        found = self.decoder.logits(hidden)
        assert found.dtype in (torch.float32, torch.float64)
        for row, logits in zip(rows, found, strict=True):
            with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.autocast):
                expected = self.model(torch.tensor([row])).logits[0, -1]
            torch.testing.assert_close(logits.cpu().double(), expected.double(), atol=self.atol, rtol=0)

    def whole(self) -> None:
        """Ragged prompts with copies, rows that leave in odd orders, buffers used twice; then rows that join."""
        self.begin(rows=8, length=20)
        self.start(PROMPTS[:4], [1, 3, 1, 2])
        self.step(2)
        self.keep([6, 0, 2, 3, 5])
        self.step(2)
        self.keep([1, 4])
        self.step()
        self.begin(rows=5, length=16)
        self.start(PROMPTS, [1, 1, 1, 1, 1])
        self.step()
        self.keep([3])
        self.step(2)
        self.keep([])
        self.start([[3, 4, 5]], [2])
        self.step()
        if self.decoder.joins:
            self.joining()

    def joining(self) -> None:
        self.begin(rows=7, length=24)
        self.start(PROMPTS[:2], [2, 1])
        self.step(2)
        self.start(PROMPTS[2:3], [2])
        self.step(2)
        self.keep([4, 0, 2])
        self.start([PROMPTS[3], PROMPTS[4]], [1, 3])
        self.step(2)
        self.keep([2, 6])
        self.start([[99]], [5])
        self.step(3)


def model_of(path: str, dtype: torch.dtype = torch.float32):
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_generic_way_equals_full_forward_passes(tmp_path: Path, family: str, dtype: torch.dtype) -> None:
    path = tiny_causal_lm(tmp_path, family=family, dtype=dtype)
    decoder = TransformersDecoder(make_actor(load_causal_lm(path, dtype=dtype)))
    assert decoder.exact
    assert not decoder.joins
    Script(decoder, model_of(path, dtype), atol=TOLERANCE[dtype]).whole()


@pytest.mark.parametrize("family", [*FAMILIES])
def test_the_generic_bf16_copy_computes_as_autocast_does(tmp_path: Path, family: str) -> None:
    path = tiny_causal_lm(tmp_path, family=family)
    decoder = TransformersDecoder(make_actor(load_causal_lm(path), autocast=True), dtype=torch.bfloat16)
    assert not decoder.exact
    Script(decoder, model_of(path), atol=0.15, autocast=True).whole()
    # One row without padding runs the very operations of autocast over float32 weights, given the same attention.
    decoder.begin(rows=1, length=8)
    with torchs_own():
        hidden = decoder.start([PROMPTS[4]], [1])
    model = AutoModelForCausalLM.from_pretrained(path)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = model(torch.tensor([PROMPTS[4]])).logits[:, -1]
    assert torch.equal(decoder.logits(hidden), expected.float())


def test_the_generic_way_runs_a_state_space_model(tmp_path: Path) -> None:
    path = tiny_causal_lm(tmp_path, family="mamba", state_size=4, num_attention_heads=None, intermediate_size=64)
    decoder = make_decoder(make_actor(load_causal_lm(path)))
    assert isinstance(decoder, TransformersDecoder)
    assert "MambaForCausalLM is not one of" in decoder.why
    Script(decoder, model_of(path), atol=1e-3).whole()


@pytest.mark.parametrize("kind", [TransformersDecoder, OwnDecoder])
def test_a_decoder_takes_over_new_weights_with_adapters(tmp_path: Path, kind) -> None:
    path = tiny_causal_lm(tmp_path)
    actor = make_actor(load_causal_lm(path), lora=Lora(r=2, alpha=4, target_modules="all-linear"))
    decoder = kind(actor)
    with torch.no_grad():
        for name, parameter in actor.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
            elif "norm" in name:
                parameter.add_(0.1)
    decoder.load(actor)
    Script(decoder, actor.model, atol=1e-3).whole()


@pytest.mark.parametrize("kind", [TransformersDecoder, OwnDecoder])
def test_a_bf16_decoder_takes_over_new_weights(tmp_path: Path, kind) -> None:
    actor = make_actor(load_causal_lm(tiny_causal_lm(tmp_path)), autocast=True)
    decoder = kind(actor, dtype=torch.bfloat16)
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter.mul_(1 + 0.3 * torch.randn(parameter.shape))
    with pytest.raises(AssertionError):
        Script(decoder, actor.model, atol=0.3, autocast=True).whole()
    decoder.load(actor)
    Script(decoder, actor.model, atol=0.3, autocast=True).whole()


def test_starting_behind_live_rows_is_refused(tmp_path: Path) -> None:
    decoder = TransformersDecoder(make_actor(load_causal_lm(tiny_causal_lm(tmp_path))))
    decoder.begin(rows=2, length=8)
    decoder.start([[3]], [1])
    with pytest.raises(RuntimeError, match="together only"):
        decoder.start([[4]], [1])
