"""From a configuration to a plan: shapes of models that are not loaded, lengths of texts, speeds, room."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from clearppo.build.common import uses_autocast
from clearppo.build.plan_inputs import Inputs, inputs_of
from clearppo.build.speed import measured_speed
from clearppo.config import PPOConfig, RewardModelConfig, SFTConfig, explicit, values
from clearppo.engines.environment import place as started
from clearppo.engines.local import free_memory, has_fast_bf16, select_device
from clearppo.engines.peak import resident_bytes
from clearppo.models.loading import DTYPES, first_line
from clearppo.plan.advice import changes, sizes
from clearppo.plan.devices import Place
from clearppo.plan.job import Job
from clearppo.plan.memory import GIB, Table, budget, memory
from clearppo.plan.result import Plan, gib
from clearppo.plan.spread import Layout, fitting, host_bytes, travel
from clearppo.plan.time import seconds, speed_of

TrainConfig = SFTConfig | RewardModelConfig | PPOConfig
LATER = 90 * 2**20
"""Bytes that tokenizers, models' code and data take, and the libraries that are read when they are first needed."""
OF_DRIVER = 0.6 * GIB
"""What CUDA itself takes of a GPU for one process."""
MOVED = {"offloads_frozen": "offload_frozen", "offloads": "offload"}
"""Ways of a layout that need an option of the run."""
PROCESS = (resident_bytes() or 400 * 2**20) + LATER
"""Bytes of this program without models: what was there when this module was read, before any was loaded."""


def plan_run(
    config: TrainConfig, *, place: Place | None = None, inputs: Inputs | None = None, processes: int = 1
) -> Plan:
    """What the run that `config` describes will take, here, in each of so many `processes`, or on the accelerators of
    `place`. `inputs` are its models and texts, if somebody has read them: otherwise the configurations of models are
    read, and texts tokenised.

    Raises ClearPPOError where the run itself would for what it reads.
    """
    inputs = inputs or inputs_of(config)
    elsewhere = place is not None and place.accelerator is not None
    if elsewhere:
        device, kind = torch.device("cpu"), "cuda"
    else:
        device = torch.device("cpu") if place is not None else select_device(config.model.device)
        kind = device.type
    job = _job(config, inputs, kind, autocast=_half(config, device, elsewhere))
    if place is not None and elsewhere:
        return _elsewhere(config, job, place, inputs)
    room = _room(device, processes)
    whole = _with_budget(job, inputs, room)
    job = replace(whole.share(processes), parts=processes if config.run.sharding == "full" else 1)
    process = PROCESS if kind == "cpu" else OF_DRIVER
    speed = measured_speed(job, device)

    def taken(one: Job) -> Table:
        return memory(one, process=process)

    return Plan(
        device=str(device),
        rounds=job.rounds,
        table=taken(job),
        available_bytes=room,
        seconds=seconds(whole, speed, processes),
        changes=changes(job, taken, speed, fast_half=has_fast_bf16(device)),
        largest={} if room is None or processes > 1 else sizes(job, taken, room),
        facts=_facts(whole, str(device) if processes == 1 else f"{device}, {processes} processes"),
        assumptions=_assumed(job, inputs, here=True),
        each="process" if processes > 1 else "",
        round=_round(job),
    )


def plan_of_run(config: TrainConfig, inputs: Inputs, *, note: Callable[[str], None]) -> Plan | None:
    """The plan of a run that is being built. A run does not depend on it: None and a note if it cannot be made."""
    try:
        return plan_run(config, inputs=inputs, processes=started().world)
    except Exception as error:  # of an architecture that nobody has seen, anything may be missing
        note(f"no plan of memory and time: {first_line(error)}")
        return None


