"""A run of supervised fine-tuning."""

from dataclasses import dataclass
from pathlib import Path

from clearppo.batch import Stats
from clearppo.config import SFTConfig
from clearppo.data import SequenceSet
from clearppo.learning.sft import learn_demonstrations, measure_demonstrations
from clearppo.models.actor import Actor
from clearppo.models.saving import save_actor, save_adapter
from clearppo.train.card import SFT
from clearppo.train.supervised_run import SupervisedRun


@dataclass(kw_only=True)
class SFTRun(SupervisedRun[SFTConfig, SequenceSet]):
    """Everything that `train` needs. build/steps.py makes one from an SFTConfig."""

    card = SFT

    actor: Actor

    def learn(self, rows: list[int]) -> Stats:
        """One optimiser step on these demonstrations."""
        return learn_demonstrations(
            self.actor,
            self.learned.batch(rows, self.pad_id).to(self.engine.device),
            self.engine,
            self.optimiser,
            micro_batch_size=self.config.run.micro_batch_size,
            micro_batch_tokens=self.micro_batch_tokens,
            max_grad_norm=self.config.optim.max_grad_norm,
            guard=self.faults,
        )

    def measure(self, held_out: SequenceSet, rows: list[int]) -> Stats:
        """The loss on these held-out demonstrations."""
        batch = held_out.batch(rows, self.pad_id).to(self.engine.device)
        size = self.config.run.micro_batch_size
        return measure_demonstrations(
            self.actor, batch, micro_batch_size=size, micro_batch_tokens=self.micro_batch_tokens, division=self.engine
        )

    @property
    def network(self) -> Actor:
        """What learns."""
        return self.actor

    def save_model(self, directory: Path) -> None:
        """The model, and the adapter alone if there is one."""
        save_actor(self.actor, self.tokenizer, directory)
        if self.config.model.use_peft:
            self.save_adapter(directory)

    def save_adapter(self, directory: Path) -> None:
        """The adapter alone, in PEFT's format."""
        save_adapter(self.actor, directory / "adapter")
