"""The errors a user can mend. Anything else that is raised is a bug and keeps its traceback."""

from __future__ import annotations

__all__ = [
    "ArtefactError",
    "BackendError",
    "CheckpointError",
    "MissingExtra",
    "ToProVARError",
    "UsageError",
    "VerificationFailed",
]


class ToProVARError(Exception):
    """Says what was wrong, what was expected and how to mend it.

    Args:
        message: What was wrong and what was expected, without a final full stop.
        hint: What to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}; {self.hint}"

    def one_line(self) -> str:
        """Renders `error: what was wrong; expected ...; hint` without line breaks."""
        return " ".join(f"error: {self}".split())


class UsageError(ToProVARError):
    """The command or call itself cannot be carried out as written."""

    exit_code = 2


class CheckpointError(ToProVARError):
    """A checkpoint is damaged, unsafe, incomplete or of another architecture."""


class BackendError(ToProVARError):
    """A backend is not available here or failed on its device."""


class VerificationFailed(ToProVARError):
    """A deployment ran but missed one of its stated tolerances."""


class ArtefactError(ToProVARError):
    """A stats, plan or manifest file, or the deployment around it, is not as it must be.

    Args:
        problem: What was found and what was expected.
        hint: How to mend it.
        field: Path of the offending field, such as `scales[9].kept[3]`.
        file: Name of the file that holds the field.
    """

    def __init__(self, problem: str, hint: str | None = None, *, field: str = "", file: str = "") -> None:
        super().__init__(": ".join(part for part in (file, field, problem) if part), hint)
        self.problem = problem
        self.field = field
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        # The default would rebuild the error from `args`, which hold the joined message.
        return _rebuild_artefact_error, (self.problem, self.hint, self.field, self.file)

    def under(self, parent: str) -> ArtefactError:
        """The same error with its field seen from the object that holds `parent`."""
        joint = "." if parent and self.field and not self.field.startswith("[") else ""
        field = f"{parent}{joint}{self.field}"
        return ArtefactError(self.problem, self.hint, field=field, file=self.file)

    def located(self, file: str, hint: str | None = None) -> ArtefactError:
        """The same error with the name of the file and, where it has none, a hint."""
        return ArtefactError(self.problem, self.hint or hint, field=self.field, file=file)


def _rebuild_artefact_error(problem: str, hint: str | None, field: str, file: str) -> ArtefactError:
    return ArtefactError(problem, hint, field=field, file=file)


class MissingExtra(ToProVARError):
    """A module that comes with an optional extra is not installed.

    Args:
        module: Top-level name of the module that could not be imported.
        extra: The extra of this project that installs it.
    """

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(
            f"{module} is not installed; expected the extra {extra!r}",
            f'pip install "toprovar[{extra}]"',
        )
        self.module = module
        self.extra = extra

    def __reduce__(self) -> tuple[object, ...]:
        return MissingExtra, (self.module, self.extra)
