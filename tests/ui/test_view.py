"""The API of `clearppo view` on made runs: what each address gives, and what none of them gives away."""

import json
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from clearppo.config import PPOConfig, load_config
from clearppo.config.objective import objective
from clearppo.record.schema import prompt_id
from clearppo.ui.runs import open_index
from clearppo.ui.spread import histogram
from clearppo.ui.view import ROUTES, as_json, make_app
from tests.pages.made import make

RANGES = ("score", "kl", "length", "advantage", "reward")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "runs"
    make(path)
    return path


@pytest.fixture(scope="module")
def client(folder: Path) -> TestClient:
    return TestClient(make_app(open_index([folder])), base_url="http://127.0.0.1:8400")


def get(client: TestClient, path: str, **parameters: Any) -> Any:
    answer = client.get(path, params=parameters)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


def refused(client: TestClient, path: str, status: int, **parameters: Any) -> str:
    answer = client.get(path, params=parameters)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    assert "\n" not in answer.json()["error"]
    return answer.json()["error"]


def recorded(folder: Path, run: str, step: int) -> list[dict[str, Any]]:
    return pq.read_table(folder / run / "record" / f"step-{step:06d}.parquet").to_pylist()


# --------------------------------------------------------------------------------------------- runs


def test_the_runs(client: TestClient, folder: Path) -> None:
    found = get(client, "/api/runs")
    assert found["root"] == str(folder)
    by_id = {run["id"]: run for run in found["runs"]}
    assert set(by_id) == {"ppo-a", "ppo-b", "rloo", "sft", "reward", "pipeline~sft", "pipeline~reward", "pipeline~ppo"}
    assert {by_id[name]["kind"] for name in ("ppo-a", "rloo", "pipeline~ppo")} == {"ppo"}
    a = by_id["ppo-a"]
    assert (a["state"], a["step"], a["n_steps"], a["recorded"], a["report"]) == ("finished", 12, 12, 12, False)
    assert by_id["ppo-b"]["state"] == "stopped"
    assert (a["reward_report"], by_id["reward"]["reward_report"]) == (False, True)
    assert by_id["pipeline~ppo"]["name"] == "pipeline/ppo"


def test_one_run(client: TestClient, folder: Path) -> None:
    found = get(client, "/api/runs/ppo-a")
    config = folder / "ppo-a" / "config.yaml"
    assert found["config"] == config.read_text()
    assert found["options"]["kl"]["kl_coef"] == 0.05
    assert found["objective"] == objective(load_config(PPOConfig, config_path=config))
    assert found["recorded_steps"] == list(range(1, 13))
    assert found["evaluated_steps"] == [0, 4, 8, 12]
    assert found["best"]["step"] == 8
    assert found["models"] == {"final": str(folder / "ppo-a")}
    assert [event["kind"] for event in found["events"]] == ["best"]
    assert found["plan"]["memory"]["planned"] == 3.0
    assert (found["alarms"], get(client, "/api/runs/sft")["plan"]) == ([], None)
    kinds = {event["kind"] for event in get(client, "/api/runs/ppo-b")["events"]}
    assert kinds == {"skipped", "dropped", "early_stop", "alarm", "alarm_over"}
    assert get(client, "/api/runs/sft")["objective"] is None


def test_alarms(client: TestClient) -> None:
    found = get(client, "/api/runs/ppo-b")
    jump, kl = found["alarms"]
    assert (jump["alarm"], jump["source"], jump["step"], jump["over"]) == ("reward_jump", "helpful", 4, 9)
    assert (kl["alarm"], kl["step"], kl["over"], kl["action"]) == ("kl_runaway", 8, None, "checkpoint")
    assert {*kl["title"]} == {*kl["sentence"]} == {*kl["advice"]} == {"en", "zh"}
    steps = [event["step"] for event in found["events"]]
    assert steps == sorted(steps)
    assert [event["step"] for event in found["events"] if event["kind"].startswith("alarm")] == [4, 8, 9]
    listed = {run["id"]: run["alarms"] for run in get(client, "/api/runs")["runs"]}
    assert [(it["alarm"], it["over"]) for it in listed["ppo-b"]] == [("reward_jump", 9), ("kl_runaway", None)]
    assert listed["ppo-a"] == listed["sft"] == []


