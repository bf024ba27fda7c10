"""Seconds of an iteration by phase: operations and bytes over the speeds of a machine."""

from dataclasses import dataclass

from clearppo.plan.devices import Accelerator
from clearppo.plan.job import Job
from clearppo.plan.shape import Shape

MOVED_BY_STEP = 7  # numbers that Adam reads and writes for each entry: weight, gradient, two moments; three written
OF_PEAK = 0.4  # share of its peak that a GPU reaches in training, as published runs report it (docs/plan.md)
OF_BANDWIDTH = 0.6  # share of its memory's bandwidth that a decode step reaches
LAUNCHES = 25e-6  # seconds a layer of a pass costs a GPU at least: some launches of kernels
GRAPHED = 8e-6  # the same of a decode step that is replayed as a graph
REDUCED = 10e-6  # seconds in which the GPUs of an engine add up a layer's results, twice a layer


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What a machine does. `products`: FLOP/s of a whole pass over many tokens, all else that a layer does included.
    `steps`: the same of a decode step over few tokens; `reads` and `copies`: bytes/s of weights in a decode step and of
    long vectors. `step` and `layer` are seconds that a layer costs whatever its size, in a decode step and in a
    pass."""

    products: float
    steps: float
    reads: float
    copies: float
    step: float
    layer: float


def speed_of(accelerator: Accelerator, work: int) -> Speed:
    """What a GPU is assumed to reach: shares of its peaks."""
    products, reads = OF_PEAK * accelerator.peak(work), OF_BANDWIDTH * accelerator.bandwidth
    return Speed(products=products, steps=products, reads=reads, copies=reads, step=GRAPHED, layer=LAUNCHES)


def seconds(
    job: Job, speed: Speed, processes: int = 1, *, engine: int = 1, writers: int | None = None
) -> dict[str, float]:
    """Seconds of one iteration (a step of SFT or of a reward model) by phase, if every answer has its full length. Over
    several processes the work is divided, answers over `writers` if these are others; of `engine` GPUs that make one of
    vLLM's engines each reads its part of the weights for all of their rows. What travels between them is not in it
    (plan/spread.py)."""
    learning = _learning(job, speed, processes)
    if job.step != "ppo":
        return {"learning": learning}
    sampling = _writing(job, speed, writers or processes, max(engine, 1)) + _reading(job, speed, processes)
    return {"sampling": sampling, "feedback": _feedback(job, speed, processes), "learning": learning}


def _forward(shape: Shape, tokens: float, length: float) -> float:
    """FLOPs of a pass through the layers: products with the matrices, and attention to what stands before."""
    return 2 * shape.matrices * tokens + 2 * shape.layers * shape.attention * tokens * length


def _pass(job: Job, speed: Speed, count: int, operations: float, passes: float) -> float:
    return operations / count / speed.products + passes * job.policy.layers * speed.layer


def _writing(job: Job, speed: Speed, count: int, engine: int) -> float:
    shape, rows = job.policy, max(min(job.rows_at_once, job.batch / count), 1)
    prompt = max(job.mean - job.response, 1.0)
    prefill = _pass(job, speed, count, _forward(shape, job.distinct * prompt, prompt), 1)
    read = (shape.matrices + shape.head) * job.work / engine / speed.reads
    cache = rows * job.mean * 2 * shape.layers * shape.keys * job.work / speed.copies
    computed = 2 * rows * (shape.matrices + shape.head) / speed.steps
    steps = job.response * job.batch / count / rows
    joined = 2 * REDUCED * shape.layers if engine > 1 else 0.0
    decode = steps * (max(read, computed) + cache + shape.layers * speed.step + joined)
    # The decoder's weights are made anew from the policy's after every update.
    copied = (shape.matrices + shape.head) * (job.stream + job.work) / speed.copies
    return prefill + decode + copied


def _reading(job: Job, speed: Speed, count: int) -> float:
    """What the learner and a separate critic read of the answers."""
    again = _read(job, speed, count, head=True) if job.reads_old else 0.0
    return again + (_read(job, speed, count, head=False) if job.critic == "separate" else 0.0)


def _read(job: Job, speed: Speed, count: int, *, head: bool, shape: Shape | None = None) -> float:
    """A pass over all answers that keeps nothing; `head`: with the log-probs of the responses."""
    shape = shape or job.policy
    operations = _forward(shape, job.batch * job.mean, job.mean)
    operations += 2 * shape.head * job.batch * job.response if head else 0
    return _pass(job, speed, count, operations, -(-job.batch // max(job.rows, 1)) / count)


def _feedback(job: Job, speed: Speed, count: int) -> float:
    found = _read(job, speed, count, head=True)
    if job.judge is not None:
        found += _read(job, speed, count, head=False, shape=job.judge)
    elif job.judge_on_trunk:
        found += _read(job, speed, count, head=False)
    return found


def _learning(job: Job, speed: Speed, count: int) -> float:
    shape, tokens = job.policy, job.batch * job.mean
    upper = shape.upper(job.frozen_layers)
    # Forward, the gradient of the input, that of the weight if it learns; and forward again where nothing was kept.
    factor = (2 if job.lora_rank else 3) + (1 if job.checkpointing else 0)
    trunk = factor * upper * _forward(shape, tokens, job.mean)
    learned_tokens = job.batch * job.response if job.step == "ppo" else tokens
    head = factor * 2 * shape.head * learned_tokens
    operations = job.epochs * (trunk * (2 if job.critic == "separate" else 1) + head)
    if job.ptx:
        of_texts = job.ptx * job.mini_batches * job.ptx_length
        more = _forward(shape, of_texts, job.ptx_length) + 2 * shape.head * of_texts
        operations += job.epochs * factor * more
    passes = job.epochs * job.mini_batches * -(-job.mini_batch // max(job.rows, 1)) * 3 / count
    steps = job.epochs * job.mini_batches
    learned = job.learned_by_policy + job.learned_by_critic
    optimiser = steps * learned * job.stream * MOVED_BY_STEP / count / speed.copies
    return _pass(job, speed, count, operations, passes) + optimiser
