"""Finding a reward function by name: `file.py:name` or `package.module:name`."""

import difflib
import hashlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from clearppo.data.files import kind_and_message
from clearppo.errors import RewardError


def load_reward_function(
    spec: str | Callable[..., Any], *, option: str = "reward_funcs", noun: str = "reward function"
) -> Callable[..., Any]:
    """The function that `spec` names: `file.py:name`, `package.module:name`, or a callable, which is returned as it is.

    `option` is where the user wrote it, and `noun` what it is called; both are for messages.

    A file may import its neighbours: its directory (for a module, the current one) is added at the end of sys.path.
    A file named in several specs is run once, until it changes.

    Raises RewardError if the file, the module or the name is missing (with the functions that are there), if importing
    it raises (with the line), or if the name is no function.
    """
    if not isinstance(spec, str):
        return spec
    where, separator, name = spec.rpartition(":")
    if not separator or name.endswith(".py") or "/" in name or "\\" in name:
        where, name = spec, ""
    is_file = where.endswith(".py") or "/" in where or "\\" in where
    module = _import_file(where, spec, option) if is_file else _import_module(where, spec, option)
    there = _functions_of(module)
    listed = f"{where} has {', '.join(there)}" if there else f"{where} has no function of its own"
    if not name:
        example = there[0] if there else "name"
        raise RewardError(f"{option} = {spec} names no function; {listed}. Use --{option} {where}:{example}.")
    if not hasattr(module, name):
        near = difflib.get_close_matches(name, there, n=1)
        mend = f"Did you mean {where}:{near[0]}?" if near else "Use one of its functions."
        raise RewardError(f"{noun} `{name}` is missing: {listed}. {mend}")
    function = getattr(module, name)
    if not callable(function):
        kind = type(function).__name__
        raise RewardError(f"{noun} `{name}` in {where} is a {kind} and cannot be called; {listed}.")
    return function


def _functions_of(module: ModuleType) -> list[str]:
    own = vars(module).items()
    return [
        name
        for name, value in own
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


def _import_file(where: str, spec: str, option: str) -> ModuleType:
    path = Path(os.path.expanduser(where))
    if not path.is_file():
        found = "is a directory" if path.is_dir() else "does not exist"
        raise RewardError(f"{option} = {spec}: the file {path} {found}. Use --{option} path/to/file.py:name.")
    path = path.resolve()
    # By content time too: in a notebook the file is edited and read again.
    key = hashlib.sha256(f"{path}:{path.stat().st_mtime_ns}".encode()).hexdigest()[:12]
    module_name = f"_clearppo_reward_{key}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    module_spec = importlib.util.spec_from_file_location(module_name, path)
    if module_spec is None or module_spec.loader is None:
        raise RewardError(f"{option} = {spec}: {path} is no Python file. Use --{option} path/to/file.py:name.")
    module = importlib.util.module_from_spec(module_spec)
    _add_to_path(path.parent)
    sys.modules[module_name] = module  # before it runs, as dataclasses and pickle look their module up there
    try:
        module_spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[module_name]
        if isinstance(error, Exception | SystemExit):
            raise RewardError(_import_raised(f"{option} = {spec}", str(path), error)) from error
        raise
    return module


def _import_module(where: str, spec: str, option: str) -> ModuleType:
    _add_to_path(Path.cwd())
    try:
        return importlib.import_module(where)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and (where == missing or where.startswith(f"{missing}.")):
            raise RewardError(
                f"{option} = {spec}: there is no module {missing}. "
                f"Use --{option} path/to/file.py:name or an importable package.module:name."
            ) from error
        if isinstance(error, ValueError | TypeError) and not where.strip("."):  # ":name", "..:name"
            raise RewardError(
                f"{option} = {spec} names no file or module. Use --{option} path/to/file.py:name."
            ) from error
        raise RewardError(_import_raised(f"{option} = {spec}", _origin(where), error)) from error


def _origin(where: str) -> str:
    try:
        found = importlib.util.find_spec(where)
    except Exception:  # looking for a module imports its package, which may be what raised
        found = None
    return str(found.origin) if found is not None and found.origin else where


def _import_raised(given: str, file: str, error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        where = f"{error.filename}:{error.lineno}"
        message = f"SyntaxError: {error.msg}"
    else:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen ")]
        own = [frame for frame in frames if frame.filename == file]
        frame = (own or frames)[-1]
        where, message = f"{frame.filename}:{frame.lineno}", kind_and_message(error)
    return f"{given}: importing it raised {message} ({where}). Mend the file."


def _add_to_path(directory: Path) -> None:
    if str(directory) not in sys.path:
        sys.path.append(str(directory))  # at the end, where it hides nothing that is installed