def test_metrics(client: TestClient, folder: Path) -> None:
    found = get(client, "/api/runs/ppo-a/metrics")
    rows = [json.loads(line) for line in (folder / "ppo-a" / "metrics.jsonl").read_text().splitlines()]
    assert found["columns"]["step"] == sorted({row["step"] for row in rows})
    at = found["columns"]["step"].index(5)
    row = next(row for row in rows if row["step"] == 5)
    assert found["columns"]["objective/kl"][at] == row["objective/kl"]
    assert found["columns"]["time/learning"][at] is not None
    again = get(client, "/api/runs/ppo-a/metrics", cursor=found["cursor"])
    assert again == {"cursor": found["cursor"], "reset": False, "columns": {"step": []}}


def test_a_run_that_begins_while_one_looks(tmp_path: Path, folder: Path) -> None:
    shutil.copytree(folder / "sft", tmp_path / "one")
    index = open_index([tmp_path])
    client = TestClient(make_app(index), base_url="http://127.0.0.1")
    shutil.copytree(folder / "ppo-a", tmp_path / "two")
    refused(client, "/api/runs/two", 404)
    index._rest = 0
    assert [run["id"] for run in get(client, "/api/runs")["runs"]] == ["one", "two"]
    get(client, "/api/runs/two")
    shutil.rmtree(tmp_path / "two")
    assert [run["id"] for run in get(client, "/api/runs")["runs"]] == ["one"]


# --------------------------------------------------------------------------------------------- iterations


def test_a_page_of_answers(client: TestClient, folder: Path) -> None:
    rows = recorded(folder, "ppo-a", 3)
    found = get(client, "/api/runs/ppo-a/iterations/3", sort="score", order="desc", limit=3, offset=1)
    expected = sorted(rows, key=lambda row: -row["score"])[1:4]
    assert [row["row"] for row in found["rows"]] == [row["row"] for row in expected]
    assert (found["total"], found["matching"], found["step"]) == (len(rows), len(rows), 3)
    assert found["meta"]["estimator"] == "gae"
    shown = found["rows"][0]
    for name in ("score", "raw_score", "kl", "length", "reward", "advantage", "finish_reason", "learned", "completion"):
        assert shown[name] == expected[0][name], name
    assert "tokens" not in shown


