"""A run as numbers: which models, what of them learns, how large a batch is and how it is cut."""

from dataclasses import dataclass, replace
from typing import Literal

from clearppo.plan.shape import Shape, token_bytes

FLOAT = 4  # bytes
COLUMNS = 64  # a row's room in the decoder's cache is a multiple of so many tokens
SHORT = 256  # tokens; shorter texts keep their attention weights on a CPU in half precision
KEPT_LOGITS = 2**27  # bytes; fewer logits are kept for the backward pass (core/head.py)
CHECKED = 8  # prompts of the self-check
Device = Literal["cpu", "cuda", "mps"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run. Lengths are in tokens; `prompt` is the longest one, of SFT and a reward model `response` the longest
    text and `prompt` 0. `mean` is the mean length of a whole text.

    `stream` and `work` are the bytes of a weight's number and of a product's; `autocast` says that they differ by bf16
    autocast. `judge` is a reward model's shape, None if it is an adapter on the policy's trunk or there is none.
    `rows_at_once` answers are sampled together; `distinct` prompts are in a batch. `ptx` texts of `ptx_length` tokens
    are mixed into each mini-batch. `parts` processes share out the weights of layers (--sharding full); embeddings and
    heads each has whole.
    """

    step: Literal["ppo", "sft", "reward"]
    device: Device
    policy: Shape
    critic: Literal["none", "shared", "separate"] = "none"
    judge: Shape | None = None
    judge_on_trunk: bool = False
    lora_rank: int = 0
    frozen_layers: int = 0
    checkpointing: bool = False
    stream: int = FLOAT
    autocast: bool = False
    batch: int
    mini_batches: int = 1
    epochs: int = 1
    micro_rows: int
    micro_tokens: int | None = None
    prompt: int = 0
    response: int
    mean: float
    distinct: int = 0
    rows_at_once: int = 0
    reads_old: bool = False
    full_kl: bool = False
    average: bool = False
    ptx: int = 0
    ptx_length: int = 0
    parts: int = 1
    rounds: int

    @property
    def work(self) -> int:
        """Bytes of a number that a matrix product reads."""
        return 2 if self.autocast else self.stream

    @property
    def longest(self) -> int:
        """The longest text in tokens."""
        return self.prompt + self.response

    @property
    def mini_batch(self) -> int:
        """Answers or texts an optimiser step."""
        return self.batch // self.mini_batches

    @property
    def rows(self) -> int:
        """Texts that are in a model at once in learning, the longest ones."""
        by_tokens = self.mini_batch if self.micro_tokens is None else max(self.micro_tokens // self.longest, 1)
        return min(self.micro_rows, self.mini_batch, by_tokens)

    @property
    def tokens(self) -> int:
        """Tokens that are in a model at once in learning, at most."""
        return self.rows * self.longest

    @property
    def columns(self) -> int:
        """Places of a row in the decoder's cache."""
        return -(-self.longest // COLUMNS) * COLUMNS

    @property
    def keeps_scores(self) -> bool:
        """Whether attention keeps its weights for the backward pass."""
        return self.device == "cpu" and self.work == 2 and self.longest <= SHORT

    @property
    def adapters(self) -> float:
        """Entries of the adapters of one network."""
        return self.lora_rank * self.policy.lora * self.policy.upper(self.frozen_layers)

    @property
    def critic_shape(self) -> Shape:
        """A separate critic: the policy's backbone, and a head of one output."""
        return self.policy.classifier()

    def learned(self, shape: Shape) -> float:
        """Entries that learn of a network of this shape: all of it, its upper layers, or adapters. The embeddings are
        frozen with the lower layers, and a head that is tied to them."""
        if self.lora_rank:
            return self.adapters
        if not self.frozen_layers:
            return shape.parameters
        upper = shape.upper(self.frozen_layers) * (shape.matrices + shape.others)
        return upper + (0 if shape.tied else shape.head)

    @property
    def learned_by_policy(self) -> float:
        """Entries of the policy, or of the model that SFT or a reward model trains, that learn."""
        return self.learned(self.policy)

    @property
    def learned_by_critic(self) -> float:
        """Entries of the critic that learn."""
        if self.critic == "separate":
            return self.learned(self.critic_shape) + self.policy.hidden
        return self.policy.hidden if self.critic == "shared" else 0

    @property
    def own_of_policy(self) -> float:
        """Entries of the policy that learn and that this process has the gradient and the moments of."""
        return self._own(self.policy, self.learned_by_policy)

    @property
    def own_of_critic(self) -> float:
        """The same of the critic, whose layer each process has whole."""
        if self.critic != "separate":
            return self.learned_by_critic
        return self._own(self.critic_shape, self.learned_by_critic - self.policy.hidden) + self.policy.hidden

    def _own(self, shape: Shape, learned: float) -> float:
        """Of the entries that learn in a network: a share of those in layers, and all others."""
        if self.parts == 1:
            return learned
        layers = self.adapters if self.lora_rank else shape.upper(self.frozen_layers) * (shape.matrices + shape.others)
        return layers / self.parts + learned - layers

    @property
    def kept_by_token(self) -> int:
        """Bytes that a token keeps in one network between forward and backward pass."""
        return self.kept(self.longest, checkpointing=self.checkpointing)

    def kept(self, length: int, *, checkpointing: bool) -> int:
        """The same of a text of so many tokens."""
        # Layers of our own differ too much from transformers' where the weights themselves are rounded.
        shape = self.policy if self.stream == FLOAT else replace(self.policy, fused=False)
        return token_bytes(
            shape, length=length, stream=self.stream, work=self.work, scores=self.keeps_scores,
            checkpointing=checkpointing, frozen=self.frozen_layers,
        )  # fmt: skip

    def kept_logits(self, tokens: int) -> int:
        """Bytes of logits that are kept for the backward pass of so many learned tokens."""
        size = tokens * self.policy.head * self.work // max(self.policy.hidden, 1)
        return size if size <= KEPT_LOGITS else 0

    def share(self, processes: int) -> "Job":
        """What one of so many processes does of it: its share of the rows, rounded up."""
        if processes == 1:
            return self
        each = -(-self.mini_batch // processes)
        return replace(
            self,
            batch=each * self.mini_batches,
            ptx=-(-self.ptx // processes),
            distinct=-(-self.distinct // processes),
            rows_at_once=min(self.rows_at_once, each * self.mini_batches),
        )

    def with_batch(self, batch: int) -> "Job":
        """The same with another batch, which all answers of a prompt must fit into."""
        if self.step != "ppo":
            return replace(self, batch=batch)
        each = max(self.batch // max(self.distinct, 1), 1)
        at_once = batch if self.rows_at_once == self.batch else min(self.rows_at_once, batch)
        return replace(self, batch=batch, distinct=max(batch // each, 1), rows_at_once=at_once)
