"""Extensions found by file name: a new backbone, policy, pass or backend is one new file."""

from __future__ import annotations

import ast
import collections
import contextlib
import difflib
import functools
import importlib
import importlib.util
from pathlib import Path
from typing import Any

from toprovar.errors import ToProVARError, UsageError
from toprovar.extras import naming_extras

__all__ = ["Registry"]


class Registry:
    """The extensions of one kind: the modules of a package that define one given symbol.

    Names are found by reading the files, without importing any; helpers that lie beside the
    extensions, and names with a leading underscore, do not count.

    Args:
        kind: What an extension is called in messages, such as `policy`.
        package: Dotted name of the package that holds the files, such as
            `toprovar.calibration.policies`.
        symbol: Name that an extension defines at its top level, such as `Policy`.
    """

    def __init__(self, kind: str, package: str, symbol: str) -> None:
        self.kind = kind
        self.package = package
        self.symbol = symbol

    @functools.cached_property
    def _files(self) -> dict[str, Path]:
        folders: list[str] = []
        # A package that is not installed has no extensions.
        with contextlib.suppress(ModuleNotFoundError):
            spec = importlib.util.find_spec(self.package)
            folders += (spec.submodule_search_locations or ()) if spec else ()
        found: dict[str, list[Path]] = collections.defaultdict(list)
        for folder in map(Path, folders):
            for file in (*folder.glob("[!_]*.py"), *folder.glob("[!_]*/__init__.py")):
                name = file.stem if file.parent == folder else file.parent.name
                if self._defines_symbol(file):
                    found[name].append(file)
        for name, files in found.items():
            if len(files) > 1:
                places = " and ".join(str(file) for file in sorted(files))
                raise ToProVARError(f"{self.kind} {name!r} is defined twice, in {places}", "rename one of them")
        return {name: files[0] for name, files in sorted(found.items())}

    def _defines_symbol(self, file: Path) -> bool:
        text = file.read_text(encoding="utf-8")
        if self.symbol not in text:
            return False
        return any(self.symbol in _bound_names(node) for node in ast.parse(text, str(file)).body)

    def names(self) -> tuple[str, ...]:
        """All known names, sorted.

        Raises:
            ToProVARError: Two files claim one name.
        """
        return tuple(self._files)

    def load(self, name: str) -> Any:
        """Imports an extension.

        Args:
            name: One of `names`; a hyphen stands for an underscore.

        Returns:
            The file's `symbol`.

        Raises:
            UsageError: The name is unknown; the error lists the choices.
            MissingExtra: The file needs a package of an extra that is not installed.
        """
        found = name.replace("-", "_")
        if found not in self._files:
            close = difflib.get_close_matches(name, self._files, n=1)
            hint = f"did you mean {close[0]!r}?" if close else None
            choices = ", ".join(self._files) or "none: no file defines one"
            raise UsageError(f"unknown {self.kind} {name!r}; expected one of {choices}", hint)
        with naming_extras():
            module = importlib.import_module(f"{self.package}.{found}")
        return getattr(module, self.symbol)


def _bound_names(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return {node.name}
    if isinstance(node, ast.Assign):
        return {target.id for target in node.targets if isinstance(target, ast.Name)}
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return {node.target.id}
    return set()
