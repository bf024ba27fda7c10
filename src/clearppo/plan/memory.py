"""Bytes by role and phase, and the peak. All formulas of docs/plan.md about memory are here."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from clearppo.plan.job import CHECKED, FLOAT, Job
from clearppo.plan.shape import Shape, kept_numbers

GIB = 2**30
MIB = 2**20
SHARE = 0.5
"""Of the free memory, for activations. The rest is for what `auto` does not count: logits, the KV cache, holes."""
OPTIMISER = 3
"""A parameter that learns has a gradient and Adam's two moments."""
HOLES = 0.4
"""Of gradients and activations, on a CPU (benchmarks/plan.py)."""
SLACK = 0.06
"""Of what is allocated, elsewhere."""
KERNELS, KERNELS_OF_STEP, MOST_KERNELS = 30 * MIB, 2.15 * MIB, 560 * MIB
"""On a CPU: what oneDNN keeps of kernels; in bfloat16 more for each step of decoding, which has a length of its own;
and what the thousand of them take that it keeps at most (benchmarks/plan.py)."""
MOST = 2**18
"""Tokens; more at once make no product faster, and with a bound a small model has the same budget everywhere."""
LOADING = "loading"
"""The phase in which networks are whole that will be shared out."""
ROLES = (
    "process", "policy", "critic", "reference", "reward model", "gathered", "average", "gradients", "optimiser",
    "decoder", "KV cache", "activations", "logits", "holes",
)  # fmt: skip
"""What takes memory. gathered: of weights that are shared out, the layers that are whole for the moment. decoder: its
copy of the weights. holes: freed memory that a CPU's allocator keeps."""
AT_ONCE = 2
"""Layers that are gathered at once: one computes, the next is on its way."""
Roles = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Bytes by phase and role."""

    phases: Mapping[str, Mapping[str, float]]

    def total(self, phase: str) -> float:
        """All roles of a phase."""
        return sum(self.phases[phase].values())

    @property
    def peak_phase(self) -> str:
        """The phase that takes most."""
        return max(self.phases, key=self.total)

    @property
    def peak(self) -> float:
        """What it takes."""
        return self.total(self.peak_phase)

    @property
    def running(self) -> float:
        """The most that is taken once all is loaded."""
        return max(self.total(phase) for phase in self.phases if phase != LOADING)


def memory(job: Job, *, process: float) -> Table:
    """What each phase of a run takes; `process` is what the program itself does, without models."""
    always = _always(job) | {"process": process + _kernels(job), "gathered": _gathered(job)}
    if job.step == "ppo":
        live = {
            "checking": always | _checking(job),
            "sampling": always | _resident(job) | _sampling(job),
            "feedback": always | _resident(job) | _reading(job),
            "learning": always | _resident(job) | _learning(job),
            "saving": always | _resident(job) | _saving(job),
        }
    else:
        live = {
            "learning": always | _resident(job) | _learning(job),
            "saving": always | _resident(job) | _saving(job),
        }
    if job.parts > 1:
        live = {LOADING: _loading(job) | {"process": process}} | live
    return Table(phases={phase: _with_holes(job, phase, roles) for phase, roles in live.items()})


def tokens_in(free: float, learned: float, each: float) -> int:
    """Tokens, padding included, whose activations of `each` bytes fit into half of what is left of `free` bytes by the
    gradients and the optimiser of `learned` bytes that learn; a power of two, at most MOST, so that it seldom differs
    between runs. A model too large for its memory gets 1: one row at a time is the least that can be tried.
    """
    tokens = int(SHARE * (free - OPTIMISER * learned) / each)
    return min(1 << (tokens.bit_length() - 1), MOST) if tokens > 0 else 1


def budget(job: Job, free: float) -> int:
    """The tokens that `auto` will give the micro-batches of this run, if its models have yet to be loaded into `free`
    bytes."""
    loaded = sum(_always(job).values())
    learned = (job.own_of_policy + job.own_of_critic) * job.stream
    networks = 2 if job.critic == "separate" else 1
    shape = job.policy
    return tokens_in(free - loaded, learned, networks * budget_bytes(
        layers=shape.layers, hidden=shape.hidden, wide=shape.wide, fused=shape.fused, item=job.stream,
        checkpointing=job.checkpointing,
    ))  # fmt: skip


def budget_bytes(*, layers: int, hidden: int, wide: int, fused: bool, item: int, checkpointing: bool) -> int:
    """What one token keeps in a network, as the budget counts it: as many heads of keys as of queries, all in the
    precision of the weights, of `item` bytes."""
    numbers = sum(kept_numbers(hidden=hidden, attention=hidden, keys=hidden, wide=wide, fused=fused))
    return (layers * hidden + numbers if checkpointing else layers * numbers) * item


def weights(shape: Shape, stream: int, parts: int = 1) -> float:
    """Bytes of a network as it is loaded; of its layers the share of one of so many `parts`."""
    layers = (shape.matrices + shape.others) * stream
    return layers / parts + shape.parameters * stream - layers


def lean(shape: Shape, *, upper: float = 1.0, own_embeddings: bool = True, parts: int = 1) -> float:
    """Bytes of a frozen network under bf16 autocast (models/lean.py): linear layers in bfloat16, a head that is tied to
    the embeddings too, all else in float32. `upper`: of its layers this share, and no embeddings unless they are its
    own; `parts`: and of these the share of one of so many processes."""
    layers = upper * (2 * shape.matrices + FLOAT * shape.others) / parts
    head = 2 * shape.head if own_embeddings or not shape.tied else 0
    return layers + head + (FLOAT * shape.embeddings if own_embeddings else 0)


def _always(job: Job) -> Roles:
    """The weights of all models."""
    parts, adapters = job.parts, job.adapters / job.parts
    found: Roles = {"policy": weights(job.policy, job.stream, parts) + adapters * job.stream}
    if job.critic == "separate":
        found["critic"] = weights(job.critic_shape, job.stream, parts) + (adapters + job.policy.hidden) * job.stream
    elif job.critic == "shared":
        found["critic"] = job.policy.hidden * max(job.stream, FLOAT)
    if job.step == "ppo":
        found["reference"] = _reference(job)
    if job.judge is not None:
        # Scores are computed in float32 weights, whatever the policy's are.
        found["reward model"] = lean(job.judge, parts=parts) if job.autocast else weights(job.judge, FLOAT, parts)
    elif job.judge_on_trunk:
        found["reward model"] = adapters * job.stream
    if job.average:
        found["average"] = job.own_of_policy * max(job.stream, FLOAT)
    if job.frozen_layers:
        found["activations"] = job.batch * job.mean * job.policy.hidden * job.stream  # kept rows
    return found


def _reference(job: Job) -> float:
    if job.lora_rank:
        return 0.0  # the policy with its adapters off
    if not job.frozen_layers:
        return lean(job.policy, parts=job.parts) if job.autocast else weights(job.policy, job.stream, job.parts)
    if job.autocast:
        return lean(job.policy, upper=job.policy.upper(job.frozen_layers), own_embeddings=False)
    return job.learned_by_policy * job.stream


def _resident(job: Job) -> Roles:
    """What the optimiser remembers after its first step, and what a GPU's decoder keeps for its graphs."""
    found: Roles = {"optimiser": 2 * (job.own_of_policy + job.own_of_critic) * job.stream}
    if job.step == "ppo" and job.device == "cuda":
        found |= {"decoder": _decoder(job), "KV cache": kv_cache(job)}
    return found


