"""The interface of a build: try plans on an engine, then write what a deployment for it holds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from toprovar.compiler.graph_check import GraphCheck
from toprovar.errors import UsageError
from toprovar.manifest import Precision
from toprovar.pipeline.subject import Subject
from toprovar.plan import SparsityPlan
from toprovar.progress import Stages
from toprovar.runtime.session import Session

__all__ = ["Build", "Written"]


@dataclass(frozen=True)
class Written:
    """What was written, for the manifest.

    Attributes:
        versions: of what it was written with and for, by name.
        precision: what the backend computes in; None leaves it to the backend.
        gpu: GPU that it was written on and for; None where it runs anywhere.
    """

    versions: Mapping[str, str] = field(default_factory=dict)
    precision: Precision | None = None
    gpu: str | None = None


class Build(ABC):
    """Makes the backend's part of a deployment.

    Args:
        subject: the model.
        folder: for what it tries; it goes afterwards.
        stages: told how far it is.
        precision: as asked for; None leaves it to the backend.
        portable: leave out what holds for this machine's GPU alone.

    Attributes:
        packages: distributions whose versions the manifest records.
        precisions: what `precision` may be.
        keeps_one: a session ends when the next is asked for.
    """

    packages: ClassVar[tuple[str, ...]]
    precisions: ClassVar[tuple[Precision, ...]] = ()
    keeps_one: ClassVar[bool] = False

    def __init__(
        self, subject: Subject, folder: Path, stages: Stages, precision: Precision | None, portable: bool = False
    ) -> None:
        self.subject, self.folder, self.stages, self.precision = subject, folder, stages, precision
        self.portable = portable

    @classmethod
    def check(cls, backend: str, precision: Precision | None, portable: bool = False) -> None:
        """Refuses, before anything is loaded, what cannot be built.

        Raises:
            UsageError: a precision that the backend does not offer.
        """
        if precision is not None and precision not in cls.precisions:
            offered = f"expected one of {', '.join(cls.precisions)}" if cls.precisions else "it offers no choice"
            raise UsageError(f"cannot compile for {backend} in {precision}; {offered}", "leave out --precision")

    @property
    def runs_here(self) -> bool:
        """Whether what is written can run on this machine."""
        return True

    @abstractmethod
    def session(self, plan: SparsityPlan) -> Session:
        """A session of a plan on the engine, as the deployment's will be."""

    @abstractmethod
    def write(self, plan: SparsityPlan, target: Path, prompts: Sequence[str]) -> Written:
        """Writes the backend's files.

        Args:
            plan: what the deployment computes.
            target: the deployment's folder; ``graphs`` is made there.
            prompts: to run, where running is part of it.
        """

    @abstractmethod
    def verify(self, plan: SparsityPlan, target: Path, prompts: Sequence[str]) -> list[GraphCheck]:
        """Compares what was written with the model.

        Args:
            plan: what the deployment computes.
            target: the deployment's folder.
            prompts: what to draw, each dense and sparse.
        """
