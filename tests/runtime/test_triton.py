"""A repository's model.py makes the session's images; Triton's Python module is a stand-in."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from toprovar.runtime.session import Session
from toprovar.triton_repository import export_triton

from ..tiny_nano import Compiled

PROMPTS = ["a red circle", "three red triangles"]


class StandInTensor:
    """As `triton_python_backend_utils.Tensor`."""

    def __init__(self, name: str, array: np.ndarray) -> None:
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._array


class StandInError:
    """As `triton_python_backend_utils.TritonError`."""

    def __init__(self, message: str) -> None:
        self._message = message

    def message(self) -> str:
        return self._message


@dataclass
class StandInResponse:
    """As `triton_python_backend_utils.InferenceResponse`."""

    output_tensors: list[StandInTensor] = field(default_factory=list)
    error: StandInError | None = None


def request(**inputs: Any) -> dict[str, StandInTensor]:
    kinds = {"prompt": object, "negative_prompt": object, "seed": np.int64, "guidance": np.float32}
    return {name: StandInTensor(name, np.array(value, kinds[name])) for name, value in inputs.items()}


@pytest.fixture(scope="module")
def model(compiled: Compiled, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = export_triton(compiled.folder, tmp_path_factory.mktemp("repository"), "tiny", "onnxruntime", batch=2)
    server = ModuleType("triton_python_backend_utils")
    server.Tensor, server.TritonError, server.InferenceResponse = StandInTensor, StandInError, StandInResponse  # type: ignore[attr-defined]
    server.get_input_tensor_by_name = lambda request, name: request.get(name)  # type: ignore[attr-defined]
    parameters = {"backend": {"string_value": "onnxruntime"}, "batch": {"string_value": "2"}}
    arguments = {
        "model_repository": str(folder),
        "model_version": "1",
        "model_config": json.dumps({"name": "tiny", "parameters": parameters}),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, server.__name__, server)
        made = runpy.run_path(str(folder / "1" / "model.py"))["TritonPythonModel"]()
        made.initialize(arguments)
        yield made
        made.finalize()


@pytest.fixture(scope="module")
def session(compiled: Compiled) -> Iterator[Session]:
    with Session.open(compiled.folder, "onnxruntime") as session:
        yield session


def outputs(response: StandInResponse) -> dict[str, np.ndarray]:
    assert response.error is None
    return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors}


def test_the_sessions_images(model: Any, session: Session) -> None:
    asked = [
        request(prompt=[text.encode() for text in PROMPTS], seed=[3, 9], guidance=[2.0]),
        request(prompt=[PROMPTS[0].encode()], negative_prompt=[b"a large blue square"]),
    ]
    many, one = (outputs(response) for response in model.execute(asked))
    expected = session(PROMPTS, generator=[3, 9], guidance_scale=2.0, batch_size=2).images
    np.testing.assert_array_equal(many["image"], np.stack([np.asarray(image.image) for image in expected]))
    np.testing.assert_array_equal(many["depth"], [image.depth for image in expected])
    assert (many["image"].dtype, many["depth"].dtype) == (np.uint8, np.int32)
    alone = session(PROMPTS[0], "a large blue square").images[0]
    np.testing.assert_array_equal(one["image"][0], np.asarray(alone.image))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"prompt": []}, "nothing to generate"),
        ({"prompt": [b"a red circle"], "seed": [1, 2]}, "2 seeds for 1 prompts"),
        ({"prompt": [b"a red circle"], "guidance": [1.0, 2.0]}, "2 values of guidance"),
        ({"prompt": [b"\xff"]}, "can't decode byte"),
    ],
    ids=["no prompt", "seeds", "guidance", "not UTF-8"],
)
def test_a_bad_request_does_not_stop_the_others(inputs: dict[str, Any], message: str, model: Any) -> None:
    bad, good = model.execute([request(**inputs), request(prompt=[b"a red circle"])])
    assert message in bad.error.message()
    assert bad.output_tensors == []
    assert len(outputs(good)["image"]) == 1