@pytest.mark.parametrize("name", RANGES)
def test_bounds(name: str, client: TestClient, folder: Path) -> None:
    rows = recorded(folder, "ppo-a", 2)
    middle = sorted(row[name] for row in rows)[len(rows) // 2]
    found = get(client, "/api/runs/ppo-a/iterations/2", **{f"min_{name}": middle}, limit=500)
    assert {row["row"] for row in found["rows"]} == {row["row"] for row in rows if row[name] >= middle}
    assert 0 < found["matching"] < found["total"]
    both = {f"min_{name}": middle, f"max_{name}": middle}
    assert get(client, "/api/runs/ppo-a/iterations/2", **both)["matching"] >= 1


def test_how_the_numbers_are_spread(client: TestClient, folder: Path) -> None:
    rows = recorded(folder, "ppo-b", 6)
    found = get(client, "/api/runs/ppo-b/iterations/6", learned="false")  # the filters make no difference
    for name, spread in found["summary"].items():
        values = [row[name] for row in rows if row[name] is not None]
        edges, counts = spread["edges"], spread["counts"]
        assert (spread["min"], spread["max"]) == (min(values), max(values))
        assert spread["mean"] == pytest.approx(sum(values) / len(values))
        assert sum(counts) == len(values)
        assert len(edges) == len(counts) + 1 <= 25
        for i, count in enumerate(counts):
            last = i == len(counts) - 1
            near = [v for v in values if edges[i] <= v < edges[i + 1] or (last and v == edges[-1])]
            assert abs(len(near) - count) <= 1, name  # an edge may be off by a last bit
    assert list(found["summary"]) == ["score", "kl", "reward", "advantage", "length"]
    assert all(edge == int(edge) for edge in found["summary"]["length"]["edges"])
    assert found["unscored"] == sum(row["score"] is None for row in rows) > 0
    assert sum(found["finish_reasons"].values()) == len(rows)


def test_spreads_by_hand() -> None:
    equal = histogram([2.0, 2.0], whole=False)
    assert equal == {"min": 2.0, "max": 2.0, "mean": 2.0, "edges": [2.0, 2.0], "counts": [2]}
    whole = histogram([1, 2, 2, 4], whole=True)
    assert (whole["edges"], whole["counts"]) == ([1, 2, 3, 4, 5], [1, 2, 0, 1])
    wide = histogram([1, 49], whole=True)
    assert wide["edges"] == list(range(1, 53, 3))
    assert (wide["counts"][0], wide["counts"][-1]) == (1, 1)
    many = histogram([i / 10 for i in range(241)], whole=False)
    assert (len(many["counts"]), many["edges"][0], many["edges"][-1]) == (24, 0.0, 24.0)


def test_searching_and_filtering(client: TestClient, folder: Path) -> None:
    rows = recorded(folder, "ppo-b", 6)
    found = get(client, "/api/runs/ppo-b/iterations/6", learned="false")
    assert {row["row"] for row in found["rows"]} == {row["row"] for row in rows if not row["learned"]}
    cut = get(client, "/api/runs/ppo-b/iterations/6", finish="length", limit=500)
    assert {row["row"] for row in cut["rows"]} == {r["row"] for r in rows if r["finish_reason"] == "length"}
    word = next(row["completion"].split()[0] for row in rows)
    said = get(client, "/api/runs/ppo-b/iterations/6", q=word.upper(), limit=500)
    assert said["matching"] == sum(
        word.lower() in row["completion"].lower() or word.lower() in row["prompt"].lower() for row in rows
    )
    assert get(client, "/api/runs/ppo-b/iterations/6", q="(no [regular expression")["matching"] == 0


def test_long_texts_are_cut_in_tables(client: TestClient, folder: Path, tmp_path: Path) -> None:
    from clearppo.ui.library import shortened

    assert shortened("x" * 2000) == "x" * 2000
    assert shortened("x" * 2001) == "x" * 2000 + "…"
    assert shortened([{"role": "user", "content": "y" * 3000}]) == [{"role": "user", "content": "y" * 2000 + "…"}]


# --------------------------------------------------------------------------------------------- answers and tokens


def test_an_answer(client: TestClient, folder: Path) -> None:
    rows = recorded(folder, "ppo-a", 4)
    found = get(client, "/api/runs/ppo-a/iterations/4/answers/2")
    for name in ("tokens", "token_ids", "log_probs", "ref_log_probs", "sampler_log_probs", "kls", "rewards", "values",
                 "returns", "advantages"):  # fmt: skip
        assert found["tokens"][name] == rows[2][name], name
    assert found["ratios"] == rows[2]["ratios"]
    for ratios, cut in zip(found["ratios"], found["clipped"], strict=True):
        for ratio, advantage, is_cut in zip(ratios, rows[2]["advantages"], cut, strict=True):
            assert is_cut == ((ratio > 1.2 and advantage > 0) or (ratio < 0.8 and advantage < 0))
    assert (found["previous"], found["next"]) == (1, 3)
    assert get(client, "/api/runs/ppo-a/iterations/4/answers/0")["previous"] is None
    assert get(client, f"/api/runs/ppo-a/iterations/4/answers/{len(rows) - 1}")["next"] is None


def test_a_conversation_stays_one(client: TestClient, folder: Path) -> None:
    talks = [row for row in recorded(folder, "ppo-a", 1) if row["prompt"].startswith("[{")]
    found = get(client, f"/api/runs/ppo-a/iterations/1/answers/{talks[0]['row']}")
    assert found["prompt"] == json.loads(talks[0]["prompt"])


def test_a_token(client: TestClient) -> None:
    answer = get(client, "/api/runs/ppo-a/iterations/4/answers/2")
    last = answer["length"] - 1
    found = get(client, f"/api/runs/ppo-a/iterations/4/answers/2/tokens/{last}")
    assert found["token"]["text"] == answer["tokens"]["tokens"][last]
    assert found["token"]["last"]
    process = 0.05 * (answer["tokens"]["ref_log_probs"][last] - answer["tokens"]["log_probs"][last])
    by_name = {line["name"]["en"]: line for line in found["equations"]}
    assert by_name["process reward"]["value"] == pytest.approx(process, rel=1e-5)
    assert by_name["reward"]["value"] == pytest.approx(process + answer["score"], rel=1e-5)
    assert by_name["advantage, whitened"]["recorded"] == answer["tokens"]["advantages"][last]
    assert set(found["story"]) == {"en", "zh"}


@pytest.mark.parametrize("run", ["ppo-a", "ppo-b", "rloo"])
def test_the_equations_of_made_runs_agree(run: str, client: TestClient) -> None:
    """Their numbers come from arithmetic of the tests' own (tests/pages/numbers.py)."""
    for row in range(8):
        length = get(client, f"/api/runs/{run}/iterations/2/answers/{row}")["length"]
        for token in range(length):
            found = get(client, f"/api/runs/{run}/iterations/2/answers/{row}/tokens/{token}")
            agreed = {line["agrees"] for line in found["equations"]}
            assert False not in agreed
            assert True in agreed


# --------------------------------------------------------------------------------------------- prompts, evaluations


def test_prompts_and_their_answers(client: TestClient, folder: Path) -> None:
    found = get(client, "/api/runs/ppo-a/prompts", limit=500)
    rows = {step: recorded(folder, "ppo-a", step) for step in range(1, 13)}
    first = found["prompts"][0]
    assert first["prompt_id"] == prompt_id(first["prompt"])
    where = [(step, row) for step, many in rows.items() for row in many if row["prompt_id"] == first["prompt_id"]]
    assert first["n_training"] == len(where)
    assert found["total"] == found["matching"] == len(found["prompts"])
    told = get(client, f"/api/runs/ppo-a/prompts/{first['prompt_id']}")
    training = [answer for answer in told["answers"] if answer["source"] == "training"]
    assert [(a["step"], a["row"], a["completion"]) for a in training] == [
        (step, row["row"], row["completion"]) for step, row in where
    ]
    steps = [answer["step"] for answer in told["answers"]]
    assert steps == sorted(steps)
    assert len(told["answers"]) == first["n"]
    assert (steps[0], steps[-1]) == (first["first"], first["last"])


def test_prompts_are_searched(client: TestClient) -> None:
    everything = get(client, "/api/runs/ppo-a/prompts", limit=500)["prompts"]
    word = "second half"
    found = get(client, "/api/runs/ppo-a/prompts", q=word.upper())
    assert 0 < found["matching"] == sum(word in json.dumps(row["prompt"]).lower() for row in everything)
    assert len(get(client, "/api/runs/ppo-a/prompts", limit=2, offset=1)["prompts"]) == 2
    wanted = everything[1]["prompt_id"]
    assert [row["prompt_id"] for row in get(client, "/api/runs/ppo-a/prompts", q=wanted)["prompts"]] == [wanted]


def test_held_out_answers(client: TestClient, folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "ppo-a/evaluation/step-8.jsonl").read_text().splitlines()]
    assert get(client, "/api/runs/ppo-a/evaluation/8")["rows"] == rows
    told = get(client, f"/api/runs/ppo-a/prompts/{prompt_id(rows[0]['prompt'])}")
    held_out = [a for a in told["answers"] if a["source"] == "evaluation" and a["step"] == 8]
    assert [answer["completion"] for answer in held_out] == [rows[0]["completion"]]
    assert held_out[0]["score"] == rows[0]["score"]


