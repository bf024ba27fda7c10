"""A run over many GPUs: what each of them holds, and what must be divided or moved to the host until it fits.

The ways are those that the options have: weights whole on every process or shared out (FSDP2), frozen networks or the
optimiser in the host's memory, answers written by each process's own decoder, by a vLLM engine beside each, which may
hand its memory over while the policy learns, or by engines on GPUs of their own, each over a few of them.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from clearppo.plan.devices import Place
from clearppo.plan.job import FLOAT, Job
from clearppo.plan.memory import GIB, LOADING, SLACK, Roles, Table, kv_cache, memory, weights
from clearppo.plan.shape import Shape

CONTEXT = 1.5 * GIB  # of CUDA, of the collectives' buffers and of vLLM's graphs, for each GPU
FEWEST = 16  # sequences at once for which an engine's cache must have room at least; it takes more if there is room
HALF = 2
ELSEWHERE = 10**12  # so many parts that a share is nothing
HOST_LINK = 32e9  # bytes/s between a GPU and its host, one way: PCIe 4.0 with 16 lanes
HOST_STEP = 100e9  # bytes/s of a machine's own memory, in which Adam steps what lies there
HIDDEN = 0.5  # of what layers' weights travel, this share passes while products run
FROZEN = ("reference", "reward model")
LEARNED = ("policy", "critic", "gradients", "optimiser")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a run is laid out. `engine` GPUs make one vLLM engine; 0: each process writes answers by itself. `servers`
    GPUs are for engines alone; 0: each stands beside a process, on its GPU."""

    sharded: bool = False
    engine: int = 0
    servers: int = 0
    offloads_frozen: bool = False
    sleeps: bool = False
    offloads: bool = False

    @property
    def by_vllm(self) -> bool:
        """Whether vLLM writes the answers."""
        return self.engine > 0

    @property
    def apart(self) -> bool:
        """Whether it does so on GPUs of its own."""
        return self.servers > 0

    def trainers(self, where: Place) -> Place:
        """The GPUs that learn."""
        count = where.count - self.servers
        return replace(where, count=count, node=min(where.node, count))

    def flags(self, job: Job, given: Job, where: Place) -> dict[str, Any]:
        """The options that make this layout, and what was changed of the run that was `given`."""
        found: dict[str, Any] = {"sharding": "full" if self.sharded else "none"}
        if self.servers:
            found |= {"sampler": "vllm", "vllm_mode": "server", "vllm_server_base_url": "URLS"}
        elif self.engine:
            assert where.accelerator is not None
            taken = sum(_engine(job.share(where.count), self).values()) / where.accelerator.memory
            share = math.ceil(100 * taken + 1) / 100  # and a little for what vLLM itself needs
            found |= {"sampler": "vllm", "vllm_mode": "colocate", "vllm_gpu_memory_utilization": share}
        if self.sleeps:
            found["vllm_enable_sleep_mode"] = True
        if self.offloads_frozen:
            found["offload_frozen"] = True
        if self.offloads:
            found["offload"] = "cpu"
        if job.checkpointing and not given.checkpointing:
            found["gradient_checkpointing"] = True
        if job.micro_rows != given.micro_rows:
            found["micro_batch_size"] = job.micro_rows
        return found

    def words(self, job: Job, where: Place) -> list[str]:
        """What is done, a line each, for people."""
        n, learned = where.count - self.servers, "policy and critic" if job.critic == "separate" else "policy"
        lines = [
            f"the layers of {learned} shared out over {n} GPUs (FSDP2): weights, gradients and Adam's moments; "
            "embeddings and heads whole on each"
            if self.sharded
            else f"{learned} whole on each of {n} GPUs, gradients added up",
        ]
        if job.step == "ppo":
            if self.servers:
                lines.append(f"{self.engines} on GPUs of their own (clearppo vllm-serve)")
            elif self.engine:
                asleep = ", which hands its memory over while the policy learns" if self.sleeps else ""
                lines.append(f"a vLLM engine beside each process{asleep}")
            else:
                lines.append("answers written by every process, with a copy of the policy's weights of its own")
            frozen = [name for name, there in _frozen(job) if there]
            if frozen:
                place = "in the host's memory, fetched for their turn" if self.offloads_frozen else (
                    "shared out as well" if self.sharded else "whole on each GPU"
                )  # fmt: skip
                lines.append(f"{' and '.join(frozen)} {place}")
        if self.offloads:
            lines.append("layers' weights, gradients and Adam's moments in the host's memory, stepped there")
        if job.checkpointing:
            lines.append("activations computed again in the backward pass")
        lines.append(f"{job.share(n).rows} texts at once in each GPU")
        return lines

    @property
    def engines(self) -> str:
        """How many stand on GPUs of their own, for people."""
        n = self.servers // max(self.engine, 1)
        size = "one GPU" if self.engine == 1 else f"{self.engine} GPUs"
        return f"{n} vLLM engine{'s' * (n > 1)} of {size}{' each' * (n > 1)}"


