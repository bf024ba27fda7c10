"""A run over many GPUs: what each of them holds, and what must be divided or moved to the host until it fits.

The layout is that of an engine to come: FSDP2 shards every network over all GPUs and gathers a layer at a time; frozen
networks may lie in the host's memory between their turns; answers are sampled by vLLM engines on the same GPUs, each
over a few of them (tensor parallel), which may hand their memory over while the policy learns.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from clearppo.plan.devices import Place
from clearppo.plan.job import FLOAT, Job
from clearppo.plan.memory import GIB, Roles, Table, kept_and_logits, lean, weights

CONTEXT = 1.5 * GIB  # of CUDA, of the collectives' buffers and of vLLM's graphs, for each GPU
SLACK = 0.08  # of what is allocated: blocks that the caching allocator cannot join
FEWEST = 16  # sequences at once for which an engine's cache must have room at least; it takes more if there is room
HALF = 2


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a run is laid out. `engine` GPUs make one sampling engine."""

    sharded: bool = False
    offloads_frozen: bool = False
    sleeps: bool = False
    offloads_optimiser: bool = False
    engine: int = 1

    def words(self, job: Job, where: Place) -> list[str]:
        """What is done, a line each, for people."""
        n, learned = where.count, "policy and critic" if job.critic == "separate" else "policy"
        lines = [
            f"{learned} sharded over {n} GPUs (FSDP2): weights, gradients and Adam's moments"
            if self.sharded
            else f"{learned} whole on each of {n} GPUs, gradients averaged",
        ]
        if job.step == "ppo":
            engine = "one GPU" if self.engine == 1 else f"{self.engine} GPUs (tensor parallel)"
            asleep = ", whose weights lie in the host's memory while the policy learns" if self.sleeps else ""
            lines.append(f"{n // self.engine} vLLM engines of {engine} each, on the same GPUs{asleep}")
            frozen = [name for name, there in _frozen(job) if there]
            if frozen:
                place = "in the host's memory, fetched for their turn" if self.offloads_frozen else (
                    "sharded as well" if self.sharded else "whole on each GPU"
                )  # fmt: skip
                lines.append(f"{' and '.join(frozen)} {place}")
        if self.offloads_optimiser:
            lines.append("Adam's moments in the host's memory, stepped there")
        if job.checkpointing:
            lines.append("activations computed again in the backward pass")
        lines.append(f"{share(job, where).rows} texts at once in each GPU")
        return lines


def layouts(job: Job, where: Place) -> Iterator[tuple[Layout, Job]]:
    """What can be tried, the cheapest first: each adds something that saves memory and costs time."""
    engines = [size for size in (1, 2, 4, 8, 16) if size <= where.node] if job.step == "ppo" else [1]
    steps = [
        (Layout(), job),
        (Layout(sharded=True), job),
        (Layout(sharded=True, offloads_frozen=True), job),
        (Layout(sharded=True, offloads_frozen=True, sleeps=True), job),
    ]
    last = steps[-1][0]
    steps += [
        (last, replace(job, checkpointing=True)),
        (last, replace(job, checkpointing=True, micro_rows=1)),
        (replace(last, offloads_optimiser=True), replace(job, checkpointing=True, micro_rows=1)),
    ]
    for layout, changed in steps:
        for engine in engines if layout.sharded else engines[:1]:
            yield replace(layout, engine=engine), changed


def fitting(job: Job, where: Place, room: float) -> tuple[Layout, Job, Table, bool]:
    """The first layout whose peak is at most `room` bytes a GPU, or the smallest one; whether it fits."""
    smallest: tuple[Layout, Job, Table] | None = None
    for layout, changed in layouts(job, where):
        table = spread(changed, where, layout)
        if table.peak <= room:
            return layout, changed, table, True
        if smallest is None or table.peak < smallest[2].peak:
            smallest = layout, changed, table
    assert smallest is not None
    return *smallest, False