def _elsewhere(config: TrainConfig, job: Job, place: Place, inputs: Inputs) -> Plan:
    """On accelerators that are not here."""
    assert place.accelerator is not None
    room, speed = place.accelerator.memory, speed_of(place.accelerator, job.work)
    job = _with_budget(job, inputs, room if place.count == 1 else None)
    asked = _asked(config)
    layout: list[str] = []
    host, flags, took = 0.0, "", seconds(job, speed)
    if place.count == 1:
        table = memory(job, process=OF_DRIVER)
    else:
        given = job
        chosen, job, table, _ = fitting(job, place, room, asked, lambda one, way: sum(_spent(one, place, way).values()))
        layout, host = chosen.words(job, place), host_bytes(job, place, chosen)
        flags = " ".join(f"--{name} {str(value).lower()}" for name, value in chosen.flags(job, given, place).items())
        took = _spent(job, place, chosen)

    def taken(one: Job) -> Table:
        return memory(one, process=OF_DRIVER) if place.count == 1 else fitting(one, place, room, asked)[2]

    return Plan(
        device=place.name,
        rounds=job.rounds,
        table=table,
        available_bytes=room,
        seconds=took,
        changes=changes(job, taken, speed, fast_half=True) if place.count == 1 else [],
        largest=sizes(job, taken, room),
        facts=_facts(job, place.name),
        assumptions=_assumed(job, inputs, here=False, place=place),
        layout=layout,
        flags=flags,
        each="GPU" if place.count > 1 else "",
        host_bytes=host,
        round=_round(job),
    )


def _half(config: TrainConfig, device: torch.device, elsewhere: bool) -> bool:
    if elsewhere:
        return config.model.dtype == "float32" and config.model.bf16 is not False
    return uses_autocast(config.model, device)


def _spent(job: Job, place: Place, layout: Layout) -> dict[str, float]:
    """Seconds by phase over several GPUs: what is computed, and what travels."""
    assert place.accelerator is not None
    between = travel(job, place, layout)
    computed = seconds(
        job, speed_of(place.accelerator, job.work), layout.trainers(place).count, engine=layout.engine,
        writers=layout.servers or None,
    )  # fmt: skip
    return {phase: value + between.get(phase, 0.0) for phase, value in computed.items()}


def _asked(config: TrainConfig) -> dict[str, Any]:
    """What the options say of a layout, where somebody has set them; and what there is no option for."""
    value, given = values(config), explicit(config)
    found: dict[str, Any] = {name: False for name, option in MOVED.items() if option not in value}
    found |= {name: value[option] in (True, "cpu") for name, option in MOVED.items() if option in given}
    if "sharding" in given and value["sharding"] in ("none", "full"):
        found["sharded"] = value["sharding"] == "full"
    if isinstance(config, PPOConfig) and "sampler" in given:
        found["by_vllm"] = config.vllm.sampler == "vllm"
        if "vllm_mode" in given:
            found["apart"] = config.vllm.vllm_mode == "server"
    return found


def _room(device: torch.device, processes: int) -> float | None:
    """What this process may have: what is free, and what it has already; where several compute on one CPU its share."""
    free = free_memory(device)
    if free is None:
        return None
    if device.type == "cpu":
        return free / processes + (resident_bytes() or 0)
    return free + (torch.cuda.memory_allocated(device) if device.type == "cuda" else 0)


def _with_budget(job: Job, inputs: Inputs, room: float | None) -> Job:
    """The job with as many tokens a micro-batch as `auto` will give it."""
    if inputs.micro_tokens != "auto":
        return replace(job, micro_tokens=inputs.micro_tokens)
    return job if room is None else replace(job, micro_tokens=budget(job, room - PROCESS))