def _gathered(job: Job) -> float:
    """Of shared-out weights two layers, as they are stored, whole for the moment."""
    return 0.0 if job.parts == 1 else AT_ONCE * job.policy.matrices / job.policy.layers * job.stream


def _loading(job: Job) -> Roles:
    """All networks are whole, and the decoder has been tried, when the first is shared out."""
    return _always(replace(job, parts=1)) | ({"decoder": _decoder(job)} if job.step == "ppo" else {})


def _decoder(job: Job) -> float:
    """The decoder's own linear weights; embeddings are the policy's."""
    return (job.policy.matrices + job.policy.head) * job.work


def kv_cache(job: Job) -> float:
    """Bytes of keys and values of all rows that are sampled at once."""
    return 2 * job.policy.layers * job.rows_at_once * job.policy.keys * job.columns * job.work


def _sampling(job: Job) -> Roles:
    found: Roles = {"decoder": _decoder(job), "KV cache": kv_cache(job)}
    numbers = job.rows_at_once * job.policy.vocabulary
    found["logits"] = numbers * (job.work + 2 * FLOAT)  # as computed, in float32, and their softmax
    return found


def _reading(job: Job) -> Roles:
    """A forward pass that keeps nothing but one layer: the widest state, in and behind the activation, and a float32
    state or two beside the residual stream."""
    shape = job.policy
    token = 3 * shape.wide * job.work + 4 * shape.hidden * FLOAT
    return {"activations": _kept_rows(job) + job.tokens * token}