def share(job: Job, where: Place) -> Job:
    """What of the batch one GPU does: its share of the answers, rounded up."""
    each = -(-job.mini_batch // where.count)
    return replace(job, batch=each * job.mini_batches, ptx=-(-job.ptx // where.count))


def spread(job: Job, where: Place, layout: Layout) -> Table:
    """Bytes a GPU by phase and role."""
    always = _networks(job, where, layout) | {"process": CONTEXT}
    optimiser = 2 * (job.learned_by_policy + job.learned_by_critic) * job.stream / _parts(where, layout)
    resident: Roles = {"optimiser": 0.0 if layout.offloads_optimiser else optimiser}
    learning = always | resident | _learning(job, where, layout)
    if job.step != "ppo":
        return _table({"learning": learning})
    engine = weights(job.policy, HALF) / layout.engine
    awake: Roles = {"decoder": engine, "KV cache": _cache(job, where, layout)}
    asleep: Roles = {} if layout.sleeps else awake
    phases = {
        "sampling": always | resident | awake,
        "feedback": always | resident | asleep | _reading(job, where, layout),
        "learning": learning | asleep,
    }
    return _table(phases)


def host_bytes(job: Job, where: Place, layout: Layout) -> float:
    """What the host of one machine must hold for its GPUs."""
    found = 0.0
    if layout.offloads_frozen:
        found += sum(size for _, size in _frozen(job)) / where.count * where.node
    if layout.sleeps and job.step == "ppo":
        found += weights(job.policy, HALF) / layout.engine * where.node
    if layout.offloads_optimiser:
        learned = job.learned_by_policy + job.learned_by_critic
        found += 3 * learned * job.stream / where.count * where.node
    return found


def _table(phases: dict[str, Roles]) -> Table:
    return Table(phases={
        name: roles | {"holes": SLACK * (sum(roles.values()) - roles["process"])} for name, roles in phases.items()
    })  # fmt: skip


def _parts(where: Place, layout: Layout) -> int:
    return where.count if layout.sharded else 1


def _frozen(job: Job) -> list[tuple[str, float]]:
    """The networks that never learn, with their bytes; 0: none of its own."""
    if job.step != "ppo":
        return []
    reference = 0.0 if job.lora_rank else float(lean(job.policy) if job.autocast else weights(job.policy, job.stream))
    judge = 0.0 if job.judge is None else lean(job.judge) if job.autocast else weights(job.judge, FLOAT)
    return [("reference", reference), ("reward model", judge)]


def _networks(job: Job, where: Place, layout: Layout) -> Roles:
    parts = _parts(where, layout)
    found: Roles = {"policy": (weights(job.policy, job.stream) + job.adapters * job.stream) / parts}
    if job.critic == "separate":
        found["critic"] = (weights(job.critic_shape, job.stream) + job.adapters * job.stream) / parts
    for name, size in _frozen(job):
        if size:
            found[name] = 0.0 if layout.offloads_frozen else size / parts
    if job.average:
        found["average"] = job.learned_by_policy * FLOAT / parts
    return found


def _gathered(job: Job, layout: Layout) -> float:
    """Two layers as they are multiplied, one in use and one on its way, and the embeddings with the head."""
    if not layout.sharded:
        return 0.0
    shape = job.policy
    return (2 * shape.matrices / shape.layers + shape.embeddings + (0 if shape.tied else shape.head)) * job.work


def _learning(job: Job, where: Place, layout: Layout) -> Roles:
    mine = share(job, where)
    learned = (job.learned_by_policy + job.learned_by_critic) * job.stream
    kept, logits = kept_and_logits(mine)
    whole = 2 * job.policy.matrices / job.policy.layers * FLOAT if layout.sharded and not job.lora_rank else 0
    return {
        "gradients": learned / _parts(where, layout) + whole,
        "activations": kept + _gathered(job, layout),
        "logits": logits,
    }


def _reading(job: Job, where: Place, layout: Layout) -> Roles:
    mine, shape = share(job, where), job.policy
    return {
        "activations": mine.tokens * (3 * shape.wide * job.work + 4 * shape.hidden * FLOAT) + _gathered(job, layout)
    }


def _cache(job: Job, where: Place, layout: Layout) -> float:
    """Room for the sequences that an engine runs at once; it can do with fewer, one batch after the other."""
    rows = -(-job.rows_at_once * layout.engine // where.count)
    rows = min(max(rows, 1), FEWEST)
    return 2 * job.policy.layers * job.policy.keys * job.longest * HALF * rows / layout.engine