def _job(config: TrainConfig, inputs: Inputs, kind: str, *, autocast: bool) -> Job:
    model, run = config.model, config.run
    common: dict[str, Any] = {
        "device": kind if kind in ("cpu", "cuda", "mps") else "cpu",
        "policy": inputs.policy,
        "lora_rank": model.lora_r if model.use_peft else 0,
        "checkpointing": model.gradient_checkpointing,
        "stream": DTYPES[model.dtype].itemsize,
        "autocast": autocast,
        "micro_rows": run.micro_batch_size,
        "rounds": inputs.rounds,
    }
    longest, mean = max(inputs.lengths), sum(inputs.lengths) / len(inputs.lengths)
    if not isinstance(config, PPOConfig):
        return Job(
            step=config.command,  # pyright: ignore[reportArgumentType]
            batch=max(round(run.batch_size * inputs.texts), 1),
            response=longest,
            mean=mean,
            **common,
        )
    sampling, ppo = config.sampling, config.ppo
    exact = not autocast and model.dtype != "bfloat16"
    one_step = ppo.num_ppo_epochs * ppo.num_mini_batches == 1
    return Job(
        step="ppo",
        critic=config.model.critic if config.has_critic else "none",
        judge=inputs.judge,
        judge_on_trunk=inputs.judge_on_trunk,
        frozen_layers=config.model.freeze_layers,
        batch=run.batch_size,
        mini_batches=ppo.num_mini_batches,
        epochs=ppo.num_ppo_epochs,
        prompt=longest,
        response=sampling.response_length,
        mean=mean + sampling.response_length,
        distinct=max(run.batch_size // sampling.num_generations, 1),
        rows_at_once=min(sampling.generation_batch_size or run.batch_size, run.batch_size),
        reads_old=sampling.old_log_probs == "learner" or (
            sampling.old_log_probs == "auto" and not exact and not one_step
        ),
        full_kl=bool(config.kl.kl_loss_coef) and config.kl.kl_loss_estimator == "full",
        average=config.run.ema_decay is not None,
        ptx=round(config.ptx.ptx_batch_ratio * config.mini_batch_size) if config.ptx.ptx_coef else 0,
        ptx_length=config.ptx.ptx_max_length if config.ptx.ptx_coef else 0,
        **common,
    )  # fmt: skip


def _round(job: Job) -> str:
    return "iteration" if job.step == "ppo" else "step"


def _facts(job: Job, device: str) -> list[tuple[str, str]]:
    """What the plan is of, for people."""
    million = job.policy.parameters / 1e6
    size = f"{million:,.0f} M" if million < 10_000 else f"{million / 1000:,.1f} B"
    learned = (job.learned_by_policy + job.learned_by_critic) / 1e6
    precision = (
        "bf16 autocast over float32" if job.autocast else {2: "bfloat16", 4: "float32", 8: "float64"}[job.stream]
    )
    lengths = f"{job.prompt} + {job.response} tokens" if job.step == "ppo" else f"{job.response} tokens"
    facts = [
        ("device", device),
        ("model", f"{size} parameters, {learned:,.1f} M learn, {precision}"),
        ("batch", f"{job.batch} {'answers' if job.step == 'ppo' else 'texts'}, the longest of {lengths}"),
        ("micro-batch", f"{job.rows} texts of {job.longest} tokens"),
    ]
    return facts


def _assumed(job: Job, inputs: Inputs, *, here: bool, place: Place | None = None) -> list[str]:
    """What is taken for granted, a sentence each."""
    said = [*inputs.assumptions]
    if job.step == "ppo":
        said.append(f"every answer has its {job.response} tokens, and the longest prompt its {job.prompt}")
        said.append("the time of reward functions and servers is not in it")
    if not here and place is not None and place.accelerator is not None:
        gpu = place.accelerator
        said.append(
            f"one {gpu.name} holds {gib(gpu.memory)}, multiplies at 40 % of its peak and reads weights at 60 % of its "
            f"bandwidth ({gpu.source})"
        )
        if place.count > 1:
            said.append(
                "of several GPUs nothing was measured: formulas of one device, shares of them, and numbers that "
                f"travel at {place.link / 1e9:.0f} GB/s for each"
            )
    return said
