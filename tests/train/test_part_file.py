"""The output file of comparisons: whole or under another name, and nothing earlier is lost unasked."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from clearppo.errors import ClearPPOError, ConfigError, RunDirError
from clearppo.train.part_file import PartFile


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_it_has_its_name_when_it_is_finished(tmp_path: Path) -> None:
    file = PartFile.create(tmp_path / "deep" / "out.jsonl")
    assert names(tmp_path / "deep") == []
    file.begin()
    file.append([{"text": "a\u2028ü"}, {"text": "b"}])
    assert names(tmp_path / "deep") == [".out.jsonl.part"]
    assert file.part.read_text(encoding="utf-8").count("\n") == 2  # on the disk already
    file.append([])
    file.finish()
    assert names(tmp_path / "deep") == ["out.jsonl"]
    lines = file.path.read_text(encoding="utf-8").split("\n")
    assert [json.loads(line)["text"] for line in lines[:-1]] == ["a\u2028ü", "b"]


def test_what_is_finished_is_kept_and_nothing_is_kept_of_nothing(tmp_path: Path) -> None:
    file = PartFile.create(tmp_path / "deep" / "out.jsonl")
    file.begin()
    assert file.keep() is None
    assert names(tmp_path) == []
    file = PartFile.create(tmp_path / "out.jsonl")
    file.begin()
    file.append([{"a": 1}])
    assert file.keep() == tmp_path / "out.interrupted.jsonl"
    assert names(tmp_path) == ["out.interrupted.jsonl"]


@pytest.mark.parametrize("name", ["out.jsonl", "out.interrupted.jsonl", ".out.jsonl.part"])
def test_nothing_earlier_is_lost_unasked(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text('{"old": 1}\n')
    with pytest.raises(RunDirError, match="--overwrite_output_file true") as caught:
        PartFile.create(tmp_path / "out.jsonl")
    assert str(tmp_path / name) in str(caught.value)
    file = PartFile.create(tmp_path / "out.jsonl", overwrite=True)
    assert (tmp_path / name).read_text() == '{"old": 1}\n'
    file.begin()
    file.append([{"new": 1}])
    if name == "out.jsonl":
        assert (tmp_path / name).read_text() == '{"old": 1}\n'  # until the new one is whole
    file.finish()
    assert names(tmp_path) == ["out.jsonl"]
    assert file.path.read_text() == '{"new": 1}\n'


def test_two_runs_at_once(tmp_path: Path) -> None:
    one, other = (PartFile.create(tmp_path / "out.jsonl") for _ in range(2))
    one.begin()
    with pytest.raises(RunDirError, match="another run writes"):
        other.begin()


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = PartFile.create(tmp_path / "out.jsonl")
    file.begin()
    file.append([{"a": 1}])
    original = Path.open

    def full(path: Path, *how: Any, **more: Any) -> Any:
        stream = original(path, *how, **more)

        class Full:
            def __enter__(self) -> "Full":
                return self

            def __exit__(self, *_: object) -> None:
                stream.close()

            def write(self, text: str) -> None:
                stream.write(text[:4])
                stream.flush()
                raise OSError(errno.ENOSPC, "No space left on device")

        return Full()

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(RunDirError, match="no space left"):
            file.append([{"b": 2}])
    assert file.part.read_text() == '{"a": 1}\n'
    assert file.keep() is not None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("out.json", "must end in .jsonl. Use --output_file"),
        ("out", "must end in .jsonl"),
        ("folder.jsonl", "is a directory"),
        ("file/out.jsonl", "cannot write"),
        ("/proc/clearppo/out.jsonl", "cannot write"),
    ],
)
def test_what_cannot_be_written(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "file").write_text("x")
    before = names(tmp_path)
    with pytest.raises(ClearPPOError) as caught:
        PartFile.create(tmp_path / name)
    assert isinstance(caught.value, ConfigError | RunDirError)
    assert said in str(caught.value)
    assert str(caught.value).endswith(".")
    assert names(tmp_path) == before
