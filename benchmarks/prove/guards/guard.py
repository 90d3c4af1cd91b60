"""One guard of the product, and how it is taken out of a process that has not imported it yet."""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType
from typing import NamedTuple


class Guard(NamedTuple):
    """A few words of a module's source that refuse something.

    Attributes:
        module: where it is, below ``deepfusion_edge``.
        old: the words; they stand there exactly once, or there is a ``before``.
        new: what stands there when the guard is taken out.
        before: other words, which stand there once: the last ``old`` before them is meant.
        spare: why the corpus cannot notice that, if it cannot: another guard does the same.
    """

    module: str
    old: str
    new: str
    before: str = ""
    spare: str = ""


NEVER = "if False:"


def rule(module: str, holds: str) -> Guard:
    """Take a rule out of a list of rules: it holds, whatever comes."""
    return Guard(module, f"({holds}, ", "(True, ")


class NotFoundError(Exception):
    """The words of a guard are not in the source exactly once: the list is out of date."""


def take_out(guard: Guard) -> None:
    """Let this process import the product without a guard.

    Raises:
        NotFoundError: it is not there.
        RuntimeError: its module was imported already.
    """
    name = f"deepfusion_edge.{guard.module}"
    if name in sys.modules:
        raise RuntimeError(f"{name} was imported before the guard could be taken out")
    sys.meta_path.insert(0, _Finder(name, guard))


def without(source: str, guard: Guard) -> str:
    """Return a module's source without a guard.

    Raises:
        NotFoundError: it is not there, or more than once.
    """
    _once(source, guard.before or guard.old, guard.module)
    end = source.index(guard.before) if guard.before else len(source)
    at = source.rfind(guard.old, 0, end)
    if at < 0:
        raise NotFoundError(f"{guard.old!r} is not in {guard.module}")
    return source[:at] + guard.new + source[at + len(guard.old) :]


def _once(source: str, words: str, module: str) -> None:
    count = source.count(words)
    if count != 1:
        raise NotFoundError(f"{words!r} is {count} times in {module}")


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, guard: Guard) -> None:
        super().__init__(name, path)
        self._guard = guard

    def get_code(self, _fullname: str) -> CodeType:
        source = without(Path(self.path).read_text(encoding="utf-8"), self._guard)
        code: CodeType = compile(source, self.path, "exec")
        return code


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, name: str, guard: Guard) -> None:
        self._name, self._guard = name, guard

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(fullname, spec.origin, self._guard)
        return spec
