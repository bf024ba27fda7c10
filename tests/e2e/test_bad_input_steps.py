"""Bad input to every step, alone and in a row: one sentence that names the value and the mend, exit code 2, no
traceback, and the disk as it was before."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.judge_server import judge_server
from tests.tiny import SENTENCES, tiny_causal_lm, tiny_reward_model, tiny_tokenizer

Change = dict[str, Any]
"""Options that differ from a run that works; None leaves one out."""
Case = tuple[Change, list[str]]
"""What is changed, and what the sentence must say."""

LONG = " good" * 300
WORDS = ("film", "plot", "food", "music", "dog", "ending")
WORSE = {"role": "assistant", "content": "c"}
USER, ASSISTANT = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}

FILES: dict[str, list[Any]] = {
    "demonstrations": [{"prompt": f"The {word} was", "completion": " good."} for word in WORDS],
    "comparisons": [{"prompt": f"The {word} was", "chosen": " good", "rejected": " bad"} for word in WORDS],
    "prompts": [{"prompt": text[:12]} for text in SENTENCES],
    "texts": [{"text": text} for text in SENTENCES],
    "empty": [],
    "too_long": [{"prompt": f"The {word} was", "completion": LONG} for word in WORDS],
    "one": [{"prompt": "The film was", "completion": " good."}],
    "mixed": [{"prompt": "a", "completion": "b"}, {"text": "c"}],
    "messages": [{"messages": [{**USER, "content": word}, ASSISTANT]} for word in WORDS],
    "no_assistant": [{"messages": [USER]}],
    "null": [{"prompt": "a", "completion": None}],
    "same": [{"prompt": "a", "chosen": "b", "rejected": "b"}],
    "blank": [{"prompt": "a", "chosen": "b", "rejected": " "}],
    "two_prompts": [{"chosen": [USER, ASSISTANT], "rejected": [{**USER, "content": "z"}, ASSISTANT]}],
    "two_dialogues": [{"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: z\n\nAssistant: c"}],
    "other_prompt": [
        {"prompt": [{**USER, "content": "q"}], "chosen": [USER, ASSISTANT], "rejected": [USER, WORSE]}
    ],
    "unlike": [{"prompt": "a", "chosen": [USER, ASSISTANT], "rejected": "c"}],
    "no_answer": [{"prompt": "a", "completions": [], "scores": []}],
    "unjudged": [{"prompt": "a", "completions": ["b", "c"]}],
    "equals": [{"prompt": "a", "completions": ["b", "b"], "scores": [1, 2]}],
    "pairs": [{"prompt": "a", "completions": ["b", "c"], "pairs": [[0, 5]]}],
    "margin": [{"prompt": "a", "chosen": "b", "rejected": "c", "margin": -1}],
    "kinds": [
        {"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "completions": ["b", "c"], "scores": [1, 2]}
    ],
    "long_pairs": [{"prompt": f"The {word} was", "chosen": LONG, "rejected": " bad"} for word in WORDS],
    "scored_prompts": [{"prompt": "a", "scores": 1}],
    "number": [{"prompt": 3}],
}  # fmt: skip
FUNCTIONS = """
import math, sys
def score(prompts, completions, **columns): return [len(text) + text.count("e") / 7 for text in completions]
def raises(prompts, completions, **columns): raise ValueError("oops")
def leaves(prompts, completions, **columns): sys.exit(3)
def few(prompts, completions, **columns): return [1.0]
def nan(prompts, completions, **columns): return [math.nan for _ in completions]
def words(prompts, completions, **columns): return ["good" for _ in completions]
def nothing(prompts, completions, **columns): return [None for _ in completions]
def same(prompts, completions, **columns): return [1.0 for _ in completions]
def single(prompts, completions, **columns): return 1.0
"""
ALL = {"device": "cpu", "model_name_or_path": "lm"}
TRAINED = {**ALL, "output_dir": "out", "batch_size": 4}
WORKING: dict[str, dict[str, Any]] = {
    "sft": {**TRAINED, "dataset_name": "demonstrations.jsonl"},
    "reward": {**TRAINED, "dataset_name": "comparisons.jsonl"},
    "prefs": {
        **ALL, "dataset_name": "prompts.jsonl", "labeller": "label.py:score", "output_file": "out.jsonl",
        "response_length": 6,
    },
    "ppo": {
        **TRAINED, "dataset_name": "prompts.jsonl", "reward_funcs": "label.py:score", "total_episodes": 8,
        "response_length": 6,
    },
    "rlhf": {
        **ALL, "demonstrations": "demonstrations.jsonl", "comparisons": "comparisons.jsonl", "prompts": "prompts.jsonl",
        "output_dir": "out", "ppo.response_length": 6, "ppo.total_episodes": 8, "ppo.batch_size": 4,
    },
}  # fmt: skip

SFT: dict[str, Case] = {
    "reward model as policy": ({"model_name_or_path": "rm"}, ["rm is a reward model", "--model_name_or_path"]),
    "no EOS": ({"model_name_or_path": "no_eos"}, ["no end-of-sequence token", "eos_token"]),
    "no chat template": (
        {"model_name_or_path": "no_chat", "dataset_name": "messages.jsonl"}, ["line 2", "chat template"],
    ),
    "empty": ({"dataset_name": "empty.jsonl"}, ["empty.jsonl holds no demonstrations"]),
    "comparisons": ({"dataset_name": "comparisons.jsonl"}, ["line 1", "prompt, chosen, rejected", "`completion`"]),
    "mixed": ({"dataset_name": "mixed.jsonl"}, ["line 2", "`prompt`", "text"]),
    "null": ({"dataset_name": "null.jsonl"}, ["line 1", "`completion` is nothing (null)", "a string"]),
    "no assistant": ({"dataset_name": "no_assistant.jsonl"}, ["line 1", "roles seen: user"]),
    "one row": ({"dataset_name": "one.jsonl"}, ["none of the 1", "--eval_fraction 0"]),
    "too long": ({"dataset_name": "too_long.jsonl"}, ["longer than max_length = 128", "longest has"]),
    "held-out too long": ({"eval_dataset_name": "too_long.jsonl"}, ["too_long.jsonl", "max_length = 128"]),
    "all held out": ({"eval_fraction": 1}, ["eval_fraction = 1", "at most 0.9"]),
    "two held-out parts": (
        {"eval_dataset_name": "texts.jsonl", "eval_fraction": 0.2}, ["eval_fraction = 0.2", "eval_dataset_name"],
    ),
    "rate NaN": ({"learning_rate": "nan"}, ["learning_rate = nan", "at most 10"]),
    "rate huge": ({"learning_rate": "1e9"}, ["learning_rate = 1e9", "at most 10"]),
    "no step": ({"max_steps": 0}, ["max_steps = 0", "at least 1"]),
    "two warm-ups": ({"warmup_steps": 3, "warmup_ratio": 0.1}, ["warmup_steps = 3", "warmup_ratio = 0.1"]),
    "output is a file": ({"output_dir": "texts.jsonl"}, ["output_dir = texts.jsonl is a file"]),
    "output below a file": ({"output_dir": "texts.jsonl/run"}, ["texts.jsonl/run", "--output_dir"]),
    "output is a model": ({"output_dir": "lm"}, ["output_dir = lm holds a model", "--output_dir"]),
    "output empty": ({"output_dir": ""}, ["output_dir = ''", "not empty"]),
    "deep output": ({"output_dir": "new/and/deep", "model_name_or_path": "rm"}, ["rm is a reward model"]),
    "attention": ({"attn_implementation": "fast"}, ["attn_implementation = fast", "--attn_implementation sdpa"]),
    "another command's option": ({"kl_coef": 0.1}, ["Unknown option --kl_coef"]),
    "recipe without the step": ({"recipe": "article"}, ["recipe article has no part for clearppo sft", "ppo"]),
    "binary": ({"dataset_name": "binary.jsonl"}, ["binary.jsonl line 1", "UTF-8"]),
    "parquet of 0 bytes": ({"dataset_name": "nothing.parquet"}, ["nothing.parquet", "Parquet"]),
}  # fmt: skip
REWARD: dict[str, Case] = {
    "two outputs": ({"model_name_or_path": "two"}, ["two has num_labels = 2", "one output"]),
    "identical": ({"dataset_name": "same.jsonl"}, ["line 1", "`chosen` and `rejected` are identical", '"b"']),
    "blank": ({"dataset_name": "blank.jsonl"}, ["line 1", "`rejected` is empty"]),
    "prompts differ": ({"dataset_name": "two_prompts.jsonl"}, ["line 1", "prompts", "differ", "message 1"]),
    "dialogues differ": ({"dataset_name": "two_dialogues.jsonl"}, ["line 1", "prompts", "differ"]),
    "another prompt": ({"dataset_name": "other_prompt.jsonl"}, ["line 1", "another prompt than `prompt`"]),
    "unlike forms": ({"dataset_name": "unlike.jsonl"}, ["line 1", "a list", "a string"]),
    "no answer": ({"dataset_name": "no_answer.jsonl"}, ["line 1", "no answer", "needs two"]),
    "unjudged": ({"dataset_name": "unjudged.jsonl"}, ["line 1", "nothing says", "`scores`"]),
    "equal answers": ({"dataset_name": "equals.jsonl"}, ["line 1", "identical"]),
    "pair of no answer": ({"dataset_name": "pairs.jsonl"}, ["line 1, pair 1", "0 to 1"]),
    "margin": ({"dataset_name": "margin.jsonl"}, ["line 1", "`margin` is -1", "0 or more"]),
    "two formats": ({"dataset_name": "kinds.jsonl"}, ["line 2", "`chosen`", "the same format"]),
    "demonstrations": ({"dataset_name": "demonstrations.jsonl"}, ["line 1", "no comparison", "prompt, completion"]),
    "too long": ({"dataset_name": "long_pairs.jsonl"}, ["longer than max_length = 128"]),
    "empty": ({"dataset_name": "empty.jsonl"}, ["empty.jsonl holds no comparisons"]),
    "centring": ({"rm_loss": "all-token", "center_coef": 0.1}, ["center_coef = 0.1 has no effect", "--rm_loss"]),
    "one reference": ({"reference_dataset_name": "one.jsonl"}, ["one.jsonl leaves 1", "--reference_dataset_name"]),
    "unknown placeholder": ({"judgement_template": "{answer} {score}"}, ["{score}", "--judgement_template"]),
    "no name": ({"judgement_template": "{}{answer}"}, ["{} without a name"]),
    "output of the data": ({"output_dir": "comparisons.jsonl"}, ["is a file"]),
}  # fmt: skip
PREFS: dict[str, Case] = {
    "reward model as policy": ({"model_name_or_path": "rm"}, ["rm is a reward model"]),
    "language model as judge": ({"labeller": None, "reward_model_path": "lm"}, ["lm is a Llama", "not a reward model"]),
    "nobody judges": ({"labeller": None}, ["--labeller", "--reward_model_path", "--judge_url"]),
    "two judge": ({"reward_model_path": "rm"}, ["labeller and reward_model_path are given"]),
    "no labeller": ({"labeller": "label.py:nope"}, ["`nope` is missing", "score"]),
    "labeller raises": ({"labeller": "label.py:raises"}, ["`raises` raised ValueError: oops", "label.py:4", "rows 1"]),
    "labeller exits": ({"labeller": "label.py:leaves"}, ["`leaves` raised SystemExit"]),
    "labeller count": ({"labeller": "label.py:few"}, ["`few` returned 1 scores for"]),
    "labeller NaN": ({"labeller": "label.py:nan"}, ["`nan` returned nan for rows 1"]),
    "labeller words": ({"labeller": "label.py:words"}, ["`words` returned a str, 'good'"]),
    "labeller one number": ({"labeller": "label.py:single"}, ["`single` returned a float", "a list"]),
    "labeller cannot tell": ({"labeller": "label.py:nothing"}, ["none of", "None"]),
    "all tied": ({"labeller": "label.py:same"}, ["tied", "min_gap = 0"]),
    "wide gap": ({"min_gap": 1000}, ["tied", "min_gap = 1000", "--min_gap"]),
    "judge is dead": ({"labeller": None, "judge_url": "http://127.0.0.1:9/score"}, ["127.0.0.1:9", "refused"]),
    "judge is no URL": ({"labeller": None, "judge_url": "localhost"}, ["judge_url = localhost", "http://"]),
    "one answer": ({"num_completions": 1}, ["num_completions = 1", "at least 2"]),
    "no room": ({"response_length": 128}, ["response_length = 128", "128 tokens", "--response_length"]),
    "empty": ({"dataset_name": "empty.jsonl"}, ["empty.jsonl holds no prompts"]),
    "prompt is a number": ({"dataset_name": "number.jsonl"}, ["line 1", "`prompt` is a number"]),
    "prompts with scores": ({"dataset_name": "scored_prompts.jsonl"}, ["row 1", "`scores`"]),
    "output is there": ({"output_file": "texts.jsonl"}, ["texts.jsonl is there already", "--overwrite_output_file"]),
    "output is the input": (
        {"output_file": "prompts.jsonl", "overwrite_output_file": "true"}, ["prompts.jsonl is dataset_name"],
    ),
    "output's ending": ({"output_file": "out.txt"}, ["out.txt must end in .jsonl", "--output_file out.jsonl"]),
    "deep output": ({"output_file": "new/and/deep.jsonl", "model_name_or_path": "rm"}, ["rm is a reward model"]),
}  # fmt: skip
TWO = {"num_generations": 2}
PPO: dict[str, Case] = {
    "reward model as policy": ({"model_name_or_path": "rm"}, ["rm is a reward model"]),
    "language model as reward": ({"reward_model_path": "lm"}, ["lm is a Llama", "not a reward model"]),
    "two outputs": ({"critic": "separate", "value_model_path": "two"}, ["critic two", "--value_model_path"]),
    "no critic there": ({"critic": "separate", "value_model_path": "no/such"}, ["no/such", "--value_model_path"]),
    "recipe without its text": (
        {"recipe": "instructgpt", "batch_size": 8}, ["ptx_coef = 27.8", "--ptx_dataset_name"],
    ),
    "ptx empty": ({"ptx_coef": 1, "ptx_dataset_name": "empty.jsonl"}, ["empty.jsonl holds no demonstrations"]),
    "ptx of prompts": ({"ptx_coef": 1, "ptx_dataset_name": "number.jsonl"}, ["number.jsonl line 1"]),
    "ptx too long": (
        {"ptx_coef": 1, "ptx_dataset_name": "texts.jsonl", "ptx_max_length": 3}, ["--ptx_max_length", "max_length = 3"],
    ),
    "ptx off": ({"ptx_dataset_name": "texts.jsonl"}, ["has no effect", "--ptx_coef"]),
    "groups": ({"num_generations": 3}, ["num_generations = 3 does not divide batch_size = 4", "--batch_size 3"]),
    "group of one": ({"advantage_estimator": "grpo"}, ["num_generations = 1", "--num_generations 4"]),
    **{
        f"{name} without a critic": (
            {"advantage_estimator": "rloo", **TWO, name: value}, [f"{name} = {value} has no effect", "rloo"],
        )
        for name, value in {
            "lam": 0.9, "critic_lam": 1, "gamma": 0.9, "vf_coef": 0.2, "critic": "separate", "critic_warmup_steps": 1,
            "cliprange_value": 0.1, "critic_learning_rate": 0.1, "critic_adam_epsilon": 0.1,
        }.items()
    },
    "whitened twice": (
        {"advantage_estimator": "grpo", **TWO, "whiten_advantages": "true"}, ["whiten_advantages = true has no effect"],
    ),
    "no baseline": (
        {"advantage_estimator": "reinforce++", "whiten_advantages": "false"}, ["reinforce++", "--whiten_advantages"],
    ),
    "never ends": ({"fixed_length": "true", "missing_eos_score": -1}, ["missing_eos_score = -1", "--truncate_token"]),
    "two endings": ({"missing_eos_score": -1, "missing_eos_penalty": 1}, ["missing_eos_score", "only one"]),
    "cut without length": ({"truncate_token": "."}, ["truncate_token = .", "--fixed_length true"]),
    "cut at two tokens": ({"fixed_length": "true", "truncate_token": "the film"}, ["is 6 tokens", "--truncate_token"]),
    "cut behind the end": (
        {"fixed_length": "true", "truncate_token": ".", "truncate_after": 6}, ["truncate_after = 6", "less than 6"],
    ),
    "KL of no weight": ({"kl_loss_estimator": "full"}, ["kl_loss_estimator = full has no effect", "--kl_loss_coef"]),
    "KL k1 in the loss": ({"kl_loss_coef": 0.1, "kl_loss_estimator": "k1"}, ["k2, k3, full"]),
    "average of nothing": ({"ema_decay": 1}, ["ema_decay = 1", "below 1"]),
}  # fmt: skip
RLHF: dict[str, Case] = {
    "reward model as policy": ({"model_name_or_path": "rm"}, ["rm is a reward model"]),
    "no demonstrations there": ({"demonstrations": "data/none.jsonl"}, ["step sft", "none.jsonl", "--demonstrations"]),
    "no comparisons there": ({"comparisons": "nope.jsonl"}, ["step reward", "nope.jsonl"]),
    "identical comparisons": ({"comparisons": "same.jsonl"}, ["step reward", "same.jsonl line 1", "identical"]),
    "no prompts there": ({"prompts": "data/nope.jsonl"}, ["step ppo", "nope.jsonl", "--prompts"]),
    "empty prompts": ({"prompts": "empty.jsonl"}, ["step ppo", "empty.jsonl holds no prompts"]),
    "placeholder": ({"reward.judgement_template": "{x}"}, ["step reward", "{x}", "--reward.judgement_template"]),
    "no labeller": ({"comparisons": None, "labeller": "label.py:nope"}, ["step prefs", "`nope` is missing"]),
    "judge is dead": (
        {"comparisons": None, "judge_url": "http://127.0.0.1:9/score"}, ["step prefs", "refused", "--judge_url"],
    ),
    "language model as reward": (
        {"comparisons": None, "reward_model_path": "lm"}, ["step ppo", "lm is a Llama", "--reward_model_path"],
    ),
    "no reward model there": ({"comparisons": None, "reward_model_path": "./none"}, ["step ppo", "./none"]),
    "no reward function": (
        {"comparisons": None, "ppo.reward_funcs": "label.py:nope"}, ["step ppo", "`nope` is missing"],
    ),
    "ptx empty": (
        {"ppo.ptx_coef": 1, "ppo.ptx_dataset_name": "empty.jsonl"}, ["step ppo", "empty.jsonl holds no demonstrations"],
    ),
    "reward model as policy of the last step": (
        {"model_name_or_path": "rm", "demonstrations": None}, ["step ppo", "rm is a reward model"],
    ),
    "nothing to learn from": ({"comparisons": None}, ["step ppo cannot follow", "--comparisons", "--labeller"]),
    "two judges": ({"labeller": "label.py:score"}, ["comparisons and labeller are given", "Give one"]),
    "an option of no step": (
        {"demonstrations": None, "sft.learning_rate": 1e-4}, ["--sft.learning_rate has no effect", "--demonstrations"],
    ),
    "an option that follows": ({"ppo.reward_model_path": "rm"}, ["reward_model_path of step ppo", "follows"]),
    "a place that follows": ({"sft.output_dir": "x"}, ["output_dir of step sft follows"]),
    "no such step": ({"rm.learning_rate": 1}, ["--rm.learning_rate", "sft, prefs, reward, ppo"]),
    "no such option": ({"ppo.kl_coeff": 1}, ["--ppo.kl_coeff", "Did you mean --ppo.kl_coef"]),
    "a step's value": ({"sft.learning_rate": "nan"}, ["step sft", "learning_rate = nan", "--sft.learning_rate"]),
    "recipe without its text": (
        {"recipe": "instructgpt", "ppo.batch_size": 8}, ["step ppo", "--ppo.ptx_dataset_name"],
    ),
    "recipe of other sizes": ({"recipe": "instructgpt"}, ["recipe instructgpt, line", "--ppo.batch_size 8"]),
    "output is a file": ({"output_dir": "texts.jsonl"}, ["output_dir = texts.jsonl is a file"]),
    "a step that is none": ({"config": "steps.yaml"}, ["steps.yaml, line 1", "polish", "no step"]),
    "an option of no step in a file": (
        {"config": "no_prefs.yaml"}, ["no_prefs.yaml, line 2", "num_completions", "no step prefs"],
    ),
}  # fmt: skip
CASES = {"sft": SFT, "reward": REWARD, "prefs": PREFS, "ppo": PPO, "rlhf": RLHF}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with models, data and functions, good ones and bad ones; no case may change it."""
    place = tmp_path_factory.mktemp("place")
    for name, rows in FILES.items():
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "label.py").write_text(FUNCTIONS)
    (place / "binary.jsonl").write_bytes(b"\xff\xfe{\x00")
    (place / "nothing.parquet").write_bytes(b"")
    (place / "steps.yaml").write_text("polish: {}\n")
    (place / "no_prefs.yaml").write_text("prefs:\n  sampling: {num_completions: 3}\n")
    tiny_causal_lm(place / "lm")
    tiny_reward_model(place / "rm")
    tiny_reward_model(place / "two", num_labels=2)
    tiny_causal_lm(place / "no_chat", tokenizer=tiny_tokenizer(chat=False))
    tiny_causal_lm(place / "no_eos", tokenizer=tiny_tokenizer(eos=None, pad="<pad>"))
    return place


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


