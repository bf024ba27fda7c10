"""A server that speaks vLLM's routes and answers with ClearPPO's own decoder: what a sampler of vLLM can be tested with
where there is none. Its shapes are held against vLLM's own classes where vLLM is (tests/vllm)."""

import json
import mmap
import os
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import torch

from clearppo.batch import Prompts
from clearppo.models.build import make_policy
from clearppo.models.loading import load_causal_lm, load_tokenizer
from clearppo.rollout import SamplingSettings
from clearppo.rollout.inprocess import InProcessSampler

CONFIG = {
    "model_config": {"dtype": "torch.float32", "max_model_len": 64, "logprobs_mode": "processed_logprobs"},
    "parallel_config": {"world_size": 1},
    "weight_transfer_config": {"backend": "clearppo"},
}


class VLLMServer:
    """Serves the model in `path` until `close`. What went wrong in a request is answered as vLLM answers it.

    To be changed by tests: `config` (what /server_info says), `version`, `die_after` (so many answers, then it hangs
    up), `spoil` (called with every answer before it goes out), `deaf` (it drops the weights that come).
    """

    def __init__(self, path: str) -> None:
        self.config: dict[str, Any] = json.loads(json.dumps(CONFIG))
        self.version = "0.32.0"
        self.die_after: int | None = None
        self.spoil = lambda answer: answer
        self.deaf = False
        self.calls: list[str] = []
        self.model = load_causal_lm(path)
        self.model.requires_grad_(False)
        self._policy = make_policy(self.model)  # here, for it draws random numbers, and a run may be in this process
        self._tokenizer = load_tokenizer(path)
        self._weights = "default"
        self._memory: mmap.mmap | None = None
        self._new: dict[str, torch.Tensor] | None = None
        self._answered = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._reply(None)

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                self._reply(json.loads(self.rfile.read(length) or b"{}"))

            def _reply(self, body: Any) -> None:
                try:
                    status, answer = outer._answer(self.path, body)
                except ConnectionAbortedError:
                    self.close_connection = True
                    return
                except Exception as error:
                    status, answer = 500, {"error": {"message": str(error), "type": "InternalServerError"}}
                data = b"" if answer is None else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler

    def _answer(self, path: str, body: Any) -> tuple[int, Any]:
        parts = urlsplit(path)
        self.calls.append(parts.path)
        if self.die_after is not None and self._answered >= self.die_after:
            raise ConnectionAbortedError
        match parts.path:
            case "/version":
                return 200, {"version": self.version}
            case "/server_info":
                assert parse_qs(parts.query) == {"config_format": ["json"]}
                return 200, {"vllm_config": self.config}
            case "/weight_info":
                return 200, {"weight_version": self._weights}
            case "/health":
                return 200, None
            case "/inference/v1/generate":
                with self._lock:
                    return 200, self._generated(body)
            case _:
                return 200, getattr(self, f"_{parts.path.strip('/')}")(body)

    def _pause(self, body: Any) -> Any:
        return {"status": "paused"}

    def _resume(self, body: Any) -> Any:
        return {"status": "resumed"}

    def _init_weight_transfer_engine(self, body: Any) -> Any:
        info = body["init_info"]
        handle = os.open(f"/proc/{info['pid']}/fd/{info['fd']}", os.O_RDONLY)
        self._memory = mmap.mmap(handle, info["size"], prot=mmap.PROT_READ)
        os.close(handle)
        assert self._memory[: len(info["token"]) // 2].hex() == info["token"]
        return {"message": "Weight transfer initialized"}

    def _start_weight_update(self, body: Any) -> Any:
        assert self._new is None, "start_weight_update called while a weight update is already active"
        self._new = {}
        return {"message": "Weight update started"}

    def _update_weights(self, body: Any) -> Any:
        info = body["update_info"]
        if "names" not in info:
            self._new = None  # an error ends an update
            raise ValueError("Invalid update_info")
        assert self._memory is not None
        assert self._new is not None
        for name, dtype_name, shape, start in zip(
            info["names"], info["dtype_names"], info["shapes"], info["offsets"], strict=True
        ):
            dtype = getattr(torch, dtype_name)
            size = torch.Size(shape).numel() * dtype.itemsize
            self._new[name] = torch.frombuffer(bytearray(self._memory[start : start + size]), dtype=dtype).view(shape)
        assert info.get("total") in (None, len(self._new))
        return {"message": "Weights updated"}

    def _finish_weight_update(self, body: Any) -> Any:
        if not self.deaf:
            self.model.load_state_dict(self._new)
        self._new, self._weights = None, body["weight_version"]
        return {"message": "Weight update finished"}

    def _generated(self, body: Any) -> Any:
        params, ids = body["sampling_params"], torch.tensor([body["token_ids"]])
        if params.get("prompt_logprobs") is not None:
            return {**self._shape([1], [-1.0], "length"), "prompt_logprobs": self._prompt_log_probs(ids)}
        settings = SamplingSettings(
            max_tokens=params["max_tokens"], temperature=params["temperature"], top_k=params["top_k"],
            top_p=params["top_p"], stop_token_ids=frozenset(params["stop_token_ids"]),
            stop_strings=tuple(params["stop"] or ()),
        )  # fmt: skip
        prompts = Prompts(ids=ids, mask=torch.ones_like(ids, dtype=torch.bool), texts=("",), columns={})
        sampler = InProcessSampler(self._policy, self._tokenizer, settings, seed=params["seed"])
        made = sampler.generate(prompts)
        self._answered += 1
        return self.spoil(self._shape(made.responses[0].tolist(), made.log_probs[0].tolist(), made.finish_reasons[0]))

    def _prompt_log_probs(self, ids: torch.Tensor) -> list[Any]:
        with torch.no_grad():
            found = self.model(ids).logits[0].log_softmax(dim=-1)
        tokens = ids[0].tolist()
        later = [
            {str(token): {"logprob": float(found[i, token]), "rank": 1, "decoded_token": None}}
            for i, token in enumerate(tokens[1:])
        ]
        return [None, *later]

    def _shape(self, tokens: list[int], log_probs: list[float], finish: str) -> dict[str, Any]:
        content = [
            {"token_id": t, "logprob": p, "rank": 1, "top_logprobs": []} for t, p in zip(tokens, log_probs, strict=True)
        ]
        choice = {
            "index": 0,
            "finish_reason": finish,
            "stop_reason": None,
            "token_ids": tokens,
            "weight_versions": [{"version": self._weights, "start": 0, "end": len(tokens)}],
            "logprobs": {"content": content},
        }
        return {"request_id": "generate-tokens-1", "model": "policy", "prompt_logprobs": None, "choices": [choice]}


def closed(*servers: VLLMServer) -> None:
    """End these servers, those too that have ended."""
    for server in servers:
        with suppress(OSError):
            server.close()
