"""One or several vLLM servers: who is well, what weights they have, and who answers which row.

An engine that is lost takes nobody along: its rows are asked of another, and it is taken back, with new weights, once
it is well again. What an engine refuses any other would refuse too, so a refusal ends the run.
"""

import contextlib
import math
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlencode

import torch

from clearppo.errors import ConfigError, ModelError
from clearppo.rollout.vllm.engine import START, Each, Engine, Sender, Weights
from clearppo.rollout.vllm.http import EngineHTTP, EngineLost, EngineRefused
from clearppo.rollout.vllm.memory import SharedWeights
from clearppo.rollout.vllm.protocol import GENERATE, probe, probed

MOST = 256
"""Requests that one engine has at a time, if nothing says how many; it queues what it has no room for."""
CLOSE, ROUNDED = 0.01, 0.3
"""How far, in nats a token, an engine may be from the learner on the probe: in float32, and in 16 bits."""


@dataclass(frozen=True)
class Expected:
    """What the learner thinks of some tokens, so that an engine can be asked the same: log-probs of all but the first,
    at temperature 1, in nats. `rounded`: it computes in 16 bits itself."""

    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    rounded: bool


class Engines:
    """The engines at these URLs. `sender` brings them weights (None: as they were started for).

    `most`: how many requests one engine has at a time. `note` is told when one is lost or comes back. With
    `sleeps` they give up the device's memory between generations (vLLM's sleep mode).
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        note: Callable[[str], None],
        timeout: float = 240.0,
        most: int | None = None,
        sender: Sender | None = None,
        sleeps: bool = False,
    ) -> None:
        self.all = [Engine(EngineHTTP(url, timeout=timeout)) for url in urls]
        self.version = ""
        self._note = note
        self._most = most or MOST
        self._sender = sender
        self._sleeps, self._asleep = sleeps, False
        self._run, self._count = secrets.token_hex(4), 0

    @property
    def told(self) -> str:
        """What they are, for people."""
        types = sorted({str(engine.dtype).removeprefix("torch.") for engine in self.all})
        versions = sorted({engine.vllm for engine in self.all})
        by = "GPU to GPU" if self.all[0].backend == "nccl" else "through this machine's memory"
        many = f"{len(self.all)} engines" if len(self.all) > 1 else "an engine"
        return f"{many} of vLLM {', '.join(versions)} in {', '.join(types)}, weights {by},"

    @property
    def well(self) -> list[Engine]:
        """Those that answer."""
        return [engine for engine in self.all if engine.lost is None]

    def meet(self, longest: int) -> None:
        """Ask all what they are; `longest` tokens must fit into each. Raises ConfigError for one that cannot serve us,
        or is not there: at the start all must be."""
        for engine in self.all:
            try:
                engine.meet()
            except EngineLost as error:
                raise ConfigError(f"{error} {START} Or mend --vllm_server_base_url.") from error
            if engine.room < longest:
                raise ConfigError(
                    f"the vLLM server at {engine.http.url} has room for {engine.room} tokens, and the longest prompt "
                    f"with its answer has {longest}. Start it with --max-model-len {longest}, or lower "
                    "--response_length or --max_prompt_length."
                )

    def hand_over(self, weights: Weights, expected: Expected) -> None:
        """Give all engines these weights, and make sure that they have them: each must name the new version and think
        of some tokens what the learner thinks. Raises EngineLost if none is left, ModelError."""
        self._take_back()
        self._wake("weights")
        self._count += 1
        version = f"{self._run}-{self._count}"
        each = self._each
        each(self.well, lambda engine: engine.http.post("/pause?" + urlencode({"mode": "wait"})))
        each(self.well, _begin)
        self._sender_for_all().send(self.well, weights, each)
        each(self.well, lambda engine: engine.http.post("/finish_weight_update", {"weight_version": version}))
        self._wake("kv_cache")
        each(self.well, lambda engine: engine.http.post("/resume"))  # pausing has emptied the cache of old prefixes
        self.version = version
        each(self.well, lambda engine: self._check(engine, expected))

    def ask(self, bodies: Sequence[Mapping[str, Any]], read: Callable[[Any, str], Any]) -> list[Any]:
        """What `read` makes of the answers to these requests, in order. Raises EngineLost if no engine is left, and
        what `read` raises."""
        self._wake(None)
        answers: dict[int, Any] = {}
        while len(answers) < len(bodies):
            waiting = [row for row in range(len(bodies)) if row not in answers]
            engines = self._require()
            shares = {engine: waiting[place :: len(engines)] for place, engine in enumerate(engines)}
            self._ask_shares(shares, bodies, read, answers)
        self._rest()
        return [answers[row] for row in range(len(bodies))]

    def _sender_for_all(self) -> Sender:
        backends = {engine.backend for engine in self.all}
        if len(backends) > 1:
            raise ConfigError(
                "some vLLM servers take weights by nccl and others by this machine's memory. Start all with the same "
                "--weight_transfer."
            )
        if self._sender is None and backends == {"nccl"}:
            from clearppo.rollout.vllm.nccl import NCCLSender

            self._sender = NCCLSender()
        self._sender = self._sender or MemorySender()
        return self._sender

    def _ask_shares(
        self,
        shares: Mapping[Engine, Sequence[int]],
        bodies: Sequence[Mapping[str, Any]],
        read: Callable[[Any, str], Any],
        answers: dict[int, Any],
    ) -> None:
        failed = threading.Event()

        def one(engine: Engine, row: int) -> None:
            if failed.is_set() or engine.lost is not None:
                return
            try:
                answers[row] = read(engine.http.post(GENERATE, bodies[row]), engine.http.url)
            except EngineLost as error:
                self._lose(engine, error)
            except BaseException:
                failed.set()
                raise

        pools = [ThreadPoolExecutor(min(self._most, len(rows))) for rows in shares.values() if rows]
        try:
            futures = [
                pool.submit(one, engine, row)
                for pool, (engine, rows) in zip(pools, ((e, r) for e, r in shares.items() if r), strict=True)
                for row in rows
            ]
            wait(futures)
        except BaseException:  # Ctrl-C: nothing more is asked, and what was asked is given up
            failed.set()
            for engine in shares:
                with contextlib.suppress(EngineLost, EngineRefused):
                    engine.http.post("/abort_requests")
            raise
        finally:
            for pool in pools:
                pool.shutdown(wait=False, cancel_futures=True)
        for future in futures:
            future.result()

    def _each(self, engines: Sequence[Engine], call: Callable[[Engine], Any]) -> None:
        """The same of several engines at once; one that is lost on the way is left out from then on."""

        def one(engine: Engine) -> None:
            try:
                call(engine)
            except EngineLost as error:
                self._lose(engine, error)

        with ThreadPoolExecutor(max(len(engines), 1)) as pool:
            for future in [pool.submit(one, engine) for engine in engines]:
                future.result()
        self._require()

    def _require(self) -> list[Engine]:
        if engines := self.well:
            return engines
        several = f"all {len(self.all)} vLLM servers are lost; the last said: " if len(self.all) > 1 else ""
        raise EngineLost(f"{several}{self.all[-1].lost} Start it again, and go on with --resume_from_checkpoint auto.")

    def _lose(self, engine: Engine, error: EngineLost) -> None:
        if engine.lost is None:
            engine.lost, engine.introduced = str(error), False
            if self.well:
                self._note(f"{error} Its answers are asked of the others.")

    def _take_back(self) -> None:
        """Engines that were lost and are well again."""
        for engine in self.all:
            if engine.lost is not None and engine.http.is_well():
                try:
                    engine.meet()
                except (EngineLost, EngineRefused):
                    continue
                engine.lost = None
                self._note(f"the vLLM server at {engine.http.url} is back")

    def _check(self, engine: Engine, expected: Expected) -> None:
        url = engine.http.url
        has = (engine.http.get("/weight_info") or {}).get("weight_version")
        if has != self.version:
            raise ModelError(
                f"the vLLM server at {url} has the weights {has}, and {self.version} were handed over. Is another run "
                "using it? Give each run engines of its own."
            )
        tokens = expected.tokens[: max(engine.room - 1, 2)]  # it must have room for one more
        found = probed(engine.http.post(GENERATE, probe(tokens)), tokens, url)
        apart = [abs(a - b) for a, b in zip(found, expected.log_probs[: len(found)], strict=True)]
        rounded = expected.rounded or engine.dtype not in (torch.float32, torch.float64)
        if not sum(apart) / len(apart) <= (ROUNDED if rounded else CLOSE):
            raise ModelError(
                f"the vLLM server at {url} has the policy's weights and is still {sum(apart) / len(apart):.3g} nats a "
                "token away from it: it was started with another model, or vLLM computes this one otherwise. "
                "Start it with the model of --model_name_or_path."
            )

    def _wake(self, tag: Literal["weights", "kv_cache"] | None) -> None:
        if not self._asleep:
            return
        query = "?" + urlencode({"tags": tag}) if tag else ""
        self._each(self.well, lambda engine: engine.http.post(f"/wake_up{query}"))
        self._asleep = tag == "weights"

    def _rest(self) -> None:
        if self._sleeps:
            self._each(self.well, lambda engine: engine.http.post("/sleep?level=1"))
            self._asleep = True


class MemorySender:
    """Weights by way of this machine's memory."""

    def __init__(self) -> None:
        self._memory: SharedWeights | None = None

    def send(self, engines: Sequence[Engine], weights: Weights, each: Each) -> None:
        """See Sender. Raises ConfigError where an engine cannot read this process's memory."""
        memory = self._room(engines, weights)
        each([engine for engine in engines if not engine.introduced], lambda engine: self._introduce(engine, memory))
        for piece in memory.pieces(weights.stream(), _widest(engines)):
            still = [engine for engine in engines if engine.lost is None]
            each(still, lambda engine, piece=piece: engine.http.post("/update_weights", {"update_info": piece}))

    def _room(self, engines: Sequence[Engine], weights: Weights) -> SharedWeights:
        if self._memory is None:
            size = _widest(engines).itemsize
            shapes = weights.shapes.values()
            self._memory = SharedWeights(max(math.prod(shape) * max(size, dtype.itemsize) for shape, dtype in shapes))
        return self._memory

    def _introduce(self, engine: Engine, memory: SharedWeights) -> None:
        try:
            engine.http.post("/init_weight_transfer_engine", {"init_info": memory.introduction()})
        except EngineRefused as error:
            raise ConfigError(
                f"the vLLM server at {engine.http.url} cannot read this process's memory ({error}): that takes one "
                "machine and one user. Elsewhere start it with --weight_transfer nccl."
            ) from error
        engine.introduced = True


def _begin(engine: Engine) -> None:
    """Have an update begin; one that another run left half done, as it was killed, is given up by an error in it."""
    try:
        engine.http.post("/start_weight_update")
    except EngineRefused:
        with contextlib.suppress(EngineRefused):
            engine.http.post("/update_weights", {"update_info": {}})
        engine.http.post("/start_weight_update")


def _widest(engines: Iterable[Engine]) -> torch.dtype:
    """The type that is sent: an engine rounds to its own, so that of the one that rounds least."""
    return max((engine.dtype for engine in engines), key=lambda dtype: dtype.itemsize, default=torch.float32)