def test_a_reward_models_report(client: TestClient, folder: Path) -> None:
    report = json.loads((folder / "reward" / "reward_report.json").read_text())
    assert get(client, "/api/runs/reward/reward_report") == report


# --------------------------------------------------------------------------------------------- what is not there


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/api/runs/none", "there is no run 'none'"),
        ("/api/runs/none/metrics", "no run"),
        ("/api/runs/ppo-a/iterations/99", "iteration 99 of this run is not recorded"),
        ("/api/runs/sft/iterations/1", "not recorded"),
        ("/api/runs/ppo-a/iterations/1/answers/999", "no 999"),
        ("/api/runs/ppo-a/iterations/1/answers/0/tokens/999", "there is no 999"),
        ("/api/runs/ppo-a/iterations/-1", "step = '-1'"),
        ("/api/runs/ppo-a/iterations/one", "step = 'one'"),
        ("/api/runs/ppo-a/iterations/1e3", "whole number"),
        ("/api/runs/ppo-a/iterations/" + "9" * 400, "whole number"),
        ("/api/runs/ppo-a/iterations/²", "whole number"),
        ("/api/runs/ppo-a/evaluation/3", "nothing was measured at step 3"),
        ("/api/runs/ppo-a/prompts/0123456789ab", "no prompt '0123456789ab'"),
        ("/api/runs/ppo-a/reward_report", "only clearppo reward writes one"),
        ("/api/elsewhere", "there is nothing at /api/elsewhere"),
    ],
)
def test_what_is_not_there(path: str, said: str, client: TestClient) -> None:
    assert said in refused(client, path, 404)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"sort": "tokens"}, "sort = tokens"),
        ({"order": "up"}, "order = 'up'"),
        ({"limit": "501"}, "limit = '501'"),
        ({"limit": "-1"}, "limit = '-1'"),
        ({"offset": "x"}, "offset = 'x'"),
        ({"min_score": "high"}, "min_score = 'high'"),
        ({"max_kl": "nan"}, "max_kl = 'nan'"),
        ({"learned": "maybe"}, "learned = 'maybe'"),
    ],
)
def test_what_cannot_be_asked(parameters: dict[str, str], said: str, client: TestClient) -> None:
    assert said in refused(client, "/api/runs/ppo-a/iterations/1", 422, **parameters)


