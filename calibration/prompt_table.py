"""Measurements prompt by prompt, beside the statistics that they add up to.

One safetensors file: `entropy_sum` and `entropy_square` F64 [prompts, scales, layers, heads],
`principal_component_ratio` F64 [prompts, scales, layers] and `histogram` I32 [prompts, scales, layers, heads, bins].
Texts, seeds and low-entropy ratios of the prompts are in the statistics.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from safetensors import SafetensorError, safe_open

from toprovar.calibration.fold import Fold
from toprovar.calibration.prompts import prompts_digest
from toprovar.calibration.recording import HISTOGRAM_BINS, Recording
from toprovar.conform import shown
from toprovar.errors import ArtefactError
from toprovar.jsonfile import cannot_write
from toprovar.stats import CalibrationStats

__all__ = ["PromptTable", "PromptTableWriter"]

_DTYPES: dict[str, np.dtype[Any]] = {"F64": np.dtype("<f8"), "I32": np.dtype("<i4")}
_REMEDY = "make both anew with toprovar-compile"


def _layout(prompts: int, scales: int, layers: int, heads: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of every tensor of the file, in its order."""
    every = prompts, scales, layers, heads
    return {
        "entropy_sum": ("F64", every),
        "entropy_square": ("F64", every),
        "principal_component_ratio": ("F64", every[:3]),
        "histogram": ("I32", (*every, HISTOGRAM_BINS)),
    }


@dataclass(frozen=True, eq=False)
class PromptTable:
    """One row a prompt, as `toprovar.calibration.recording.Recording` has them.

    Attributes:
        stats: what the rows add up to.
        entropy_sum: float64 [prompts, scales, layers, heads].
        entropy_square: likewise.
        principal_component_ratio: float64 [prompts, scales, layers].
        histogram: int32 [prompts, scales, layers, heads, bins].
    """

    stats: CalibrationStats
    entropy_sum: np.ndarray
    entropy_square: np.ndarray
    principal_component_ratio: np.ndarray
    histogram: np.ndarray

    def __post_init__(self) -> None:
        """Checks every table against the statistics.

        Raises:
            ArtefactError: with the table's name.
        """
        stats = self.stats
        layout = _layout(len(stats.prompts), len(stats.schedule), stats.layers, stats.heads)
        for name, (kind, shape) in layout.items():
            _check_form(name, getattr(self, name), _DTYPES[kind], shape)
        tokens = np.array([height * width for height, width in stats.schedule])[:, None, None]
        for name, most in (("entropy_sum", tokens), ("entropy_square", tokens), ("principal_component_ratio", 1)):
            values = getattr(self, name)
            # false for NaN, too; sums of numbers up to 1 may round above the number of tokens
            if not ((values >= 0) & (values <= np.asarray(most) * (1 + 1e-9))).all():
                raise ArtefactError("holds what no calibration measures", _REMEDY, field=name)
        if (self.histogram < 0).any() or (self.histogram.sum(-1, dtype=np.int64) != tokens).any():
            raise ArtefactError("does not count every token of every scale once", _REMEDY, field="histogram")
        if stats.prompts and not np.array_equal(self._fold(range(len(stats.prompts))).entropy_mean(), _means(stats)):
            raise ArtefactError("does not add up to these statistics", _REMEDY, field="entropy_sum")

    @classmethod
    def load(cls, path: str | Path, stats: CalibrationStats) -> Self:
        """Reads the table that lies beside statistics.

        Args:
            path: the file.
            stats: the statistics that it belongs to.

        Raises:
            ArtefactError: the file is missing, damaged, not such a table or of other statistics.
        """
        path = Path(path)
        layout = _layout(len(stats.prompts), len(stats.schedule), stats.layers, stats.heads)
        try:
            with safe_open(path, framework="numpy") as file:
                names = sorted(file.keys())
                if names != sorted(layout):
                    expected = ", ".join(sorted(layout))
                    raise ArtefactError(f"holds {', '.join(names) or 'nothing'}; expected {expected}", _REMEDY)
                arrays = {}
                for name, (kind, shape) in layout.items():
                    lazy = file.get_slice(name)
                    found = tuple(lazy.get_shape())
                    # before reading: a foreign file may be large
                    if (lazy.get_dtype(), found) != (kind, shape):
                        raise _unfit(name, f"{lazy.get_dtype()} {list(found)}", f"{kind} {list(shape)}")
                    arrays[name] = file.get_tensor(name)
            return cls(stats, **arrays)
        except ArtefactError as error:
            raise error.located(path.name) from None
        except (OSError, SafetensorError) as error:
            raise ArtefactError(f"cannot be read ({error})", _REMEDY, file=path.name) from error

    def save(self, path: str | Path) -> None:
        """Writes the table's file atomically.

        Raises:
            ArtefactError: the file cannot be written.
        """
        stats, path = self.stats, Path(path)
        shape = len(stats.prompts), len(stats.schedule), stats.layers, stats.heads
        with PromptTableWriter(path, *shape) as writer:
            for index in range(len(stats.prompts)):
                writer.add(self.recording(index))

    def recording(self, index: int) -> Recording:
        """One prompt's row."""
        tables = self.entropy_sum, self.entropy_square, self.histogram, self.principal_component_ratio
        return Recording(*(table[index] for table in tables))

    def subset(self, indices: Sequence[int]) -> CalibrationStats:
        """The statistics that a calibration with some of the prompts would have made.

        Two measurements stay those of all prompts: low-entropy ratios, whose standardisation is made of all prompts'
        moments, and sensitivities. No time was spent, so `seconds` is empty.

        Args:
            indices: prompts; one that is given twice counts twice, as in a bootstrap.

        Raises:
            ValueError: no index is given, or one of no prompt.
        """
        prompts = self.stats.prompts
        if not len(indices) or not all(0 <= index < len(prompts) for index in indices):
            raise ValueError(f"expected indices from 0 to {len(prompts) - 1}, one at least, got {list(indices)}")
        scales = tuple(
            dataclasses.replace(
                folded,
                guidance=measured.guidance,
                sensitivity=measured.sensitivity,
                layers=tuple(
                    dataclasses.replace(layer, sensitivity=whole.sensitivity)
                    for layer, whole in zip(folded.layers, measured.layers, strict=True)
                ),
            )
            for folded, measured in zip(self._fold(indices).scales(), self.stats.scales, strict=True)
        )
        chosen = tuple(prompts[index] for index in indices)
        return dataclasses.replace(
            self.stats,
            prompts_sha256=prompts_digest([prompt.prompt for prompt in chosen]),
            scales=scales,
            prompts=chosen,
            seconds={},
        )

    def _fold(self, indices: Sequence[int]) -> Fold:
        fold = Fold(self.stats.schedule, self.stats.layers, self.stats.heads)
        for index in indices:
            fold.add(self.recording(index))
        return fold


