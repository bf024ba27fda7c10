"""Times, advice, places, layouts over many GPUs, sentences, and plans beside measurements."""

from dataclasses import replace
from itertools import pairwise

import pytest

from clearppo.config import PPOConfig, leaves
from clearppo.errors import ConfigError
from clearppo.plan.advice import changes, sizes
from clearppo.plan.after import beside, number
from clearppo.plan.devices import ACCELERATORS, place
from clearppo.plan.job import Job
from clearppo.plan.memory import GIB, Table, memory
from clearppo.plan.result import Plan, duration, gib
from clearppo.plan.spread import ELSEWHERE, HIDDEN, Layout, fitting, host_bytes, layouts, spread, travel, whole_fits
from clearppo.plan.time import Speed, seconds, speed_of
from tests.plan.shapes import LLAMA_70B, SMALL, job

SLOW = Speed(products=1000.0, steps=1000.0, reads=1000.0, copies=1e9, step=0.0, layer=0.0)


def taken(one: Job) -> Table:
    return memory(one, process=0.0)


def test_seconds_of_learning_by_hand() -> None:
    """Six operations an entry and token, and attention; four where adapters learn."""
    tokens = 8 * 9
    forward = 2 * 1000 * tokens + 2 * 2 * 8 * tokens * 9
    head = 2 * 800 * 8 * 6
    found = seconds(job(), SLOW)["learning"]
    assert found == pytest.approx((3 * forward + 3 * head) / 1000, rel=1e-3)
    assert seconds(job(lora_rank=2), SLOW)["learning"] == pytest.approx((2 * forward + 2 * head) / 1000, rel=1e-3)
    assert seconds(job(epochs=3), SLOW)["learning"] == pytest.approx(3 * found, rel=1e-3)
    assert seconds(job(frozen_layers=1), SLOW)["learning"] == pytest.approx((1.5 * forward + 3 * head) / 1000, rel=1e-3)
    checkpointed = seconds(job(checkpointing=True), SLOW)["learning"]
    assert checkpointed == pytest.approx(found * 4 / 3, rel=1e-3)


def test_seconds_of_sampling_and_feedback_by_hand() -> None:
    """A step reads all weights once, or multiplies each by all rows, whichever takes longer."""
    reads = replace(SLOW, products=1e15, steps=1e15)
    assert seconds(job(), reads)["sampling"] == pytest.approx(6 * 1800 * 4 / 1000, rel=1e-3)
    assert seconds(job(rows_at_once=4), reads)["sampling"] == pytest.approx(2 * 6 * 1800 * 4 / 1000, rel=1e-3)
    once = seconds(job(), SLOW)["feedback"]
    again = seconds(job(reads_old=True), SLOW)["sampling"] - seconds(job(), SLOW)["sampling"]
    assert again == pytest.approx(once)
    assert seconds(job(judge=SMALL.classifier()), SLOW)["feedback"] > 1.5 * once


def test_the_work_is_divided_among_gpus() -> None:
    eight = place("h100:8")
    assert eight.accelerator is not None
    speed = speed_of(eight.accelerator, 2)
    large = job(policy=LLAMA_70B, autocast=True, batch=512, micro_rows=8, response=512, mean=700.0, rows_at_once=512)
    one = seconds(large, speed)["learning"]
    many = seconds(large, speed, 8)["learning"] + travel(large, eight, Layout(sharded=True))["learning"]
    assert one / 8 < many < one / 5  # what travels costs something
    assert travel(large, place("h100"), Layout()) == {}
    # An engine over several GPUs reads its weights faster, and adds up twice a layer.
    few = replace(large, batch=8, rows_at_once=8)
    assert seconds(few, speed, 8, engine=4)["sampling"] < seconds(few, speed, 8)["sampling"]
    assert seconds(few, speed, 8, writers=4)["sampling"] > seconds(few, speed, 8)["sampling"]
    assert seconds(few, speed, 8, writers=4)["learning"] == seconds(few, speed, 8)["learning"]


