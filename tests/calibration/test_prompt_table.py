"""The sidecar: strict, streamed, and adding up to its statistics."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from toprovar.calibration.prompt_table import PromptTable, PromptTableWriter
from toprovar.calibration.recording import HISTOGRAM_BINS
from toprovar.errors import ArtefactError
from toprovar.stats import CalibrationStats, LayerSensitivity

from .synthetic import GRIDS, HEADS, LAYERS, record, run

PROMPTS = tuple(f"prompt {index}" for index in range(6))
NAMES = ("entropy_square", "entropy_sum", "histogram", "principal_component_ratio")


@dataclasses.dataclass(frozen=True)
class Made:
    stats: CalibrationStats
    path: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    path = tmp_path_factory.mktemp("table") / "calibration.safetensors"
    return Made(run(path, PROMPTS), path)


def test_rows_are_the_prompts_recordings(made: Made) -> None:
    table = PromptTable.load(made.path, made.stats)
    for index in range(6):
        expected = record(5 + index)
        for name in NAMES:
            np.testing.assert_array_equal(getattr(table, name)[index], getattr(expected, name))
            np.testing.assert_array_equal(getattr(table.recording(index), name), getattr(expected, name))
    assert table.histogram.shape == (6, len(GRIDS), LAYERS, HEADS, HISTOGRAM_BINS)


def test_any_reader_of_safetensors_reads_it(made: Made) -> None:
    assert sorted(load_file(made.path)) == list(NAMES)


def test_saving_writes_the_same_bytes(made: Made, tmp_path: Path) -> None:
    PromptTable.load(made.path, made.stats).save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == made.path.read_bytes()
    assert os.listdir(tmp_path) == ["again"]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(indices=st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_a_subset_is_what_calibrating_with_it_gives(indices: list[int], made: Made, tmp_path: Path) -> None:
    subset = PromptTable.load(made.path, made.stats).subset(indices)
    seeds = iter(5 + index for index in indices)
    expected = run(tmp_path / "t", [PROMPTS[i] for i in indices], measure=lambda prompt, own: record(next(seeds)))
    assert subset.scales == expected.scales
    assert subset.prompts_sha256 == expected.prompts_sha256
    assert subset.prompts == tuple(made.stats.prompts[index] for index in indices)
    assert subset.seconds == {}
    assert (subset.model_sha256, subset.seed) == (made.stats.model_sha256, made.stats.seed)


def test_all_of_them_give_the_statistics_again(made: Made) -> None:
    whole = PromptTable.load(made.path, made.stats).subset(np.arange(6))
    assert whole == dataclasses.replace(made.stats, seconds={})


def test_a_subset_keeps_sensitivities(made: Made) -> None:
    sensitivity = (LayerSensitivity(0.5, 0.1, 0.2, None),)
    first, *others = made.stats.scales
    layers = (dataclasses.replace(first.layers[0], sensitivity=sensitivity), *first.layers[1:])
    stats = dataclasses.replace(made.stats, scales=(dataclasses.replace(first, layers=layers), *others))
    subset = PromptTable.load(made.path, stats).subset([2])
    assert [[layer.sensitivity for layer in scale.layers] for scale in subset.scales] == [
        [sensitivity, (), ()],
        [()] * 3,
        [()] * 3,
    ]


@pytest.mark.parametrize("indices", [[], [6], [0, -1]])
def test_a_subset_of_no_prompts(indices: list[int], made: Made) -> None:
    with pytest.raises(ValueError, match="expected indices from 0 to 5, one at least"):
        PromptTable.load(made.path, made.stats).subset(indices)


def _changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict[str, np.ndarray]], None]:
    def apply(arrays: dict[str, np.ndarray]) -> None:
        arrays[name] = np.ascontiguousarray(change(arrays[name]))

    return apply


def _set(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def apply(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array.flat[-1] = value
        return array

    return apply


def _moved(histogram: np.ndarray) -> np.ndarray:
    """One count fewer than none, and one more elsewhere."""
    histogram = histogram.copy()
    histogram[0, 0, 0, 0, :2] = 2, -1
    return histogram


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda arrays: arrays.clear(), "holds nothing; expected entropy_square, entropy_sum, histogram, principal"),
        (lambda arrays: arrays.pop("histogram"), "holds entropy_square, entropy_sum, principal_component_ratio; exp"),
        (lambda arrays: arrays.update(other=np.zeros(3)), "principal_component_ratio; expected"),
        (_changed("histogram", lambda a: a.astype(np.int64)), "histogram: expected I32 [6, 3, 3, 2, 32], as in the"),
        (_changed("entropy_sum", lambda a: a.astype(np.float32)), "entropy_sum: expected F64 [6, 3, 3, 2], as in the"),
        (_changed("entropy_sum", lambda a: a[:5]), "entropy_sum: expected F64 [6, 3, 3, 2], as in the statistics, got"),
        (_changed("entropy_square", lambda a: a[..., :1]), "got F64 [6, 3, 3, 1]"),
        (_changed("entropy_sum", _set(float("nan"))), "entropy_sum: holds what no calibration measures"),
        (_changed("entropy_square", _set(float("inf"))), "entropy_square: holds what no calibration measures"),
        (_changed("entropy_square", _set(-1e-9)), "entropy_square: holds what no calibration measures"),
        (_changed("entropy_sum", _set(15.1)), "entropy_sum: holds what no calibration measures"),
        (_changed("principal_component_ratio", _set(1.1)), "principal_component_ratio: holds what no"),
        (_changed("histogram", _set(200)), "histogram: does not count every token of every scale once"),
        (_changed("histogram", _moved), "histogram: does not count every token of every scale once"),
        (_changed("histogram", lambda a: -a), "histogram: does not count every token of every scale once"),
        (_changed("entropy_sum", lambda a: a * 0.999), "entropy_sum: does not add up to these statistics"),
    ],
)
def test_a_wrong_table(
    damage: Callable[[dict[str, np.ndarray]], None], message: str, made: Made, tmp_path: Path
) -> None:
    arrays = {name: value.copy() for name, value in load_file(made.path).items()}
    damage(arrays)
    save_file(arrays, tmp_path / "bad.safetensors")
    with pytest.raises(ArtefactError) as caught:
        PromptTable.load(tmp_path / "bad.safetensors", made.stats)
    assert message in str(caught.value)
    assert str(caught.value).startswith("bad.safetensors: ")
    assert caught.value.hint == "make both anew with toprovar-compile"


def test_a_table_of_other_statistics(made: Made, tmp_path: Path) -> None:
    run(tmp_path / "other", PROMPTS, seed=6)
    with pytest.raises(ArtefactError, match="other: entropy_sum: does not add up to these statistics; make both anew"):
        PromptTable.load(tmp_path / "other", made.stats)


def test_no_file(made: Made, tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ArtefactError, match="cannot be read"):
            PromptTable.load(path, made.stats)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_refused_or_harmless(data: st.DataObject, made: Made, tmp_path: Path) -> None:
    content = bytearray(made.path.read_bytes())
    start = data.draw(st.integers(0, len(content)) | st.integers(0, 600), label="start")
    removed = data.draw(st.sampled_from([0, 1, 8, len(content)]), label="removed")
    content[start : start + removed] = data.draw(st.binary(max_size=9) | st.sampled_from([b"BF16", b"[[[["]))
    (tmp_path / "bad.safetensors").write_bytes(content)
    try:
        table = PromptTable.load(tmp_path / "bad.safetensors", made.stats)
    except ArtefactError as error:
        assert str(error).startswith("bad.safetensors: ")
        assert "\n" not in error.one_line()
    else:
        assert table.histogram.shape == (6, len(GRIDS), LAYERS, HEADS, HISTOGRAM_BINS)


@pytest.mark.parametrize(
    ("prompts", "layers", "rows", "message"),
    [
        (1, LAYERS, 2, "a table of 1 prompts cannot take row 1"),
        (2, LAYERS, 1, "1 rows were added; expected 2"),
        (1, LAYERS + 1, 1, r"entropy_sum of shape .*; expected \(3, 4, 2\)"),
    ],
)
def test_rows_that_do_not_fit(prompts: int, layers: int, rows: int, message: str, tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match=message),
        PromptTableWriter(tmp_path / "t", prompts, len(GRIDS), layers, HEADS) as writer,
    ):
        for row in range(rows):
            writer.add(record(row))
    assert os.listdir(tmp_path) == []


def test_a_table_that_cannot_be_written(made: Made, tmp_path: Path) -> None:
    table = PromptTable.load(made.path, made.stats)
    with pytest.raises(ArtefactError, match="cannot be written: No such file or directory"):
        table.save(tmp_path / "none" / "table")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ArtefactError, match="cannot be written: Is a directory"):
        table.save(tmp_path / "folder")
    assert os.listdir(tmp_path) == ["folder"]