def on_disk(place: Path) -> dict[str, int]:
    """Every file and directory, with the time of its last change (of a directory 0)."""
    return {str(p): p.stat().st_mtime_ns if p.is_file() else 0 for p in place.rglob("*") if "__pycache__" not in str(p)}


def refused(clearppo: Callable[..., tuple[int, str, str]], command: str, change: Change) -> str:
    """The one sentence that this command is refused with."""
    options = {name: value for name, value in {**WORKING[command], **change}.items() if value is not None}
    code, out, err = clearppo(command, options)
    assert code == 2, (code, err)
    assert "Traceback" not in out + err
    assert len(err.splitlines()) == 1, err
    assert err.startswith("error: ")
    assert len(err) < 700
    return err


@pytest.mark.parametrize(
    ("command", "name"),
    [(command, name) for command, cases in CASES.items() for name in cases],
    ids=lambda value: value,
)
def test_one_sentence_and_nothing_left(command: str, name: str, here: Path, clearppo) -> None:
    change, needles = CASES[command][name]
    before = on_disk(here)
    said = refused(clearppo, command, change)
    for needle in needles:
        assert needle in said, said
    assert on_disk(here) == before


def test_what_works_works(here: Path, clearppo, tmp_path: Path) -> None:
    """Each case above differs from one of these in the one thing that it is about."""
    for command, options in WORKING.items():
        output = "output_file" if command == "prefs" else "output_dir"
        code, _, err = clearppo(command, {**options, output: tmp_path / command / options[output]})
        assert (code, err) == (0, ""), command


def test_a_judge_that_answers_nonsense(here: Path, clearppo) -> None:
    for answer, needle in (({"scores": [1.0]}, "1 scores for"), ({"marks": []}, '"scores"'), ([], "a list")):
        with judge_server(lambda _, answer=answer: answer) as judge:
            before = on_disk(here)
            said = refused(clearppo, "prefs", {"labeller": None, "judge_url": judge.url})
        assert needle in said, said
        assert judge.url in said
        assert on_disk(here) == before