class PromptTableWriter:
    """Writes a table row by row, so that memory does not grow with the number of prompts.

    Within the `with` block, rows are added in order. When it ends without an exception the file appears at once;
    after any exception nothing is left.

    Args:
        path: the file to write.
        prompts: rows to come.
        scales: number of scales.
        layers: number of blocks.
        heads: attention heads of a block.
    """

    def __init__(self, path: Path, prompts: int, scales: int, layers: int, heads: int) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
        self._layout = _layout(prompts, scales, layers, heads)
        self._prompts, self._rows = prompts, 0
        self._file: BinaryIO | None = None
        self._offsets: dict[str, int] = {}

    def __enter__(self) -> Self:
        """Opens the file.

        Raises:
            ArtefactError: it cannot be written.
        """
        header: dict[str, object] = {"__metadata__": {"toprovar": "calibration by prompt"}}
        end = 0
        for name, (kind, shape) in self._layout.items():
            start, end = end, end + math.prod(shape) * _DTYPES[kind].itemsize
            header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
            self._offsets[name] = start
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self._offsets = {name: 8 + len(text) + start for name, start in self._offsets.items()}
        try:
            self._file = self._temporary.open("xb")
            self._file.write(len(text).to_bytes(8, "little") + text)
        except OSError as failure:
            self._temporary.unlink(missing_ok=True)
            raise cannot_write(self._path, failure) from failure
        return self

    def add(self, recording: Recording) -> None:
        """Writes the next prompt's row.

        Raises:
            ValueError: it is not of the table's form, or one too many.
            ArtefactError: the file cannot be written.
        """
        if self._file is None or self._rows == self._prompts:
            raise ValueError(f"a table of {self._prompts} prompts cannot take row {self._rows} now")
        for name, (kind, shape) in self._layout.items():
            row = np.asarray(getattr(recording, name), _DTYPES[kind])
            if row.shape != shape[1:]:
                raise ValueError(f"{name} of shape {row.shape}; expected {shape[1:]}")
            try:
                self._file.seek(self._offsets[name] + self._rows * row.nbytes)
                self._file.write(row.tobytes())
            except OSError as error:
                raise cannot_write(self._path, error) from error
        self._rows += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Publishes the file, or removes it when something failed.

        Raises:
            ValueError: rows are missing.
            ArtefactError: the file cannot be written.
        """
        try:
            # Closing writes what is buffered, which fails once more where the disk is full.
            if self._file is not None:
                self._file.close()
            if error is None:
                if self._rows < self._prompts:
                    raise ValueError(f"{self._rows} rows were added; expected {self._prompts}")
                os.replace(self._temporary, self._path)
        except OSError as failure:
            if error is None:
                raise cannot_write(self._path, failure) from failure
        finally:
            with contextlib.suppress(OSError):
                self._temporary.unlink(missing_ok=True)


def _means(stats: CalibrationStats) -> np.ndarray:
    return np.array([[layer.entropy_mean for layer in scale.layers] for scale in stats.scales])


def _check_form(name: str, array: np.ndarray, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    if not isinstance(array, np.ndarray):
        raise _unfit(name, shown(array), f"{dtype} {list(shape)}")
    if array.dtype != dtype or array.shape != shape:
        raise _unfit(name, f"{array.dtype} {list(array.shape)}", f"{dtype} {list(shape)}")


def _unfit(name: str, found: str, expected: str) -> ArtefactError:
    return ArtefactError(f"expected {expected}, as in the statistics, got {found}", _REMEDY, field=name)
