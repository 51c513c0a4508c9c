"""Names and titles of the studies, read from their files: importing one would import torch."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

from toprovar.extensions import STUDIES

__all__ = ["titles"]


def titles() -> dict[str, str]:
    """Title by name, in the order of names; empty where a file states none."""
    return {name: _title(name) for name in STUDIES.names()}


def _title(name: str) -> str:
    spec = importlib.util.find_spec(f"{STUDIES.package}.{name}")
    if spec is None or spec.origin is None:
        return ""
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    for part in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for node in part.body:
            if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["title"]:
                return str(ast.literal_eval(node.value))
    return ""
