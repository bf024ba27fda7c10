"""Answers a second that `clearppo serve-reward` marks, over the number of clients at once. Run it from the root:

    .venv/bin/python -m benchmarks.serve_reward
    .venv/bin/python -m benchmarks.serve_reward --model runs/reward --clients 1,4,16 --rows 4
    .venv/bin/python -m benchmarks.serve_reward --smoke

Server and clients are threads of one process, which is harder on the server than it would have it alone. The last line
of the table is the model without a server, given all answers at once: what the way by HTTP costs is the difference.
"""

import argparse
import http.client
import json
import random
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.host import host
from benchmarks.inputs import DEFAULT_MODEL, make
from benchmarks.output import in_words, table, write

SMOKE = {"clients": "1,3", "requests": 6, "rows": 2}
TEXT = "the film was a delight and people were wonderful but the ending seemed long to me"


def main() -> None:
    chosen = arguments().parse_args()
    if chosen.smoke:
        vars(chosen).update(SMOKE)
    with tempfile.TemporaryDirectory() as folder:
        made = {} if chosen.model else make(Path(folder), model=DEFAULT_MODEL, smoke=chosen.smoke, adapter=False)
        result = measure(chosen, chosen.model or made["reward"])
    print(shown(result))
    write(chosen.output, result)


def arguments() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    options.add_argument("--model", help="a reward model; without it the default model with a random head")
    options.add_argument("--clients", default="1,2,4,8,16,32", help="clients at once, with commas")
    options.add_argument("--requests", type=int, default=64, help="requests in all, shared by the clients")
    options.add_argument("--rows", type=int, default=4, help="answers a request")
    options.add_argument("--words", type=int, default=40, help="words an answer")
    options.add_argument("--device", default="auto")
    options.add_argument("--smoke", action="store_true", help="a tiny model and few requests: does it run?")
    options.add_argument("--output", type=Path, default=Path("runs/benchmarks/serve_reward.json"))
    return options


def measure(chosen: argparse.Namespace, model: str) -> dict[str, Any]:
    """Requests and answers a second, and the waiting times, for each number of clients; and the model alone."""
    from clearppo.build.serve import build_server

    bodies = requests(chosen.requests, chosen.rows, chosen.words)
    server = build_server(model, host="127.0.0.1", port=0, device=chosen.device)
    uvicorn = server.server()
    thread = threading.Thread(target=uvicorn.run, kwargs={"sockets": [server.socket]}, daemon=True)
    thread.start()
    try:
        load(server.url, bodies[:2], 1)  # the first pass finds its kernels
        results = {str(n): load(server.url, bodies, n) for n in map(int, str(chosen.clients).split(","))}
    finally:
        uvicorn.should_exit = True
        thread.join()
    settings = {name: getattr(chosen, name) for name in ("requests", "rows", "words")}
    return {
        "settings": settings,
        "results": results,
        "alone": alone(model, bodies, chosen.device),
        "host": host(),
    }


def requests(count: int, rows: int, words: int) -> list[bytes]:
    chance = random.Random(0)

    def text(n: int) -> str:
        return " ".join(chance.choices(TEXT.split(), k=n))

    return [
        json.dumps(
            {"prompts": [text(8) for _ in range(rows)], "completions": [text(words) for _ in range(rows)]}
        ).encode()
        for _ in range(count)
    ]


def load(url: str, bodies: list[bytes], clients: int) -> dict[str, float]:
    """Send all bodies from so many threads, each on a connection of its own."""
    parts, todo, lock = urlsplit(url), list(bodies), threading.Lock()
    waits: list[float] = []

    def client() -> None:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=600)
        while True:
            with lock:
                if not todo:
                    return
                body = todo.pop()
            began = time.perf_counter()
            connection.request("POST", parts.path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, answer.status
            waits.append(time.perf_counter() - began)

    began = time.perf_counter()
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    rows = sum(len(json.loads(body)["prompts"]) for body in bodies)
    waits.sort()
    return {
        "requests_per_second": len(waits) / seconds,
        "answers_per_second": rows / seconds,
        "median_ms": 1000 * waits[len(waits) // 2],
        "p95_ms": 1000 * waits[min(int(len(waits) * 0.95), len(waits) - 1)],
    }


def alone(model: str, bodies: list[bytes], device: str) -> float:
    """Answers a second of the model without a server, all at once."""
    import torch

    from clearppo.engines.local import has_fast_bf16, select_device
    from clearppo.feedback.model import RewardModelScorer

    place = select_device(device)
    scorer = RewardModelScorer.load(model, place, torch.float32, 16, autocast=has_fast_bf16(place))
    rows = [json.loads(body) for body in bodies]
    prompts = [text for row in rows for text in row["prompts"]]
    completions = [text for row in rows for text in row["completions"]]
    scorer.marks(scorer.encoded(prompts[:8], completions[:8]))
    began = time.perf_counter()
    scorer.marks(scorer.encoded(prompts, completions)).tolist()
    return len(prompts) / (time.perf_counter() - began)


def shown(result: dict[str, Any]) -> str:
    rows = [["clients at once", "requests/s", "answers/s", "median ms", "95 % below ms"]]
    for clients, cell in result["results"].items():
        numbers = (cell["requests_per_second"], cell["answers_per_second"], cell["median_ms"], cell["p95_ms"])
        rows.append([clients, *(f"{number:,.1f}" for number in numbers)])
    rows.append(["no server", "", f"{result['alone']:,.1f}", "", ""])
    settings = result["settings"]
    title = f"serve-reward: {settings['requests']} requests of {settings['rows']} answers of {settings['words']} words"
    return f"{table(title, rows)}\n{in_words(result['host'])}"


if __name__ == "__main__":
    main()
