"""How the torch backend finds what a deployment was compiled from."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from toprovar.deployment import Deployment
from toprovar.errors import BackendError
from toprovar.runtime.backends.torch import TorchBackend
from toprovar.runtime.session import Session

from ..tiny_nano import REFERENCE, Compiled, as_nano, equal_bits

PROMPT = "two blue stars"


@pytest.fixture
def checkpoint(weights: Path, tmp_path: Path) -> Path:
    """The transformer as a user's own file, its VAE beside it and no text encoder anywhere."""
    for name in ("model", "vae"):
        shutil.copy(weights / f"{name}.safetensors", tmp_path)
    return tmp_path / "model.safetensors"


def compiled_from(compiled: Compiled, source: Path) -> Deployment:
    from toprovar.models.loader import load_model

    deployment = Deployment.open(compiled.folder)
    model = dataclasses.replace(deployment.manifest.model, source=str(source), sha256=load_model(str(source)).sha256)
    return dataclasses.replace(deployment, manifest=dataclasses.replace(deployment.manifest, model=model))


def test_a_checkpoint_without_a_text_encoder_uses_the_deployments(
    compiled: Compiled, weights: Path, checkpoint: Path
) -> None:
    deployment = compiled_from(compiled, checkpoint)
    with as_nano(weights), Session.open(compiled.folder, "torch", options=REFERENCE) as own:
        backend = TorchBackend.open(deployment, options=REFERENCE)
        ids = own.tokenize(PROMPT)
        np.testing.assert_allclose(backend.encode_text(ids), own.backend.encode_text(ids), atol=1e-5)
        other = Session(backend, deployment.plan, own.sampling, own.tokenize)
        assert equal_bits(own(PROMPT).images[0], other(PROMPT).images[0]) >= 0.999


def test_a_deployment_without_a_text_encoder_says_so(compiled: Compiled, checkpoint: Path) -> None:
    deployment = compiled_from(compiled, checkpoint)
    files = {name: sha for name, sha in deployment.manifest.files.items() if name != "graphs/text.onnx"}
    manifest = dataclasses.replace(deployment.manifest, files=files)
    backend = TorchBackend.open(dataclasses.replace(deployment, manifest=manifest))
    with pytest.raises(BackendError, match="this model has no text encoder; give features instead"):
        backend.encode_text([2, 3])


def test_a_vae_that_cannot_be_found(compiled: Compiled, checkpoint: Path) -> None:
    deployment = compiled_from(compiled, checkpoint)
    (checkpoint.parent / "vae.safetensors").unlink()
    with pytest.raises(BackendError) as caught:
        TorchBackend.open(deployment)
    line = caught.value.one_line()
    assert "the torch backend loads the checkpoint itself, but no VAE for model.safetensors" in line
    assert line.endswith("with its VAE in the same folder, or use --backend onnxruntime, which needs neither")


def test_a_checkpoint_that_has_moved(compiled: Compiled, checkpoint: Path) -> None:
    deployment = compiled_from(compiled, checkpoint)
    moved = checkpoint.rename(checkpoint.with_name("other.safetensors"))
    with pytest.raises(BackendError, match=r"the torch backend loads the checkpoint itself, but .*model\.safetensors"):
        TorchBackend.open(deployment)
    assert TorchBackend.open(deployment, str(moved)).model == deployment.manifest.model


def test_another_checkpoint(compiled: Compiled, checkpoint: Path) -> None:
    deployment = compiled_from(compiled, checkpoint)
    model = dataclasses.replace(deployment.manifest.model, sha256="0" * 64)
    other = dataclasses.replace(deployment, manifest=dataclasses.replace(deployment.manifest, model=model))
    with pytest.raises(BackendError, match="is not what this deployment was compiled from; give the original files"):
        TorchBackend.open(other)
