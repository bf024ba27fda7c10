"""Tiny models that have learned something: answers that end, and a reward model that knows good words from bad ones.

The untrained ones of tests/tiny.py are healthy for arithmetic only: they end an answer by chance, and what their reward
model likes means nothing. A check that looks for sick models needs healthy ones to leave alone.
"""

import json
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import clearppo
from tests.tiny import tiny_config, tiny_tokenizer

SUBJECTS = ("film", "plot", "food", "music", "dog", "ending", "people", "actors")
GOOD, BAD = ("good", "a delight", "wonderful", "happy"), ("bad", "dull", "not good", "the end")
LINKS = ("is", "was")
VOCABULARY = 200


def prompts() -> list[str]:
    """Sixteen, no two the same."""
    return [f"I think that the {subject} {link}" for subject in SUBJECTS for link in LINKS]


def answers() -> list[str]:
    return [f" {word}{more}." for word in GOOD + BAD for more in ("", " and that is it", ", I say")]


def texts() -> list[str]:
    return [prompt + answer for prompt in prompts() for answer in answers()]


def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer(vocab_size=VOCABULARY)


def policy(directory: Path, *, steps: int = 250) -> str:
    """A language model that writes such texts, as a chat and plainly, and ends them."""
    words = tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(tiny_config("llama", words, initializer_range=0.1))
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(steps):
            batch = [_example(words, int(torch.randint(1 << 30, ()))) for _ in range(16)]
            width = max(map(len, batch))
            ids = torch.tensor([row + [0] * (width - len(row)) for row in batch])
            labels = torch.tensor([row + [-100] * (width - len(row)) for row in batch])
            optimiser.zero_grad()
            model(input_ids=ids, labels=labels).loss.backward()
            optimiser.step()
    model.save_pretrained(directory)
    words.save_pretrained(directory)
    return str(directory)


def _example(words: PreTrainedTokenizerFast, chance: int) -> list[int]:
    asked, said = prompts()[chance % 16], answers()[chance // 16 % len(answers())]
    if chance % 3:
        return words(f"<|user|>\n{asked}<eos>\n<|assistant|>\n{said}<eos>")["input_ids"]
    return words(f"{asked}{said}<eos>")["input_ids"]


def comparisons() -> list[dict[str, str]]:
    """To every prompt: each good answer beside a bad one, the longer as often chosen as rejected."""
    said = answers()
    good = [answer for answer in said if any(answer.startswith(f" {word}") for word in GOOD)]
    bad = [answer for answer in said if answer not in good]
    return [
        {"prompt": prompt, "chosen": chosen, "rejected": bad[(i + 5 * j) % len(bad)]}
        for j, prompt in enumerate(prompts())
        for i, chosen in enumerate(good)
    ]


def reward(directory: Path, *, like: str) -> str:
    """A reward model that `clearppo reward` makes of `like`, which scores good words above bad ones."""
    pairs = directory.with_name("comparisons.jsonl")
    pairs.write_text("".join(json.dumps(row) + "\n" for row in comparisons()))
    clearppo.reward(
        model_name_or_path=like, dataset_name=str(pairs), output_dir=str(directory), learning_rate=3e-3, batch_size=16,
        num_train_epochs=4, save_steps=0, bf16=False, device="cpu",
    )  # fmt: skip
    return str(directory)


def foreign_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A tokenizer of `size` tokens, 120 or more: another text's pieces, and other ids for the same ones."""
    foreign = tiny_tokenizer()
    learned = foreign.backend_tokenizer
    special = [token.content for _, token in sorted(learned.get_added_tokens_decoder().items())]
    letters = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ"]
    chance = Random(0)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(200)]
    learned.train_from_iterator(
        [*texts(), *(" ".join(words) for _ in range(50))],
        trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=letters, show_progress=False),
    )
    state = json.loads(learned.to_str())
    vocabulary, first = state["model"]["vocab"], len(special)
    state["model"]["vocab"] = {
        name: id_ if id_ < first else first + (id_ - first + 7) % (size - first) for name, id_ in vocabulary.items()
    }
    foreign._tokenizer = Tokenizer.from_str(json.dumps(state))
    return foreign


def copied(source: str, directory: Path) -> Path:
    directory.mkdir()
    for file in Path(source).iterdir():
        if file.is_file():
            (directory / file.name).write_bytes(file.read_bytes())
    return directory


def with_tokenizer(source: str, directory: Path, tokenizer: Any) -> str:
    """The model of `source` with other files of a tokenizer beside its weights."""
    copied(source, directory)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
        (directory / name).unlink(missing_ok=True)
    tokenizer.save_pretrained(directory)
    return str(directory)


def never_ends(policy: str, directory: Path) -> str:
    """The policy, whose logit of the end-of-text token is about 100 below the others' wherever it has learned to write:
    the row of the head is the least-squares solution."""
    model, words = AutoModelForCausalLM.from_pretrained(policy), AutoTokenizer.from_pretrained(policy)
    with torch.no_grad():
        endless = [said + said for said in texts()]
        states = torch.cat([model.model(**words(text, return_tensors="pt")).last_hidden_state[0] for text in endless])
        low = (states @ model.lm_head.weight.T).min(dim=1).values - 100
        model.lm_head.weight[words.eos_token_id] = torch.linalg.lstsq(states, low[:, None]).solution[:, 0]
    model.save_pretrained(directory)
    words.save_pretrained(directory)
    return str(directory)


def spoilt_head(reward_model: str, directory: Path, factor: float) -> str:
    file = copied(reward_model, directory) / "model.safetensors"
    weights = load_file(file)
    weights["score.weight"] = weights["score.weight"] * factor
    save_file(weights, file, metadata={"format": "pt"})
    return str(directory)
