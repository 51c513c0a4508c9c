"""Reading checkpoints: every layout that is in use, and every way in which a file can be bad."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from toprovar.errors import CheckpointError
from toprovar.models.checkpoint import file_digest, load_strictly, read_state_dict


def state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"weight": torch.randn(3, 5, generator=generator), "bias": torch.randn(3, generator=generator)}


def assert_equal(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(actual[key], value)


def save_zip(content: object, path: Path) -> None:
    torch.save(content, path)


def save_legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_tensors(content: dict[str, Tensor], path: Path) -> None:
    save_file(content, path)


FORMATS = {"model.pth": save_zip, "model.pt": save_zip, "legacy.pt": save_legacy, "model.safetensors": save_tensors}


@pytest.mark.parametrize(("name", "save"), FORMATS.items(), ids=FORMATS)
def test_formats(name: str, save: Callable[..., None], tmp_path: Path) -> None:
    save(state(), tmp_path / name)
    assert_equal(read_state_dict(tmp_path / name), state())
    assert_equal(read_state_dict(str(tmp_path)), state())  # the folder's only weight file


@pytest.mark.parametrize(
    "path",
    [("trainer", "gpt_fsdp"), ("vae",), ("trainer", "vae"), ("state_dict",), ("model", "module"), ("ema",)],
    ids=".".join,
)
@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_nesting(path: tuple[str, ...], save: Callable[..., None], tmp_path: Path) -> None:
    content: object = state()
    for name in reversed(path):
        content = {name: content, "iteration": 7, "args": {"lr": 0.1, "name": "run"}}
    save(content, tmp_path / "a.pth")
    assert_equal(read_state_dict(tmp_path / "a.pth"), state())


def shard(folder: Path) -> None:
    save_file({"weight": state()["weight"]}, folder / "model-1.safetensors")
    save_file({"bias": state()["bias"]}, folder / "model-2.safetensors")
    write_index(folder, {"weight": "model-1.safetensors", "bias": "model-2.safetensors"})


def write_index(folder: Path, weight_map: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_a_folder_of_shards(tmp_path: Path) -> None:
    shard(tmp_path)
    save_file({"other": torch.zeros(1)}, tmp_path / "vae.safetensors")
    assert_equal(read_state_dict(tmp_path), state())


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    shard(tmp_path)
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"the shard model-2\.safetensors is missing"):
        read_state_dict(tmp_path)


@pytest.mark.parametrize("name", ["../model-1.safetensors", "/etc/passwd", "sub/../../x.pth"])
def test_a_shard_outside_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(state(), tmp_path / "model-1.safetensors")
    write_index(folder, {"weight": name})
    with pytest.raises(CheckpointError, match="outside the folder"):
        read_state_dict(folder)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"weight_map": 3}', '{"weight_map": {"a": {}}}', '{"weight_map": {"a": 1}}', "{}"]
)
def test_a_damaged_index_is_refused(text: str, tmp_path: Path) -> None:
    shard(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError):
        read_state_dict(tmp_path)


def test_a_folder_without_one_weight_file_lists_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="found none"):
        read_state_dict(tmp_path)
    for name in ("a.pth", "b.pth"):
        save_zip(state(), tmp_path / name)
    with pytest.raises(CheckpointError, match=r"found a\.pth, b\.pth"):
        read_state_dict(tmp_path)


@pytest.mark.parametrize(("name", "save"), FORMATS.items(), ids=FORMATS)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_refused(share: float, name: str, save: Callable[..., None], tmp_path: Path) -> None:
    path = tmp_path / name
    save({"weight": torch.randn(40, 40)}, path)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(CheckpointError, match=str(path)):
        read_state_dict(path)


class _Attack:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.mknod, (str(self.target),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("save", [save_zip, save_legacy, lambda content, path: path.write_bytes(pickle.dumps(content))])
@pytest.mark.parametrize("suffix", ["pth", "pt", "bin", "ckpt"])
def test_code_in_a_pickle_is_not_run(save: Callable[..., None], suffix: str, tmp_path: Path) -> None:
    target = tmp_path / "attacked"
    path = tmp_path / f"model.{suffix}"
    save({**state(), "attack": _Attack(target)}, path)
    with pytest.raises(CheckpointError, match="refused, because loading it could run code"):
        read_state_dict(path)
    assert not target.exists()
    # The attack would have worked.
    os.mknod(*_Attack(target).__reduce__()[1])
    assert target.exists()


@pytest.mark.parametrize("content", [{}, [], {"a": 1}, {"model": {"args": {}}}, 3, "text", [torch.zeros(2)]], ids=str)
def test_a_file_without_tensors_by_name_is_refused(content: object, tmp_path: Path) -> None:
    save_zip(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="no tensors found"):
        read_state_dict(tmp_path / "a.pth")


def test_a_missing_file_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no such checkpoint; give a \.pth"):
        read_state_dict(tmp_path / "a.pth")


def test_strict_loading_names_the_keys() -> None:
    given = state() | {"extra": torch.zeros(1)}
    del given["bias"]
    with pytest.raises(CheckpointError, match=r"1 keys missing: bias; 1 keys unexpected: extra"):
        load_strictly(nn.Linear(5, 3), given, "a.pth")
    with pytest.raises(CheckpointError, match=r"weight \(3, 5\) instead of \(3, 4\)"):
        load_strictly(nn.Linear(4, 3), state(), "a.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_not_finite_is_refused(value: float, dtype: torch.dtype) -> None:
    given = {key: tensor.to(dtype) for key, tensor in state().items()}
    given["weight"][1, 2] = value
    with pytest.raises(CheckpointError, match=r"1 keys not finite \(NaN or infinity\): weight"):
        load_strictly(nn.Linear(5, 3), given, "a.pth")


def test_tensors_are_taken_without_a_copy() -> None:
    with torch.device("meta"):
        model = nn.Linear(5, 3)
    given = state()
    load_strictly(model, given, "a.pth")
    assert model.weight.data_ptr() == given["weight"].data_ptr()
    assert not model.weight.requires_grad


def test_half_precision_becomes_single() -> None:
    model = nn.Linear(5, 3)
    load_strictly(model, {key: value.half() for key, value in state().items()}, "a.pth")
    assert model.weight.dtype == torch.float32
    assert torch.equal(model.weight, state()["weight"].half().float())


def test_a_digest_is_of_the_contents(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"abc")
    second.write_bytes(b"abc")
    assert file_digest([first]) == file_digest([second])
    second.write_bytes(b"abd")
    assert file_digest([first]) != file_digest([second])


@pytest.fixture(scope="module", params=FORMATS.items(), ids=FORMATS)
def valid(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    name, save = request.param
    path = tmp_path_factory.mktemp("valid") / name
    save(state(), path)
    return name, path.read_bytes()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_mutated_file_loads_equally_shaped_or_is_refused(valid: tuple[str, bytes], data: st.DataObject) -> None:
    name, content = valid
    mutated = bytearray(content)
    positions = st.integers(0, len(content) - 1)
    for _ in range(data.draw(st.integers(1, 4), label="mutations")):
        start = min(data.draw(positions, label="position"), max(len(mutated) - 1, 0))
        kind = data.draw(st.sampled_from(["replace", "insert", "delete", "repeat"]), label="kind")
        piece = data.draw(st.binary(min_size=1, max_size=4), label="bytes")
        length = data.draw(st.integers(1, 40), label="length")
        if kind == "replace":
            mutated[start : start + len(piece)] = piece
        elif kind == "insert":
            mutated[start:start] = piece
        elif kind == "delete":
            del mutated[start : start + length]
        else:
            mutated[start:start] = mutated[start : start + length]
    folder = Path(tempfile.mkdtemp())
    try:
        path = folder / name
        path.write_bytes(bytes(mutated))
        with torch.device("meta"):
            model = nn.Linear(5, 3)
        load_strictly(model, read_state_dict(path), name)
        assert model.weight.shape == (3, 5)
        assert model.weight.isfinite().all()
    except CheckpointError as error:
        assert "\n" not in error.one_line()
    finally:
        shutil.rmtree(folder)
