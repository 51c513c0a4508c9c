"""Whether a deployment's engines can run here, before any of them is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from toprovar.deployment import PLAN, Deployment, file_sha256
from toprovar.engines import ENGINES, Engines
from toprovar.errors import BackendError

__all__ = ["GRAPHS", "REBUILD", "Machine", "check_engines", "read_engines"]

REBUILD = "build them here with `toprovar build DIR`"

GRAPHS = "graphs/step.onnx"
"""Lies in deployments that engines can be built of."""


@dataclass(frozen=True)
class Machine:
    """Where engines are to run.

    Attributes:
        gpu: name of the GPU.
        compute_capability: of the GPU, such as `9.0`.
        tensorrt: TensorRT's version.
        cuda: CUDA's version, as torch says.
        driver: the newest CUDA version that the driver knows.
    """

    gpu: str
    compute_capability: str
    tensorrt: str
    cuda: str
    driver: str


def read_engines(deployment: Deployment) -> Engines:
    """The record of a deployment's engines.

    Raises:
        BackendError: it has none.
        ArtefactError: the record is damaged.
    """
    path = deployment.folder / ENGINES
    if not path.is_file():
        hint = "compile the model with --backend tensorrt"
        if (deployment.folder / GRAPHS).is_file():
            hint = _rebuild(deployment)
        raise BackendError(f"{deployment.folder} holds no TensorRT engines (no {ENGINES})", hint)
    return Engines.load(path)


def check_engines(engines: Engines, deployment: Deployment, machine: Machine) -> None:
    """Compares what engines were built for with what is here.

    Raises:
        BackendError: names everything that differs, and what to do.
    """
    problems = [*_hardware(engines, machine), *_version(engines, machine), *_cuda(engines, machine)]
    if engines.plan_sha256 != file_sha256(deployment.folder / PLAN):
        problems.append(f"{PLAN} was changed after they were built")
    for one in engines.files:
        path = deployment.folder / one.file
        if not path.is_file():
            problems.append(f"{one.file} is missing")
        elif not path.resolve().is_relative_to(deployment.folder.resolve()):
            problems.append(f"{one.file} leads out of the folder")
        elif file_sha256(path) != one.sha256:
            problems.append(f"{one.file} was changed")
        graph = deployment.folder / "graphs" / f"{one.graph}.onnx"
        # A deployment may go without its graphs where nothing is to be built.
        if graph.is_file() and file_sha256(graph) != one.graph_sha256:
            problems.append(f"graphs/{graph.name} was changed after they were built")
    if problems:
        what = f"the TensorRT engines of {deployment.folder} do not fit: {'; '.join(problems)}"
        raise BackendError(what, _rebuild(deployment))


def _rebuild(deployment: Deployment) -> str:
    return f"build them here with `toprovar build {deployment.folder}`"


def _hardware(engines: Engines, machine: Machine) -> list[str]:
    built, here = engines.compute_capability, machine.compute_capability
    match engines.hardware_compatibility:
        case "ampere_plus":
            fits, wanted = _numbers(here) >= (8, 0), "compute capability 8.0 or later"
        case "same_compute_capability":
            fits, wanted = here == built, f"compute capability {built}"
        case _:
            fits, wanted = (here, machine.gpu) == (built, engines.gpu), f"{engines.gpu} ({built})"
    return [] if fits else [f"they were built for {wanted}, this is {machine.gpu} ({here})"]


def _version(engines: Engines, machine: Machine) -> list[str]:
    built, here = _numbers(engines.tensorrt), _numbers(machine.tensorrt)
    # A version-compatible engine runs in later versions of the same major one.
    fits = (here[:1] == built[:1] and here >= built) if engines.version_compatible else here == built
    return [] if fits else [f"they were built by TensorRT {engines.tensorrt}, this is {machine.tensorrt}"]


def _cuda(engines: Engines, machine: Machine) -> list[str]:
    problems = []
    if _numbers(engines.cuda)[:1] != _numbers(machine.cuda)[:1]:
        problems.append(f"they were built with CUDA {engines.cuda}, this is {machine.cuda}")
    # A driver runs what was made for an older CUDA, not for a newer one.
    if _numbers(machine.driver)[:1] < _numbers(engines.cuda)[:1]:
        problems.append(f"they need a driver for CUDA {engines.cuda}, this one knows {machine.driver}")
    return problems


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
