"""The checkpoint itself: tables and plan, and on an NVIDIA GPU the runtime's compiled kernels."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from toprovar.compiler.graph_check import SMALLEST_EQUAL_BITS, GraphCheck
from toprovar.manifest import Precision
from toprovar.pipeline.builds.base import Build, Written
from toprovar.pipeline.precision import ForcedGeneration, logits_along, relative_errors
from toprovar.pipeline.subject import Subject
from toprovar.plan import DepthRule, SparsityPlan
from toprovar.precision import PRECISION, PrecisionErrors
from toprovar.progress import Stages
from toprovar.runtime.backends.torch import TorchBackend
from toprovar.runtime.cuda.faults import DeviceFault
from toprovar.runtime.cuda.memory import DoesNotFit
from toprovar.runtime.cuda.options import RuntimeOptions
from toprovar.runtime.cuda.support import fp8_obstacle
from toprovar.runtime.session import Session

__all__ = ["BUILD", "TorchBuild"]

_MEASURED_PROMPTS = 2
_LARGEST_ERROR = 1e-3
"""Of the runtime in fp32, relative to the logits' root mean square, with the same codes."""


class TorchBuild(Build):
    """Runs every program once, so that a later process compiles nothing; see `Build`."""

    packages = ("torch", "triton", "numpy")
    precisions = ("fp32", "bf16", "fp8")
    keeps_one = True

    def __init__(
        self, subject: Subject, folder: Path, stages: Stages, precision: Precision | None, portable: bool = False
    ) -> None:
        super().__init__(subject, folder, stages, precision, portable)
        self._options = subject.runtime(precision)
        self._open: tuple[object, TorchBackend] | None = None
        self._recorded = contextlib.ExitStack()
        self._kernels: dict[str, dict[str, str]] = {}
        if self._options is not None and not portable:
            from toprovar.runtime.cuda.kernel_store import recorded_kernels

            self._kernels = self._recorded.enter_context(recorded_kernels())

    def session(self, plan: SparsityPlan) -> Session:
        """On the runtime where there is one; plans that prune alike share it, one at a time."""
        kind = plan.ranking, plan.restoration, plan.pruning
        if self._open is None or self._open[0] != kind:
            self._close()
            self._open = kind, self._backend(plan, self._options)
        return self.subject.session(self._open[1], plan)

    def write(self, plan: SparsityPlan, target: Path, prompts: Sequence[str]) -> Written:
        """Stores the kernels, and what reduced precision does to the logits."""
        (target / "graphs").mkdir()
        versions, gpu = {}, None
        if self._options is not None and not self.portable:
            from toprovar.runtime.cuda.kernel_store import save_kernels

            self._run_every_program(plan, prompts[0])
            kernels = save_kernels(self._kernels, target)
            versions, gpu = {"triton": kernels.triton, "cuda driver": kernels.driver}, kernels.gpu
        self._close()
        self._recorded.close()
        self._measure(plan, target, prompts[:_MEASURED_PROMPTS])
        chosen = self.precision if self._options is None else self._options.precision
        return Written(versions, chosen, gpu)

    def verify(self, plan: SparsityPlan, target: Path, prompts: Sequence[str]) -> list[GraphCheck]:
        """On a GPU the runtime in fp32, scale by scale with the same codes; elsewhere the model itself runs."""
        if self._options is None:
            return []
        checks: list[GraphCheck] = []
        with self._as_far_as_memory_goes("verified"):
            shown = self._backend(plan, None)
            reference = self.subject.session(shown, plan)
            generations = [ForcedGeneration.draw(reference, text, index) for index, text in enumerate(prompts)]
            with self._backend(plan, RuntimeOptions("fp32", shows_logits=True)) as backend:
                for index, one in enumerate(generations):
                    pairs = [
                        (logits_along(backend, reference, one, counts), logits_along(shown, reference, one, counts))
                        for counts in (None, plan)
                    ]
                    checks += [*_compare_dense(*pairs[0]), _compare_sparse(*pairs[1], plan)]
                    self.stages.progress("verify", index + 1, len(generations))
        return checks

    def _run_every_program(self, plan: SparsityPlan, prompt: str) -> None:
        """Dense, and sparse from every scale that a prompt may be pruned from."""
        plans = [plan]
        if plan.depth_rule is not None:
            rule = plan.depth_rule
            plans += [dataclasses.replace(plan, depth_rule=_always(rule, depth)) for depth in rule.depths]
        for index, one in enumerate(plans):
            session = self.session(one)
            session(prompt, dense=True)
            session(prompt)
            self.stages.progress("kernels", index + 1, len(plans))

    def _measure(self, plan: SparsityPlan, target: Path, prompts: Sequence[str]) -> None:
        """Writes the logits' errors, on a GPU of every precision, on a CPU of the one that was asked for.

        A CPU has neither the kernels nor products in fp8: there they are computed in plain torch, operands rounded.
        """
        on_gpu = self._options is not None
        wanted = self._measured_precisions()
        if not wanted:
            return
        errors: dict[str, tuple[float, ...]] = {}
        with self._as_far_as_memory_goes("measured"):
            shown = self._backend(plan, None)
            reference = self.subject.session(shown, plan)
            generations = [ForcedGeneration.draw(reference, text, index) for index, text in enumerate(prompts)]
            exact = [logits_along(shown, reference, one) for one in generations]
            self._back_to_host()
            for index, precision in enumerate(wanted):
                options = RuntimeOptions(precision, captured=on_gpu, fused=on_gpu, shows_logits=True)
                with self._backend(plan, options) as backend:
                    own = [logits_along(backend, reference, one) for one in generations]
                errors[precision] = relative_errors(own, exact)
                self.stages.progress("precision", index + 1, len(wanted))
        if errors:
            machine = torch.cuda.get_device_name() if on_gpu else "a CPU, products in plain torch"
            PrecisionErrors(machine, len(generations), errors).save(target / PRECISION)

    def _measured_precisions(self) -> list[Precision]:
        if self._options is None:
            return [one for one in (self.precision,) if one is not None and one != "fp32"]
        config = self.subject.loaded.backbone.config
        obstacle = fp8_obstacle(config.width, config.hidden, self.subject.device)
        return ["bf16"] if obstacle is not None else ["bf16", "fp8"]

    def _backend(self, plan: SparsityPlan, options: RuntimeOptions | None) -> TorchBackend:
        reuses = plan.pruning.reuses_guidance
        return self.subject.torch_backend(plan.ranking, plan.restoration, reuses, runtime=options)

    def _close(self) -> None:
        if self._open is not None:
            self._open[1].close()
        self._open = None

    @contextlib.contextmanager
    def _as_far_as_memory_goes(self, what: str) -> Iterator[None]:
        """Work with the model's own modules in fp32, which leave the device afterwards.

        They need more memory than the runtime; where there is too little, a remark says what is not done.
        """
        try:
            yield
        except (DoesNotFit, DeviceFault) as error:
            if isinstance(error, DeviceFault) and not error.recoverable:
                raise
            self.stages.remark(f"the runtime is not {what}, since the model in fp32 does not fit: {error.message}")
        finally:
            self._back_to_host()

    def _back_to_host(self) -> None:
        self.subject.loaded.to(torch.device("cpu"))
        if self.subject.device.type == "cuda":
            torch.cuda.empty_cache()