def layouts(job: Job, where: Place, asked: Mapping[str, Any]) -> Iterator[tuple[Layout, Job]]:
    """What can be tried, the simplest first. `asked` is what a layout must say of itself."""
    full = Layout(sharded=True)
    ways = [Layout(), full]
    if job.step == "ppo":
        beside = replace(full, engine=1)
        apart = [replace(full, engine=engine, servers=n) for n, engine in _servers(where)]
        ways += [beside, replace(beside, sleeps=True), *apart]
        if any(size for _, size in _frozen(job)):
            ways += [replace(way, offloads_frozen=True) for way in ways if way.sharded]
        ways += [replace(way, sharded=False) for way in (beside, *apart)]
    again = replace(job, checkpointing=True)
    found = [(way, changed) for changed in (job, again, replace(again, micro_rows=1)) for way in ways]
    moving = [one for one in found if one[0].sharded and not one[0].offloads_frozen and one[1].checkpointing]
    found += [(replace(way, offloads=True), changed) for way, changed in moving]  # what is frozen as well
    for layout, changed in found:
        if all(getattr(layout, name) == value for name, value in asked.items()):
            yield layout, changed


def fitting(
    job: Job, where: Place, room: float, asked: Mapping[str, Any], seconds: Callable[[Job, Layout], float] | None = None
) -> tuple[Layout, Job, Table, bool]:
    """Of the layouts that take at most `room` bytes a GPU once all is loaded the one of the fewest `seconds`, the
    simplest of equals; or the smallest one; and whether it fits. No layout changes what loading takes."""
    fit: list[tuple[Layout, Job, Table]] = []
    sizes: list[tuple[float, Layout, Job, Table]] = []
    for layout, changed in layouts(job, where, asked):
        table = spread(changed, where, layout)
        size = max(table.running, _served(changed, where, layout))
        sizes.append((size, layout, changed, table))
        if size <= room:
            fit.append((layout, changed, table))
            if seconds is None:
                break
    if not fit:
        return *min(sizes, key=lambda one: one[0])[1:], False
    # More digits than two are nothing that such a plan can tell apart.
    best = min(fit, key=lambda one: float(f"{seconds(one[1], one[0]):.2g}")) if seconds else fit[0]
    return *best, True


def _servers(where: Place) -> Iterator[tuple[int, int]]:
    """How many GPUs may be set aside for engines, and how many of them make one."""
    for share in (8, 4, 2):
        for engine in (1, 2, 4, 8):
            n = where.count // share
            if n and n % engine == 0 and engine <= where.node:
                yield n, engine


def _served(job: Job, where: Place, layout: Layout) -> float:
    """What a GPU holds that is there for an engine alone; 0: there is none."""
    if not layout.servers:
        return 0.0
    return CONTEXT + (1 + SLACK) * sum(_engine(job.share(layout.servers), layout).values())


def _engine(mine: Job, layout: Layout) -> Roles:
    """What an engine takes of one of its GPUs: it can do with room for few sequences, one batch after the other."""
    rows = min(max(mine.rows_at_once * layout.engine, 1), FEWEST)
    cache = kv_cache(replace(mine, rows_at_once=rows)) / mine.work * HALF
    return {"decoder": weights(mine.policy, HALF) / layout.engine, "KV cache": cache / layout.engine}


def whole_fits(job: Job, where: Place, room: float) -> bool:
    """Whether all weights on every process leave room for what else there is."""
    return spread(job, where, Layout()).peak <= room


def spread(job: Job, where: Place, layout: Layout) -> Table:
    """Bytes a GPU by phase and role."""
    where = layout.trainers(where)
    mine = replace(job.share(where.count), parts=where.count if layout.sharded else 1)
    moves = layout.offloads or (layout.offloads_frozen and layout.sharded)
    away = memory(replace(mine, parts=ELSEWHERE), process=CONTEXT).phases if moves else {}
    return Table(phases={
        phase: _with_holes(_moved(dict(roles), phase, mine, layout, away.get(phase, {})))
        for phase, roles in memory(mine, process=CONTEXT).phases.items()
    })  # fmt: skip


def _moved(roles: Roles, phase: str, mine: Job, layout: Layout, elsewhere: Mapping[str, float]) -> Roles:
    """What a phase holds with all that this layout has elsewhere."""
    if phase == LOADING:
        beside = _engine(mine, layout) if layout.engine and not layout.servers and mine.step == "ppo" else {}
        return roles | ({"decoder": 0.0} if layout.engine else {}) | beside
    moved = (*(LEARNED if layout.offloads else ()), *FROZEN)  # of layers; embeddings and heads stay
    roles |= {name: elsewhere[name] for name in moved if name in roles and name in elsewhere}
    if layout.offloads_frozen and not layout.sharded and phase not in ("checking", "feedback"):
        roles |= dict.fromkeys(FROZEN, 0.0)
    if layout.engine and mine.step == "ppo":
        awake = not layout.servers and (not layout.sleeps or phase in ("checking", "sampling"))
        engine = _engine(mine, layout)
        roles |= engine if awake else dict.fromkeys(engine, 0.0)
    return roles


