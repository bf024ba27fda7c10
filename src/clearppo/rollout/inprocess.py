"""A sampler in this process: prompts wait in a queue, rows grow a token a step, finished rows make room for others."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch
from torch import Tensor

from clearppo.batch import ALONE, Division, FinishReason, Prompts
from clearppo.models.actor import SharedCritic
from clearppo.models.policy import Policy
from clearppo.rollout.decoder import Decoder, make_decoder
from clearppo.rollout.draw import draw, on_host, row_stream
from clearppo.rollout.merge import merged
from clearppo.rollout.sampler import Generation, SamplingSettings, TextDecoder

REFILL = 4  # new rows start when a quarter of the places is free: a prefill holds up all rows that are going on


class InProcessSampler:
    """Samples with the policy's weights through a Decoder; one in bf16 if the policy computes in bf16 autocast.

    Where the decoder is exact, so are generations: their log-probs and values equal those of one full forward pass to
    rounding. Values are known with a shared critic only: they fall off the same hidden states.

    A row's random numbers depend on `seed` and on how many rows were `answered` before it: not on its neighbours, on
    when they end, on how rows are cut into calls, or on `settings.max_batch_size`. To go on from where another sampler
    stood, load its `state`.

    `decoder`: one made for the same policy, to be shared; the weights that it holds are those that are sampled from.
    Not `resident`: between calls the decoder's copy of the weights makes room for learning, and is made anew from the
    policy as it is then. Of several processes each writes its share of the answers (`division`), and all have the same
    whole generation.
    """

    def __init__(
        self,
        policy: Policy,
        tokenizer: TextDecoder,
        settings: SamplingSettings,
        *,
        seed: int,
        decoder: Decoder | None = None,
        resident: bool = True,
        division: Division = ALONE,
    ) -> None:
        self.settings = settings
        self.tokenizer = tokenizer
        self.seed = seed
        self.answered = 0
        self.version = 0
        self.decoder = decoder or make_decoder(policy.actor, dtype=torch.bfloat16 if policy.actor.autocast else None)
        self._critic = policy.critic if isinstance(policy.critic, SharedCritic) else None
        self._resident = resident
        self._actor = policy.actor
        self._division = division
        self._rest()

    @property
    def device(self) -> torch.device:
        """Where it decodes; prompts must be there."""
        return self.decoder.device

    def load(self, policy: Policy, version: int) -> None:
        """Take over the policy's present weights; the decoder may keep a copy that computes faster."""
        self.version, self._actor = version, policy.actor
        if self._resident:
            self.decoder.load(policy.actor)

    def state(self) -> dict[str, Any]:
        """See Sampler."""
        room = self.decoder.state()
        return {"seed": self.seed, "answered": self.answered, "version": self.version, "decoder": room}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See Sampler."""
        self.seed, self.answered, self.version = state["seed"], state["answered"], state["version"]
        self.decoder.load_state(state["decoder"])

    @torch.no_grad()
    def generate(self, prompts: Prompts) -> Generation:
        """One answer a prompt, in the order of the prompts; equal prompts that start together are read once."""
        return self._generate(prompts, self._streams(len(prompts)))

    @torch.no_grad()
    def stream(self, prompts: Prompts) -> Iterator[str]:
        """The answer to a single prompt, piece by piece as it grows; for talking to a model."""
        answers = _Answers.empty(1)
        shown = ""
        for _ in self._decode(prompts, self._streams(1), answers):
            text = self._text(answers.tokens[0])
            if text.endswith("\N{REPLACEMENT CHARACTER}"):  # half a character: wait for its other bytes
                continue
            yield text[len(shown) :]
            shown = text

    def _rest(self) -> None:
        """Leave the decoder's memory to learning, if this sampler is not to keep it."""
        if not self._resident:
            self.decoder.release()

    def _streams(self, count: int) -> list[Random]:
        """The random numbers of the next `count` rows, a stream each."""
        first, self.answered = self.answered, self.answered + count
        return [row_stream(self.seed, row) for row in range(first, self.answered)]

    def _generate(self, prompts: Prompts, streams: list[Random]) -> Generation:
        if self._division.world == 1:
            return self._written(prompts, streams)
        most = self.settings.max_tokens
        mine = self._division.deal([n + most for n in prompts.mask.sum(dim=1).tolist()])
        rows = mine or [0]  # whoever has no row writes one for company, and knows the types of what is summed
        part = self._written(prompts.select(rows), [streams[row] for row in rows])
        return merged(part, mine, len(prompts), self._division, self._text)

    def _written(self, prompts: Prompts, streams: list[Random]) -> Generation:
        """Answers of this process alone."""
        answers = _Answers.empty(len(prompts))
        for _ in self._decode(prompts, streams, answers):
            pass
        self._rest()
        responses, mask = answers.padded(self.device)
        return Generation(
            responses=responses,
            mask=mask,
            log_probs=answers.table(answers.log_probs, mask),
            policy_log_probs=answers.table(answers.policy_log_probs, mask),
            values=answers.table(answers.values, mask) if self._critic is not None else None,
            exact=self.decoder.exact,
            finish_reasons=tuple(answers.finish),
            completions=tuple(self._text(tokens) for tokens in answers.tokens),
            temperature=self.settings.temperature,
            policy_version=self.version,
        )

    def _decode(self, prompts: Prompts, streams: list[Random], answers: "_Answers") -> Iterator[None]:
        """Let `answers` grow, one token a live row at a time; yields after each step."""
        settings, decoder, device = self.settings, self.decoder, self.decoder.device
        if not self._resident:
            decoder.load(self._actor)
        queue = _Queue([ids[mask].tolist() for ids, mask in zip(prompts.ids.cpu(), prompts.mask.cpu(), strict=True)])
        size = min(settings.max_batch_size or len(prompts), len(prompts))
        precision = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
        live: list[int] = []  # the row of each of the decoder's places
        tokens = torch.empty(0, dtype=torch.long, device=device)
        while queue or live:
            going_on, start = len(live), self._start_now(size - len(live), len(live), len(queue))
            if start and not live:
                decoder.begin(rows=min(size, len(queue)), length=queue.longest + settings.max_tokens)
            texts, copies, new = queue.take(size - len(live) if start else 0)
            live = live + new
            # Before the step: moving them later would wait until the device has done it.
            uniform = torch.tensor([streams[row].random() for row in live], dtype=precision, device=device)
            states = [decoder.step(tokens)] if going_on else []
            hidden = torch.cat([*states, decoder.start(texts, copies)]) if start else states[0]
            tokens, drawn, own = draw(
                decoder.logits(hidden),
                uniform,
                temperature=settings.temperature,
                top_k=settings.top_k,
                top_p=settings.top_p,
            )
            values = self._critic(hidden[:, None]).squeeze(1) if self._critic is not None else None
            answers.grow(live, on_host(tokens), drawn, own, values)
            going = [place for place, row in enumerate(live) if not self._ended(answers, row)]
            yield
            if not going:
                live = []  # begin() forgets them
            elif len(going) < len(live):
                places = decoder.keep(going)
                live = [live[place] for place in places]
                tokens = tokens[torch.tensor(places, device=device)]

    def _start_now(self, free: int, live: int, waiting: int) -> bool:
        """Whether rows that wait should start: when nobody is left, or enough can join those that are going on."""
        if not live:
            return True
        return self.decoder.joins and 0 < min(waiting, -(-(free + live) // REFILL)) <= free

    def _ended(self, answers: "_Answers", row: int) -> bool:
        """Whether the newest token ends the row's answer, and notes why."""
        tokens = answers.tokens[row]
        if tokens[-1] in self.settings.stop_token_ids or self._ends_in_text(tokens):
            answers.finish[row] = "stop"
            return True
        return len(tokens) == self.settings.max_tokens

    def _ends_in_text(self, tokens: list[int]) -> bool:
        if not self.settings.stop_strings:
            return False
        # A stop string of n characters ends with the newest token, so the last n tokens hold it (each has a character
        # at least, but for the pieces of one character, of which there are at most four).
        longest = max(len(text) for text in self.settings.stop_strings)
        before, now = (self.tokenizer.decode(part[-4 * longest - 4 :]) for part in (tokens[:-1], tokens))
        return any(now.count(text) > before.count(text) or now.endswith(text) for text in self.settings.stop_strings)

    def _text(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))


class _Queue:
    """Rows that wait for a place in the decoder: equal prompts together, the longest first.

    Neighbours of one length need no padding where a decoder pads, and what needs most memory comes first: if there is
    too little, that shows at the start.
    """

    def __init__(self, prompts: list[list[int]]) -> None:
        rows: dict[tuple[int, ...], list[int]] = {}
        for row, tokens in enumerate(prompts):
            rows.setdefault(tuple(tokens), []).append(row)
        self._groups = deque(
            sorted(((list(tokens), group) for tokens, group in rows.items()), key=lambda g: -len(g[0]))
        )

    def __len__(self) -> int:
        return sum(len(group) for _, group in self._groups)

    @property
    def longest(self) -> int:
        """The length of the longest prompt that waits, in tokens."""
        return len(self._groups[0][0])

    def take(self, count: int) -> tuple[list[list[int]], list[int], list[int]]:
        """The next `count` rows or all there are: their prompts, how many rows each is for, and the rows in order."""
        prompts, copies, taken = [], [], []
        while len(taken) < count and self._groups:
            tokens, group = self._groups.popleft()
            now, later = group[: count - len(taken)], group[count - len(taken) :]
            if later:
                self._groups.appendleft((tokens, later))
            prompts.append(tokens)
            copies.append(len(now))
            taken += now
        return prompts, copies, taken


@dataclass
class _Answers:
    """The answers while they grow. Numbers stay on the device, a tensor a step, until they are asked for."""

    tokens: list[list[int]]
    finish: list[FinishReason]
    rows: list[int] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    log_probs: list[Tensor] = field(default_factory=list)
    policy_log_probs: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    @classmethod
    def empty(cls, count: int) -> "_Answers":
        return cls(tokens=[[] for _ in range(count)], finish=["length"] * count)

    def grow(self, rows: list[int], tokens: list[int], drawn: Tensor, own: Tensor, values: Tensor | None) -> None:
        """A token for each of these rows, with its log-probs and perhaps the value before it."""
        for row, token in zip(rows, tokens, strict=True):
            self.rows.append(row)
            self.columns.append(len(self.tokens[row]))
            self.tokens[row].append(token)
        self.log_probs.append(drawn)
        self.policy_log_probs.append(own)
        if values is not None:
            self.values.append(values.to(own.dtype))

    def padded(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Tokens and mask [B, T], T the longest answer's length."""
        lengths = torch.tensor([len(tokens) for tokens in self.tokens])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        responses = torch.zeros(mask.shape, dtype=torch.long)
        responses[mask] = torch.tensor([token for tokens in self.tokens for token in tokens])
        return responses.to(device), mask.to(device)

    def table(self, steps: list[Tensor], mask: Tensor) -> Tensor:
        """What was noted step by step, as [B, T] with 0 where the mask is False."""
        out = torch.zeros(mask.shape, dtype=steps[0].dtype, device=mask.device)
        out[torch.tensor(self.rows, device=mask.device), torch.tensor(self.columns, device=mask.device)] = torch.cat(
            steps
        )
        return out