def test_what_travels_by_hand() -> None:
    """Gradients there and back before a step; layers, twice a micro-batch and their gradients once."""
    where = place("h100:4")
    sent = 0.75 / where.link
    one = job(batch=8, mini_batches=2, micro_rows=8, epochs=3)
    plain = travel(one, where, Layout())
    assert plain == {"learning": pytest.approx(6 * 2 * 4 * (1840 + 8) * sent), "sampling": 0.0, "feedback": 0.0}
    full = travel(one, where, Layout(sharded=True))
    layers = 1040 * 4
    assert full["learning"] == pytest.approx(6 * (2 * 4 * 808 + (1 - HIDDEN) * 3 * layers) * sent)
    assert full["sampling"] == pytest.approx(layers * sent)  # for those that write answers
    assert full["feedback"] == pytest.approx((1 - HIDDEN) * layers * sent)  # each reads two rows at once
    smaller = travel(replace(one, micro_rows=1), where, Layout(sharded=True))
    assert smaller["feedback"] == pytest.approx(2 * full["feedback"])  # two micro-batches
    adapters = travel(replace(one, lora_rank=2), where, Layout(sharded=True))
    assert adapters["learning"] < full["learning"]
    assert travel(one, where, Layout(sharded=True, offloads=True))["learning"] > full["learning"]
    assert travel(one, where, Layout(sharded=True, offloads_frozen=True))["feedback"] > full["feedback"]


def test_places_as_they_are_typed() -> None:
    assert place("cpu").accelerator is None
    found = place("H100:64", 4)
    assert (found.name, found.count, found.node) == ("h100:64", 64, 4)
    assert found.link < place("h100:8").link  # between machines
    assert place("a100:8").accelerator is ACCELERATORS["a100-80"]
    assert all(one.source and one.half > one.single for one in ACCELERATORS.values())