def _with_holes(roles: Roles) -> Roles:
    return roles | {"holes": SLACK * sum(size for name, size in roles.items() if name not in ("process", "holes"))}


def _frozen(job: Job) -> list[tuple[str, float]]:
    """The networks that never learn, with their bytes; 0: none of its own."""
    if job.step != "ppo":
        return []
    found = memory(job, process=0.0).phases["feedback"]
    judge = 0.0 if job.judge is None else found.get("reward model", 0.0)
    return [("reference", found.get("reference", 0.0)), ("reward model", judge)]


def host_bytes(job: Job, where: Place, layout: Layout) -> float:
    """What the host of one machine must hold at most for its GPUs: each process loads a whole network before it goes to
    its GPU, and the first gathers all that is saved."""
    found, where = 0.0, layout.trainers(where)
    parts = where.count if layout.sharded else 1
    if layout.offloads_frozen or layout.offloads:
        found += sum(size for _, size in _frozen(replace(job, parts=parts))) * where.node
    if layout.sleeps and job.step == "ppo":
        found += weights(job.policy, HALF) / layout.engine * where.node
    if layout.offloads:
        of_layers = replace(job, parts=where.count), replace(job, parts=ELSEWHERE)
        own, none = (one.own_of_policy + one.own_of_critic for one in of_layers)
        found += 4 * (own - none) * job.stream * where.node
    gathered = weights(job.policy, job.stream) if layout.sharded else 0.0
    return max(found + gathered, weights(job.policy, job.stream) * where.node)


def travel(job: Job, where: Place, layout: Layout) -> dict[str, float]:
    """Seconds by phase for which numbers travel and nothing is computed: gradients that are added up before a step; of
    shared-out weights the layers that are gathered for every pass, half of them while products run; and what comes from
    the host."""
    where = layout.trainers(where)
    if where.count == 1:
        return {}
    sent = (1 - 1 / where.count) / where.link
    mine = job.share(where.count)
    steps = job.epochs * job.mini_batches
    learned, own = (
        one.own_of_policy + one.own_of_critic
        for one in (job, replace(job, parts=ELSEWHERE if layout.sharded else 1))
    )  # fmt: skip
    flat = 2 * own * max(job.stream, FLOAT) * sent  # there and back
    found = {"learning": steps * flat}
    if job.step == "ppo":
        found |= {"sampling": 0.0, "feedback": 0.0}
    if layout.sharded:
        for phase, seconds in _gathering(job, mine, steps, learned - own, sent).items():
            found[phase] += seconds
    if layout.servers:  # the weights that they are to write with
        found["sampling"] += weights(job.policy, HALF) / where.link
    host = _from_host(job, where, layout, steps * _passes(mine))
    return {phase: seconds + host.get(phase, 0.0) for phase, seconds in found.items()}


def _passes(mine: Job) -> int:
    """Micro-batches of a mini-batch."""
    return -(-mine.mini_batch // max(mine.rows, 1))


def _layers(shape: Shape, each: float) -> float:
    return (shape.matrices + shape.others) * each


def _gathering(job: Job, mine: Job, steps: int, learned: float, sent: float) -> dict[str, float]:
    """Every layer twice for a micro-batch that is learned from, and its gradients once; once where it is only read."""
    networks = 2 if job.critic == "separate" else 1
    once = _layers(job.policy, job.stream)
    learning = steps * _passes(mine) * (2 * networks * once + learned * job.stream)
    found = {"learning": (1 - HIDDEN) * learning * sent}
    if job.step != "ppo":
        return found
    reads = -(-mine.batch // max(replace(mine, mini_batches=1).rows, 1))
    again = reads * once * (int(job.reads_old) + int(job.critic == "separate"))
    judge = 0.0 if job.judge is None else _layers(job.judge, HALF if job.autocast else FLOAT)
    reference = _layers(job.policy, job.work) if not job.lora_rank else once
    found["sampling"] = ((1 - HIDDEN) * again + once) * sent  # and once for those that write answers
    found["feedback"] = (1 - HIDDEN) * reads * (reference + judge) * sent
    return found


def _from_host(job: Job, where: Place, layout: Layout, passes: int) -> dict[str, float]:
    """What lies in the host's memory and is fetched, or stepped there."""
    found = {"sampling": 0.0, "feedback": 0.0, "learning": 0.0}
    shared = replace(job, parts=where.count if layout.sharded else 1)
    if layout.offloads_frozen or layout.offloads:
        found["feedback"] += sum(size for _, size in _frozen(shared)) / HOST_LINK
    if layout.sleeps and job.step == "ppo":
        found["sampling"] += 2 * weights(job.policy, HALF) / layout.engine / HOST_LINK
    if layout.offloads:
        entries = shared.own_of_policy + shared.own_of_critic
        found["learning"] += passes * 3 * entries * job.stream / HOST_LINK
        found["learning"] += job.epochs * job.mini_batches * 7 * entries * job.stream * where.node / HOST_STEP
    return found