def _kept_rows(job: Job) -> float:
    return job.batch * job.mean * job.policy.hidden * job.stream if job.frozen_layers else 0.0


def _checking(job: Job) -> Roles:
    """The self-check reads a few answers as learning will."""
    rows = min(CHECKED, job.rows)
    return {
        "activations": _kept_rows(job) + rows * job.longest * job.kept_by_token,
        "logits": job.kept_logits(rows * job.response),
        "decoder": 0.0 if job.device == "cpu" else _decoder(job),
    }


def kept_and_logits(job: Job) -> tuple[float, float]:
    """Bytes of activations and of logits that a micro-batch keeps for its backward pass."""
    of_texts = job.kept(job.ptx_length, checkpointing=job.checkpointing) * min(job.tokens, job.ptx * job.ptx_length)
    learned = job.rows * (0 if job.step == "reward" else job.response)
    kept = max(job.tokens * job.kept_by_token, of_texts)
    return kept + job.tokens * passing_bytes(job), job.kept_logits(learned)


def passing_bytes(job: Job) -> int:
    """Bytes a token that the backward pass of one layer holds beside what was kept: the slopes of the widest states, of
    some residual states in float32, and where attention is made of plain products its scores in float32."""
    scores = 5 * job.policy.heads * job.longest * FLOAT if job.keeps_scores else 0
    return 5 * job.policy.wide * job.work + 4 * job.policy.hidden * FLOAT + scores


def _learning(job: Job) -> Roles:
    """Gradients, and what is kept between forward and backward pass.

    With one micro-batch the activations go while the gradients come, so the peak is one or the other; with several,
    gradients of the first are there while the second is read. The gradient of the head comes first, in float32; that
    of an embedding that is tied to it comes last, and is added to it.
    """
    actor, critic = job.own_of_policy * job.stream, job.own_of_critic * job.stream
    if job.parts > 1 and not job.lora_rank:  # before they are added up
        actor += AT_ONCE * job.policy.matrices / job.policy.layers * job.stream
    head_learns = not job.lora_rank and not (job.frozen_layers and job.policy.tied)
    head = job.policy.head * FLOAT if head_learns else 0
    embedding = head if job.policy.tied else 0
    kept, logits = kept_and_logits(job)
    if job.rows < job.mini_batch or job.ptx:
        return {"gradients": actor + critic + embedding, "activations": _kept_rows(job) + kept, "logits": logits}
    if head + kept + logits > actor + embedding:
        return {"gradients": critic + head, "activations": _kept_rows(job) + kept, "logits": logits}
    return {"gradients": critic + actor + embedding, "activations": _kept_rows(job)}


def _saving(job: Job) -> Roles:
    """Models are saved with their adapters merged, and a shared critic with the backbone that its class needs."""
    found: Roles = {"activations": _kept_rows(job)}
    if job.parts > 1:  # the first process holds all that is written; of a GPU in the host's memory
        if job.device == "cpu":
            found["policy"] = _always(job)["policy"] + weights(job.policy, job.stream)
        return found
    if job.lora_rank:
        merged = weights(job.policy, job.stream)
        found["policy"] = _always(job)["policy"] + merged
    if job.critic == "shared":
        found["critic"] = _always(job)["critic"] + weights(job.policy.classifier(), job.stream)
    return found


def _kernels(job: Job) -> float:
    """What oneDNN keeps of the kernels that it made for products of each size, of which PPO has many."""
    if job.device != "cpu" or job.step != "ppo":
        return 0.0
    if job.work != 2:
        return KERNELS
    # Other numbers of rows need other ones: within some twenty iterations there are twice as many.
    rounds = min(1 + (job.rounds - 2) / 20, 2)
    return min(KERNELS + rounds * job.response * KERNELS_OF_STEP, MOST_KERNELS)


def _with_holes(job: Job, phase: str, roles: Roles) -> Roles:
    """What an allocator holds beside what is used. That of a CPU keeps freed blocks, which seldom fit what comes next;
    most of it is left by what comes and goes in learning."""
    if job.device != "cpu":
        return roles | {"holes": SLACK * (sum(roles.values()) - roles["process"])}
    if phase != "learning":
        return roles
    # Activations that are computed again come and go, layer by layer, in blocks of the same sizes.
    moved = (job.own_of_policy + job.own_of_critic) * job.stream
    moved += sum(kept_and_logits(replace(job, checkpointing=False)))
    return roles | {"holes": HOLES * moved}
