"""Writing the record: whole files, equal bytes, and a bound that leaves the whole course."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearppo import rundir
from clearppo.record import Store, steps
from clearppo.record.schema import DIRECTORY, file_name, prompt_cell, prompt_id, prompt_of, step_of
from clearppo.record.store import write_iteration
from tests.record.files import META, made, row, table


def test_a_file_has_the_schema_the_metadata_and_small_row_groups(tmp_path: Path) -> None:
    with pq.ParquetFile(made(tmp_path)) as file:
        assert file.schema_arrow.equals(table([]).schema)
        assert json.loads(file.schema_arrow.metadata[b"clearppo"]) == {"version": 1, "step": 3, **META}
        assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [64, 64, 22]
        assert {file.metadata.row_group(0).column(i).compression for i in range(9)} == {"ZSTD"}
        assert file.read().to_pylist() == table([row(i) for i in range(150)]).to_pylist()


def test_equal_answers_make_equal_bytes(tmp_path: Path) -> None:
    assert made(tmp_path / "a").read_bytes() == made(tmp_path / "b").read_bytes()


@pytest.fixture(autouse=True)
def _directories(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()


def test_nothing_is_left_of_a_file_that_could_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(tmp_path, step=1)
    before = path.read_bytes()

    def full(table: pa.Table, stream: object, **_: object) -> None:
        stream.write(b"half")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("clearppo.record.store.pq.write_table", full)
    for step in (1, 2):
        with pytest.raises(OSError, match="No space"):
            write_iteration(tmp_path / "record", step, table([row(0)]), {})
    assert [file.name for file in (tmp_path / "record").iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_a_number_that_json_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_iteration(tmp_path / "record", 1, table([row(0)]), {"kl_coef": float("nan")})
    assert not (tmp_path / "record").exists()


@pytest.mark.parametrize(("every", "written"), [(1, [1, 2, 3, 4, 5, 6, 7]), (3, [1, 3, 6, 7]), (100, [1, 7]), (0, [])])
def test_every_so_many_iterations_and_the_ends(tmp_path: Path, every: int, written: list[int]) -> None:
    assert [step for step in range(1, 8) if Store(tmp_path, every=every, last=7, limit=1).due(step)] == written


def course(directory: Path, store: Store, first: int = 1, last: int = 40) -> list[int]:
    """Write these iterations, as far as they are due; what is there at the end."""
    for step in range(first, last + 1):
        if store.due(step):
            store.write(step, table([row(step)]), {})
    return steps(directory)


def a_size(directory: Path) -> int:
    return write_iteration(directory, 1, table([row(1)]), {})


def test_the_whole_course_stays_within_the_bound(tmp_path: Path) -> None:
    limit = int(7.5 * a_size(tmp_path / "a" / "record"))
    store = Store(tmp_path / "b" / "record", every=1, last=40, limit=limit)
    there = course(tmp_path / "b", store)
    assert there == [1, 8, 16, 24, 32, 40]
    files = [tmp_path / "b" / "record" / file_name(step) for step in there]
    assert store.sizes == {step: file.stat().st_size for step, file in zip(there, files, strict=True)}
    assert sum(store.sizes.values()) <= limit


def test_a_bound_below_two_files_leaves_the_ends(tmp_path: Path) -> None:
    assert course(tmp_path / "a", Store(tmp_path / "a" / "record", every=1, last=40, limit=1)) == [1, 40]


@pytest.mark.parametrize("killed_at", range(1, 40, 5))
def test_a_store_that_goes_on_has_the_files_of_one_that_never_stopped(tmp_path: Path, killed_at: int) -> None:
    """Whatever a killed one has written, and thinned, behind the state that the next begins with."""
    limit = int(7.5 * a_size(tmp_path / "a" / "record"))
    whole = Store(tmp_path / "a" / "record", every=1, last=40, limit=limit)
    course(tmp_path / "a", whole)
    killed = Store(tmp_path / "b" / "record", every=1, last=40, limit=limit)
    course(tmp_path / "b", killed, last=killed_at)
    state = json.loads(json.dumps(killed.state()))
    course(tmp_path / "b", killed, first=killed_at + 1, last=38)
    again = Store(tmp_path / "b" / "record", every=1, last=40, limit=limit)
    again.load_state(state)
    course(tmp_path / "b", again, first=killed_at + 1)
    contents = [
        {file.name: file.read_bytes() for file in (tmp_path / name / "record").iterdir()} for name in ("a", "b")
    ]
    assert contents[0] == contents[1]
    assert again.state() == whole.state()


def test_what_went_with_a_run_that_went_back_takes_no_room(tmp_path: Path) -> None:
    """It goes back from 4 to 2, and its new third file is larger: there is room for it where the old fourth was."""
    small, large = table([row(0)]), table([row(i) for i in range(3)])
    sizes = [write_iteration(tmp_path / "a", step, part, META) for step, part in ((1, small), (2, large))]
    assert sizes[0] < sizes[1] < 2 * sizes[0]
    store = Store(tmp_path / "b", every=1, last=99, limit=4 * sizes[0] + 8)
    for step in (1, 2, 3, 4):
        store.write(step, small, META)
    store.forget(2)
    store.write(3, large, META)
    assert list(store.sizes) == [1, 2, 3]


def test_the_directory_is_the_one_that_a_run_knows() -> None:
    assert DIRECTORY == rundir.RECORD


def test_names_of_files() -> None:
    assert [step_of(Path(file_name(step))) for step in (1, 999_999, 1_000_000)] == [1, 999_999, 1_000_000]
    for other in ("step-1.parquet", "step-x.parquet", ".step-000001.parquet.part", "step-000001.parquet.part", "a"):
        assert step_of(Path(other)) is None


MESSAGES = st.lists(st.fixed_dictionaries({"role": st.text(), "content": st.text()}))


@given(prompt=st.text() | MESSAGES | MESSAGES.map(json.dumps) | st.just("[]") | st.just('"x"'))
def test_a_prompt_comes_back_as_it_was(prompt: str | list[dict[str, str]]) -> None:
    assert prompt_of(prompt_cell(prompt), prompt_id(prompt)) == prompt
