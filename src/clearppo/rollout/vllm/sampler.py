"""A sampler whose answers are written by vLLM, on weights that are handed to it after every update."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from clearppo.batch import FinishReason, Prompts, Sequences
from clearppo.engines.base import Engine as Processes
from clearppo.models.actor import Actor, plain_shapes, plain_weights
from clearppo.models.policy import Policy
from clearppo.rollout.merge import merged
from clearppo.rollout.sampler import Generation, SamplingSettings, TextDecoder
from clearppo.rollout.vllm.engine import Weights
from clearppo.rollout.vllm.engines import Engines, Expected
from clearppo.rollout.vllm.protocol import Answer, read, request, row_seed

Order = tuple[list[list[int]], list[int]]
PROBE = 24
"""Tokens on which an engine is compared with the learner after every handing over."""


class VLLMSampler:
    """Samples by way of vLLM. Its numbers are near the learner's and never exact, and it knows no values.

    `log_probs` are of the distribution that was drawn from. vLLM gives no others, so `policy_log_probs` are the same
    numbers where nothing is cut, and None where top_k or top_p cut: those over the whole vocabulary are not known.

    A row's seed depends on `seed` and on how many rows were `answered` before it. Still an answer may be another one
    when it is asked for again: vLLM's sums depend on what else it computes at the time, and so on its version, its
    machine and the number of engines.

    Of several `processes` the first asks for all (`engines` is None on the others), or, if each has engines of its
    `own`, each for its share of the rows.
    """

    def __init__(
        self,
        policy: Policy,
        tokenizer: TextDecoder,
        settings: SamplingSettings,
        engines: Engines | None,
        *,
        seed: int,
        processes: Processes,
        own: bool = False,
    ) -> None:
        self.settings = settings
        self.tokenizer = tokenizer
        self.engines = engines
        self.seed = seed
        self.answered = 0
        self.version = 0
        self.has_weights = False
        self._actor = policy.actor
        self._processes = processes
        self._own = own

    def load(self, policy: Policy, version: int) -> None:
        """Hand the policy's present weights to all engines, adapters merged; all processes must take part.

        Raises EngineLost if no engine is left, ModelError if one does not take them.
        """
        self.version, self._actor = version, policy.actor
        self._hand_over()

    def state(self) -> dict[str, Any]:
        """See Sampler. What vLLM itself keeps is not in it."""
        return {"seed": self.seed, "answered": self.answered, "version": self.version, "decoder": {}}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See Sampler."""
        self.seed, self.answered, self.version = state["seed"], state["answered"], state["version"]

    @torch.no_grad()
    def generate(self, prompts: Prompts) -> Generation:
        """One answer a prompt, in the order of the prompts."""
        order, processes = self.order(prompts), self._processes
        if not self._own or processes.world == 1:
            return self.read(processes.share(lambda: self.ask(order)))
        tokens, seeds = order
        mine = processes.deal([len(text) + self.settings.max_tokens for text in tokens])
        rows = mine or [0]  # whoever has no row asks for one for company, and knows the types of what is summed
        answers = self._ask([tokens[row] for row in rows], [seeds[row] for row in rows])
        return merged(self._generation(answers), mine, len(prompts), processes, self._text)

    def order(self, prompts: Prompts) -> Order:
        """What to ask for, of all prompts: their tokens, and a seed for each."""
        if not self.has_weights:
            self._hand_over()
        first, self.answered = self.answered, self.answered + len(prompts)
        seeds = [row_seed(self.seed, row) for row in range(first, self.answered)]
        return [ids[keeps].tolist() for ids, keeps in zip(prompts.ids, prompts.mask, strict=True)], seeds

    def ask(self, order: Order) -> list[dict[str, Any]]:
        """The answers as plain values, on the process that has engines; in any thread, and without the others."""
        return [vars(answer) for answer in self._ask(*order)]

    def read(self, answers: Sequence[Mapping[str, Any]]) -> Generation:
        """The same as a generation, on every process."""
        return self._generation([Answer(**answer) for answer in answers])

    def _ask(self, prompts: Sequence[list[int]], seeds: Sequence[int]) -> list[Answer]:
        engines, settings = self._engines(), self.settings
        bodies = [request(prompt, settings, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        return engines.ask(bodies, lambda body, url: read(body, settings, engines.version, url))

    def _generation(self, answers: Sequence[Answer]) -> Generation:
        lengths = torch.tensor([len(answer.tokens) for answer in answers])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        responses = torch.zeros(mask.shape, dtype=torch.long)
        responses[mask] = torch.tensor([token for answer in answers for token in answer.tokens])
        log_probs = torch.zeros(mask.shape)
        log_probs[mask] = torch.tensor([number for answer in answers for number in answer.log_probs])
        device = self._actor.device
        log_probs = log_probs.to(device)
        reasons: list[FinishReason] = [answer.finish_reason for answer in answers]
        return Generation(
            responses=responses.to(device),
            mask=mask.to(device),
            log_probs=log_probs,
            policy_log_probs=None if self.settings.cuts else log_probs,
            values=None,
            exact=False,
            finish_reasons=tuple(reasons),
            completions=tuple(self._text(answer.tokens) for answer in answers),
            temperature=self.settings.temperature,
            policy_version=self.version,
        )

    def _text(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    @torch.no_grad()
    def _hand_over(self) -> None:
        expected = expected_of(self._actor)
        weights = _weights(self._actor)
        if self._own or self._processes.rank == 0:
            self._engines().hand_over(weights, expected)
        else:
            for _ in weights.stream():  # what is shared out is gathered by all
                pass
        self.has_weights = True

    def _engines(self) -> Engines:
        assert self.engines is not None  # whoever asks has some
        return self.engines


def _weights(actor: Actor) -> Weights:
    """The actor's weights, adapters merged. A head that is tied to the embeddings goes along: vLLM 0.32 loads a layer
    when all of it has come, takes the head for one, and would leave it as it was."""
    model = actor.causal_lm
    return Weights(shapes=plain_shapes(model), stream=lambda: plain_weights(model))


@torch.no_grad()
def expected_of(actor: Actor) -> Expected:
    """What the actor thinks of some tokens of its vocabulary."""
    vocabulary = int(actor.causal_lm.config.get_text_config().vocab_size)
    tokens = tuple((17 + 7919 * place) % vocabulary for place in range(PROBE))
    ids = torch.tensor([tokens], device=actor.device)
    there = torch.ones_like(ids, dtype=torch.bool)
    learned = there.clone()
    learned[:, 0] = False
    found = actor.sequence_log_probs(Sequences(ids=ids, mask=there, loss_mask=learned))
    rounded = actor.autocast or next(actor.causal_lm.parameters()).dtype not in (torch.float32, torch.float64)
    return Expected(tokens=tokens, log_probs=tuple(found.tolist()), rounded=rounded)