def test_a_run_that_goes_while_one_looks(folder: Path, tmp_path: Path) -> None:
    """It is said, again and again; the others stay."""
    for name in ("ppo-a", "ppo-b"):
        shutil.copytree(folder / name, tmp_path / name)
    client = TestClient(make_app(open_index([tmp_path])), base_url="http://127.0.0.1:8400")
    shutil.rmtree(tmp_path / "ppo-b")
    for _ in range(2):
        assert refused(client, "/api/runs/ppo-b", 404) == "the run ppo-b is not there any more"
    assert [run["id"] for run in get(client, "/api/runs")["runs"]] == ["ppo-a"]


def test_files_that_cannot_be_read_hide_no_other_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ppo-a", "ppo-b"):
        shutil.copytree(folder / name, tmp_path / name)
    client = TestClient(make_app(open_index([tmp_path])), base_url="http://127.0.0.1:8400")
    plain = Path.open

    def refusing(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self == tmp_path / "ppo-b" / "metrics.jsonl":
            raise PermissionError(13, "Permission denied", str(self))
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refusing)
    assert [run["id"] for run in get(client, "/api/runs")["runs"]] == ["ppo-a"]
    assert refused(client, "/api/runs/ppo-b", 404) == "a file of the run cannot be read now (Permission denied)"