@pytest.mark.parametrize(
    ("asked", "node", "said"),
    [
        ("h1000:8", None, "device = h1000:8 is none that plan knows. Did you mean h100?"),
        ("h100:0", None, "the number of GPUs must be from 1 to"),
        ("h100:99999999", None, "is none that plan knows"),
        ("", None, "is none that plan knows"),
        ("cpu:8", None, "is none that plan knows"),
        ("h100:8", 0, "gpus_per_node = 0; a machine has 1 or more"),
    ],
)
def test_places_that_are_none(asked: str, node: int | None, said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
        place(asked, node)


def test_changes_are_of_options_that_are_not_set_yet() -> None:
    flags = {change.flags for change in changes(job(), taken, SLOW, fast_half=True)}
    assert {"--use_peft true", "--gradient_checkpointing true", "--bf16 true", "--micro_batch_size 2"} <= flags
    used = job(lora_rank=2, checkpointing=True, autocast=True, judge=SMALL.classifier(), micro_rows=1)
    flags = {change.flags for change in changes(used, taken, SLOW, fast_half=True)}
    assert not flags & {"--use_peft true", "--gradient_checkpointing true", "--bf16 true"}
    assert "--share_trunk true" in flags
    peaks = [change.peak for change in changes(job(), taken, SLOW, fast_half=False)]
    assert peaks == sorted(peaks)


def test_the_largest_sizes_fit_and_the_next_do_not() -> None:
    one = job(micro_rows=2)
    room = taken(one).peak * 1.5
    found = sizes(one, taken, room)
    assert taken(one.with_batch(found["batch_size"])).peak <= room
    assert taken(one.with_batch(2 * found["batch_size"])).peak > room
    assert sizes(one, taken, 10.0) == {"batch_size": 0, "micro_batch_size": 0}
    grouped = job(batch=16, distinct=4, mini_batches=2, rows_at_once=16)
    assert sizes(grouped, taken, room)["batch_size"] % 8 == 0


def large_job() -> Job:
    return job(
        policy=LLAMA_70B, critic="separate", judge=LLAMA_70B.classifier(), autocast=True, batch=512, micro_rows=8,
        prompt=512, response=1024, mean=1300.0, distinct=512, rows_at_once=512,
    )  # fmt: skip


def test_what_one_of_several_processes_holds() -> None:
    """Of layers its share; embeddings and head, and the new critic's row, whole."""
    where = place("h100:4")
    one = job(batch=16, rows_at_once=16, distinct=16, micro_rows=2)
    plain, full = (spread(one, where, way).phases["learning"] for way in (Layout(), Layout(sharded=True)))
    assert plain["policy"] == plain["reference"] == 4 * 1840
    assert full["policy"] == full["reference"] == 4 * (1040 / 4 + 800)
    assert full["optimiser"] == 2 * 4 * (1040 / 4 + 800 + 8)
    assert full["gathered"] == 2 * 4 * 1000 / 2
    assert plain["gathered"] == 0
    assert full["gradients"] == 4 * (1040 / 4 + 800 + 8 + 1000 + 800)  # two whole layers, and the tied head's own
    separate = spread(replace(one, critic="separate"), where, Layout(sharded=True)).phases["learning"]
    assert separate["critic"] == 4 * (1040 / 4 + 800 + 8)
    adapters = spread(replace(one, lora_rank=2), where, Layout(sharded=True)).phases["learning"]
    assert adapters["optimiser"] == 2 * 4 * (600 / 4 + 8)
    assert one.share(4).batch == one.share(4).rows_at_once == 4
    assert one.share(3).batch == 6


def test_all_is_whole_before_it_is_shared_out() -> None:
    one = job(critic="separate", judge=SMALL.classifier())
    found = spread(one, place("h100:4"), Layout(sharded=True)).phases["loading"]
    assert found["policy"] == found["reference"] == found["reward model"] == 4 * 1840
    assert found["decoder"] == 4 * 1800
    assert "loading" not in spread(one, place("h100:4"), Layout()).phases


def test_engines_and_what_lies_in_the_hosts_memory() -> None:
    where = place("h100:4")
    one = job(judge=SMALL.classifier(), rows_at_once=64, batch=64, distinct=64)
    asleep = Layout(sharded=True, engine=1, offloads_frozen=True, sleeps=True)
    phases = spread(one, where, asleep).phases
    assert phases["sampling"]["decoder"] == 2 * 1840
    assert phases["sampling"]["KV cache"] == 2 * 2 * 2 * 4 * 64 * 16  # both, layers, bytes, keys, a bucket, rows
    assert phases["learning"]["decoder"] == phases["learning"]["KV cache"] == 0
    # Of a network that is shared out the layers lie elsewhere; of a whole one all of it, but for its turn.
    assert phases["learning"]["reference"] == pytest.approx(4 * 800)
    whole = spread(one, where, Layout(offloads_frozen=True)).phases
    assert whole["learning"]["reference"] == whole["learning"]["reward model"] == 0
    assert whole["feedback"]["reference"] == 4 * 1840
    awake = spread(one, where, replace(asleep, sleeps=False)).phases
    assert awake["learning"]["decoder"] == awake["sampling"]["decoder"] > 0
    away = spread(one, where, replace(asleep, offloads=True)).phases["learning"]
    none = 800 * 4
    assert away["policy"] == pytest.approx(none)
    assert away["optimiser"] == pytest.approx(2 * (none + 8 * 4))
    more = host_bytes(one, where, replace(asleep, offloads=True)) - host_bytes(one, where, asleep)
    assert more >= 0
    assert host_bytes(one, where, Layout()) == 4 * 4 * 1840  # each process loads all before it is on its GPU
    assert spread(one, where, Layout()).peak == spread(replace(one, parts=ELSEWHERE), where, Layout()).peak


def test_engines_on_gpus_of_their_own() -> None:
    where = place("h100:8")
    apart = Layout(sharded=True, engine=2, servers=4)
    one = job(batch=64, rows_at_once=64, distinct=64)
    phases = spread(one, where, apart).phases
    assert all(not roles["decoder"] and not roles["KV cache"] for name, roles in phases.items() if name != "loading")
    assert phases["learning"]["policy"] == 4 * (1040 / 4 + 800)  # four learn
    assert apart.engines == "2 vLLM engines of 2 GPUs each"
    assert apart.flags(one, one, where) == {
        "sharding": "full", "sampler": "vllm", "vllm_mode": "server", "vllm_server_base_url": "URLS",
    }  # fmt: skip
    beside = replace(apart, servers=0, engine=1, sleeps=True).flags(replace(one, checkpointing=True), one, where)
    assert beside["vllm_gpu_memory_utilization"] == pytest.approx(0.02)  # at least what so small a model takes
    assert beside["vllm_enable_sleep_mode"] is beside["gradient_checkpointing"] is True
    assert travel(one, where, apart)["sampling"] > travel(one, where, replace(apart, servers=0))["sampling"]


def test_options_of_a_layout_are_options() -> None:
    where, large = place("h100:8"), large_job()
    named = {name for way, changed in layouts(large, where, {}) for name in way.flags(changed, large, where)}
    assert {"sharding", "vllm_mode", "vllm_gpu_memory_utilization", "gradient_checkpointing"} <= named
    assert named - set(leaves(PPOConfig)) == set()


def test_layouts_go_from_simple_to_small() -> None:
    where = place("h100:8")
    found = list(layouts(job(), where, {}))
    assert found[0] == (Layout(), job())
    assert any(way.offloads_frozen for way, _ in found)
    assert not any(way.offloads_frozen for way, _ in layouts(job(lora_rank=2), where, {}))  # nothing is frozen apart
    assert {way.engine for way, _ in found} == {0, 1, 2, 4}
    assert {way.servers for way, _ in found} == {0, 1, 2, 4}
    assert found[-1][0].offloads
    assert found[-1][1].checkpointing
    assert all(not way.sharded for way, _ in layouts(job(), where, {"sharded": False}))
    assert {way.engine for way, _ in layouts(job(step="sft"), where, {"sharded": True})} == {0}
    assert all(way.apart for way, _ in layouts(job(), where, {"by_vllm": True, "apart": True}))
    assert {way.engine for way, _ in layouts(job(), where, {"by_vllm": False})} == {0}
    both = list(layouts(job(), place("h100:2"), {"sharded": False, "apart": True}))
    assert both
    assert all(not way.sharded and way.servers == 1 for way, _ in both)
    large = large_job()
    assert whole_fits(job(), where, 80e9)
    assert not whole_fits(large, where, 80e9)
    small, _, _, fits = fitting(job(), where, 80e9, {})
    assert (small, fits) == (Layout(), True)
    quick, *_ = fitting(job(), where, 80e9, {}, lambda one, way: -way.engine)
    assert quick == Layout(sharded=True, engine=4, servers=4)  # of those that are equally fast the simplest
    smallest, changed, table, fits = fitting(large, where, 80e9, {})
    assert not fits
    assert table.running > 80e9
    assert smallest.flags(changed, large, where)["sharding"] == "full"
    words = "\n".join(smallest.words(changed, where))
    assert f"shared out over {8 - smallest.servers} GPUs" in words


def test_each_step_of_a_layout_saves_memory() -> None:
    where = place("h100:64")
    frozen = Layout(sharded=True, engine=1, offloads_frozen=True)
    ways = [
        Layout(), Layout(sharded=True), frozen, replace(frozen, sleeps=True),
        replace(frozen, sleeps=True, offloads=True),
    ]  # fmt: skip
    learning = [spread(large_job(), where, way).total("learning") for way in ways]
    assert all(after < before for before, after in pairwise(learning))


def made(**more: object) -> Plan:
    table = Table(phases={"sampling": {"policy": GIB}, "learning": {"policy": GIB, "gradients": 2 * GIB}})
    given: dict[str, object] = {
        "device": "cpu", "rounds": 10, "table": table, "available_bytes": 8.0 * GIB,
        "seconds": {"sampling": 2.0, "learning": 10.0}, "changes": [], "largest": {}, "facts": [], "assumptions": [],
    }  # fmt: skip
    return Plan(**{**given, **more})  # pyright: ignore[reportArgumentType]


def test_a_plan_in_a_sentence_and_as_json() -> None:
    plan = made()
    assert plan.sentence == "about 3 GiB at the peak, in learning, of 8 GiB; about 12 s an iteration, 2 min in all"
    assert plan.fits
    tight = made(available_bytes=2.0 * GIB, round="step")
    assert not tight.fits
    assert "in learning, of 2 GiB, which does not fit; about 12 s a step" in tight.sentence
    assert made(available_bytes=None).fits
    found = plan.to_json()
    assert found["peak_bytes"] == 3 * GIB
    assert found["peak_phase"] == "learning"
    assert found["bytes"]["learning"] == {"policy": GIB, "gradients": 2 * GIB}
    assert (found["seconds_per_iteration"], found["total_seconds"]) == (12.0, 120.0)


def test_sizes_and_durations_for_people() -> None:
    assert [gib(n * GIB) for n in (0.5, 3.14159, 2000)] == ["0.5 GiB", "3.14 GiB", "2000 GiB"]
    said = [duration(n) for n in (0.031, 12, 100, 36000, 400000)]
    assert said == ["0.031 s", "12 s", "1.7 min", "10 h", "4.6 days"]


def test_planned_beside_measured() -> None:
    plan = made().to_json() | {"measured": {"peak_bytes": 4 * GIB}}
    rows = [
        {"step": 1, "time/sampling": 9.0, "time/learning": 9.0, "memory/learning": 3.5},
        {"step": 2, "time/sampling": 3.0, "time/learning": 11.0, "memory/learning": 3.25},
    ]
    sampling, learning, whole = beside(plan, rows)
    assert (sampling.phase, sampling.measured_seconds, sampling.measured_bytes) == ("sampling", 3.0, None)
    assert (learning.planned_bytes, learning.measured_bytes) == (3 * GIB, 3.5 * GIB)
    assert (whole.planned_bytes, whole.measured_bytes) == (3 * GIB, 4 * GIB)
    assert (whole.planned_seconds, whole.measured_seconds) == (12.0, 14.0)


def test_a_damaged_plan_is_read_as_far_as_it_goes() -> None:
    assert [number(value) for value in ("3", None, True, float("nan"), 2)] == [None, None, None, None, 2.0]
    (whole,) = beside({"bytes": [], "seconds": None, "peak_bytes": "much"}, [])
    assert (whole.planned_bytes, whole.measured_bytes, whole.measured_seconds) == (None, None, None)