def _always(rule: DepthRule, depth: int) -> DepthRule:
    """The rule that gives every prompt one depth."""
    return dataclasses.replace(rule, thresholds=(), depths=(depth,))


def _compare_dense(own: Sequence[np.ndarray], exact: Sequence[np.ndarray]) -> list[GraphCheck]:
    """Scale by scale."""
    checks = []
    for scale, (logits, true) in enumerate(zip(own, exact, strict=True)):
        (error,) = relative_errors([[logits]], [[true]])
        equal = float(((logits > 0) == (true > 0)).mean())
        failures = [f"{equal:.3%} equal bits"] if equal < SMALLEST_EQUAL_BITS else []
        failures += [f"logits wrong by {error:.1e} of their size"] if error > _LARGEST_ERROR else []
        checks.append(GraphCheck("dense", scale, not failures, error, equal, tuple(failures)))
    return checks


def _compare_sparse(own: Sequence[np.ndarray], exact: Sequence[np.ndarray], plan: SparsityPlan) -> GraphCheck:
    """Bits of all scales: tokens of nearly equal rank may change places, which moves the logits of a few.

    A scale that a plan leaves out is in no image, and the runtime does not compute what only its logits would need.
    """
    computed = [scale for scale, one in enumerate(plan.scales) if any(one.kept)]
    equal = float(np.concatenate([((own[scale] > 0) == (exact[scale] > 0)).ravel() for scale in computed]).mean())
    failures = (f"{equal:.3%} equal bits",) if equal < SMALLEST_EQUAL_BITS else ()
    return GraphCheck("sparse", None, not failures, 0.0, equal, failures)


BUILD = TorchBuild
