"""Writes a model repository for Triton Inference Server, whose Python backend runs a deployment.

`config.pbtxt` has the fields of `ModelConfig` in `protobuf/model_config.proto` of triton-inference-server/common.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from toprovar.deployment import MANIFEST, Deployment
from toprovar.engines import ENGINES
from toprovar.errors import UsageError
from toprovar.extensions import BACKENDS
from toprovar.jsonfile import cannot_write
from toprovar.manifest import ModelRecord
from toprovar.runtime.tensorrt.preflight import read_engines

__all__ = ["MODEL", "export_triton", "render_config"]

MODEL = '''"""A ToProVAR deployment behind Triton's Python backend; written by `toprovar export-triton`."""

import triton_python_backend_utils as pb_utils

from toprovar.triton_model import TritonModel


class TritonPythonModel:
    """What Triton's Python backend looks for."""

    def initialize(self, args):
        """Opens the deployment beside this file."""
        self.model = TritonModel.open(args, pb_utils)

    def execute(self, requests):
        """Answers requests."""
        return self.model.execute(requests)

    def finalize(self):
        """Frees memory."""
        self.model.close()
'''
"""`model.py` of a repository: the server's machine has the package installed."""

_VERSION = "1"
_ON_CPU = ("onnxruntime",)


def export_triton(
    folder: Path, repository: Path, name: str | None = None, backend: str | None = None, batch: int = 1
) -> Path:
    """Copies a deployment into a model repository.

    Args:
        folder: the deployment.
        repository: Triton's model repository, made if it is not there.
        name: of the model; the deployment folder's if left out.
        backend: engine to run on; as compiled if left out.
        batch: images that run together.

    Returns:
        The model's folder.

    Raises:
        ToProVARError: no deployment, a name that Triton cannot have, or the model is there already.
    """
    deployment = Deployment.open(folder)
    name, backend = name or folder.resolve().name, backend or deployment.manifest.backend
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise UsageError(f"model name {name!r}; expected letters, digits, '_', '-' and '.'", "give one with --name")
    if backend not in BACKENDS.names():
        raise UsageError(f"unknown backend {backend!r}; expected one of {', '.join(BACKENDS.names())}")
    if backend == "tensorrt":
        read_engines(deployment)
    target = repository / name
    if target.exists():
        raise UsageError(f"{target} exists; expected a new model", "choose another --name, or remove it")
    partial = repository / f".{name}.partial-{secrets.token_hex(4)}"
    try:
        _copy(deployment, partial / _VERSION / "deployment")
        (partial / _VERSION / "model.py").write_text(MODEL, encoding="utf-8")
        config = render_config(name, deployment.manifest.model, len(deployment.plan.scales), backend, batch)
        (partial / "config.pbtxt").write_text(config, encoding="utf-8")
        partial.rename(target)
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def render_config(name: str, model: ModelRecord, scales: int, backend: str, batch: int) -> str:
    """The text of `config.pbtxt`.

    Args:
        name: of the model.
        model: facts of the deployment's model.
        scales: of its schedule; guidance is one number, or one a scale.
        backend: engine to run on.
        batch: images that run together.
    """
    inputs = [
        _tensor("prompt", "TYPE_STRING", [-1]),
        _tensor("negative_prompt", "TYPE_STRING", [1], optional=True),
        _tensor("seed", "TYPE_INT64", [-1], optional=True),
        _tensor("guidance", "TYPE_FP32", [-1], optional=True),
    ]
    outputs = [
        _tensor("image", "TYPE_UINT8", [-1, model.image_height, model.image_width, 3]),
        _tensor("depth", "TYPE_INT32", [-1]),
    ]
    # An engine of its own takes what device it is on into its own hands.
    kind = "KIND_CPU" if backend in _ON_CPU else "KIND_MODEL"
    parameters = {"backend": backend, "batch": str(batch)}
    lines = [
        f"# {model.family}, {scales} scales. A request holds any number of prompts. `seed` is one, or one a prompt;",
        "# `guidance` is one number, or one a scale. `depth` is the first scale that ran sparse.",
        f"name: {_quoted(name)}",
        'backend: "python"',
        "max_batch_size: 0",
        f"input [\n{_joined(inputs)}\n]",
        f"output [\n{_joined(outputs)}\n]",
        f"instance_group [\n  {{ kind: {kind} count: 1 }}\n]",
        *(_parameter(key, value) for key, value in parameters.items()),
    ]
    return "\n".join(lines) + "\n"


def _tensor(name: str, kind: str, dims: Sequence[int], optional: bool = False) -> str:
    last = " optional: true" if optional else ""
    return f"  {{ name: {_quoted(name)} data_type: {kind} dims: [ {', '.join(map(str, dims))} ]{last} }}"


def _parameter(key: str, value: str) -> str:
    return f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}"


def _joined(messages: Sequence[str]) -> str:
    return ",\n".join(messages)


def _quoted(text: str) -> str:
    return json.dumps(text)


def _copy(deployment: Deployment, target: Path) -> None:
    """Copies what the manifest lists, and engines."""
    names = [MANIFEST, *deployment.manifest.files]
    if (deployment.folder / ENGINES).is_file():
        names += [ENGINES, *(one.file for one in read_engines(deployment).files)]
    for name in dict.fromkeys(names):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(deployment.folder / name, target / name)
