"""Parts of the sampler of vLLM that need no server: the memory, the flags of an engine, what is said to NCCL."""

import os
from typing import Any

import pytest
import torch

from clearppo.rollout.vllm.engine import Engine
from clearppo.rollout.vllm.http import EngineHTTP
from clearppo.rollout.vllm.launch import INSIDE, Server, reason
from clearppo.rollout.vllm.memory import SharedWeights
from clearppo.rollout.vllm.nccl import Client, address_for


def test_every_tensor_lies_where_a_piece_says() -> None:
    memory = SharedWeights(200, size=512)
    weights = {f"w{i}": torch.randn(5, i + 1) for i in range(9)} | {"step": torch.arange(7)}
    found: dict[str, torch.Tensor] = {}
    pieces = 0
    handle = os.open(f"/proc/{os.getpid()}/fd/{memory.introduction()['fd']}", os.O_RDONLY)
    for piece in memory.pieces(iter(weights.items()), torch.float32):
        pieces += 1
        for name, dtype, shape, start in zip(
            piece["names"], piece["dtype_names"], piece["shapes"], piece["offsets"], strict=True
        ):
            kind = getattr(torch, dtype)
            raw = os.pread(handle, torch.Size(shape).numel() * kind.itemsize, start)
            found[name] = torch.frombuffer(bytearray(raw), dtype=kind).view(shape)
    os.close(handle)
    assert pieces > 2
    assert piece["total"] == len(weights)
    assert list(found) == list(weights)
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    memory.close()


def test_an_engine_is_started_with_what_it_needs_and_its_own_flags_come_last() -> None:
    server = Server(model="m", port=8000, python="/x/python", flags=["--dtype", "float32"], devices="3")
    command = server.command()
    assert command[:4] == ["/x/python", "-m", "clearppo_serve", "m"]
    assert command[-2:] == ["--dtype", "float32"]
    assert "--worker-extension-cls" in command
    assert "--worker-extension-cls" not in Server(model="m", port=1, transfer="nccl").command()
    there = server.environment({"RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "1", "PYTHONPATH": "/y", "HOME": "/h"})
    assert there == {
        "HOME": "/h", "PYTHONPATH": f"{INSIDE}{os.pathsep}/y", "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "CUDA_VISIBLE_DEVICES": "3",
    }  # fmt: skip
    assert (INSIDE / "clearppo_serve.py").is_file()


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("INFO x\nValueError: no room left\nRuntimeError: Engine core initialization failed.\n", "no room left."),
        ("a.b.ValidationError: 1 validation error for ModelConfig\n  Value error, what is this?\n", "what is this?."),
        ("ready\nKilled", "Killed."),
        ("", "it said nothing."),
    ],
)
def test_why_a_server_ended(log: str, said: str) -> None:
    assert reason(log).endswith(said)


def test_nccl_ranks_of_several_engines_follow_each_other() -> None:
    posted: list[tuple[str, str, Any]] = []

    class HTTP(EngineHTTP):
        def post(self, path: str, body: Any = None) -> Any:
            posted.append((self.url, path, body))

    engines = [Engine(HTTP(f"http://127.0.0.1:{port}"), devices=n) for port, n in ((1, 2), (2, 1), (3, 4))]

    def each(chosen: Any, call: Any) -> None:
        for engine in chosen:
            call(engine)

    client = Client(engines, each)
    client.init_weight_transfer_engine({"rank_offset": 1, "world_size": 8, "packed": True})
    assert [(url[-1], body["init_info"]["rank_offset"]) for url, _, body in posted] == [("1", 1), ("2", 3), ("3", 4)]
    assert {body["init_info"]["world_size"] for _, _, body in posted} == {8}
    posted.clear()
    client.start_weight_update()
    client.update_weights({"names": ["a"]})
    client.finish_weight_update("v")
    assert [(path, body) for _, path, body in posted] == [("/update_weights", {"update_info": {"names": ["a"]}})] * 3
    assert address_for(engines) == "127.0.0.1"