def test_a_damaged_record_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "ppo-a", tmp_path / "a")
    file = tmp_path / "a" / "record" / "step-000002.parquet"
    file.write_bytes(file.read_bytes()[:-200])
    client = TestClient(make_app(open_index([tmp_path])), base_url="http://127.0.0.1")
    assert "step-000002.parquet" in refused(client, "/api/runs/a/iterations/2", 422)
    assert get(client, "/api/runs/a/prompts")["total"] > 0  # of the other iterations


# --------------------------------------------------------------------------------------------- what is not given away


@pytest.mark.parametrize(
    "path",
    [
        "/api/runs/..",
        "/api/runs/%2e%2e",
        "/api/runs/..%2f..%2fetc/metrics",
        "/api/runs/ppo-a%2f..%2fppo-b",
        "/api/runs/%2fetc%2fpasswd",
        "/api/runs/..~..~etc/reward_report",
        "/api/runs/pipeline%7e..%7eppo-a",
        "/api/runs/ppo-a/iterations/..%2f1",
        "/api/runs/ppo-a/evaluation/..%2f..%2fconfig",
        "/api/runs/ppo-a/prompts/..%2f..%2fconfig.yaml",
        "/api/runs/ppo-a%00",
        "/static/../view.py",
        "/static/%2e%2e/view.py",
        "/static/..%2fview.py",
        "/config.yaml",
    ],
)
def test_no_path_leads_out(path: str, client: TestClient) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert list(answer.json()) == ["error"]


def test_links_that_lead_out_of_a_run(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "ppo-a", tmp_path / "runs" / "a")
    run, other = tmp_path / "runs" / "a", folder / "ppo-b"
    for name in ("record/step-000001.parquet", "evaluation/step-4.jsonl", "metrics.jsonl"):
        (run / name).unlink()
    (run / "record/step-000001.parquet").symlink_to(other / "record/step-000001.parquet")
    (run / "evaluation/step-4.jsonl").symlink_to(other / "metrics.jsonl")
    (run / "metrics.jsonl").symlink_to(other / "metrics.jsonl")
    (run / "reward_report.json").symlink_to(folder / "reward" / "reward_report.json")
    client = TestClient(make_app(open_index([tmp_path / "runs"])), base_url="http://127.0.0.1")
    refused(client, "/api/runs/a/iterations/1", 404)
    refused(client, "/api/runs/a/evaluation/4", 404)
    refused(client, "/api/runs/a/reward_report", 404)
    assert get(client, "/api/runs/a/metrics")["columns"].get("objective/kl") is None
    assert get(client, "/api/runs/a")["evaluated_steps"] == [0, 8, 12]


def test_nothing_is_written_and_nothing_but_get_answered(client: TestClient, folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    for path in ROUTES:
        filled = path.format(run="ppo-a", step="8", row="0", token="0", prompt="x")
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            assert client.request(method, filled).status_code == 405
        client.get(filled)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_other_names_are_refused(client: TestClient) -> None:
    assert client.get("/api/runs", headers={"Host": "evil.example"}).status_code == 400


def test_the_page_and_its_scripts(client: TestClient) -> None:
    assert client.get("/").text.lstrip().lower().startswith("<!doctype html>")
    script = client.get("/static/app.js")
    assert script.headers["content-type"].startswith("text/javascript")
    plotly = client.get("/static/plotly.min.js")
    assert plotly.status_code == 200
    assert "javascript" in plotly.headers["content-type"]
    assert len(plotly.content) > 10**6
    assert client.get("/healthz").json() == {"status": "ok"}


def test_json_of_strange_numbers_and_texts() -> None:
    assert as_json({"a": date(2026, 1, 2), (1, 2): 3}) == b'{"a":"2026-01-02"}'
    assert (
        as_json({"a": [1.5, float("nan"), float("inf")], "b": "é\ud800"}) == '{"a":[1.5,null,null],"b":"é?"}'.encode()
    )
