"""The kinds of extension, each with the folder of its files and the symbol that such a file defines."""

from __future__ import annotations

from toprovar.registry import Registry

__all__ = [
    "BACKBONES",
    "BACKENDS",
    "BUILDS",
    "COMMANDS",
    "POLICIES",
    "RESTORATIONS",
    "SELECTORS",
    "STATISTICS",
    "STUDIES",
    "SUITES",
]

BACKBONES = Registry("backbone", "toprovar.models", "BACKBONE")
BACKENDS = Registry("backend", "toprovar.runtime.backends", "BACKEND")
BUILDS = Registry("backend to compile for", "toprovar.pipeline.builds", "BUILD")
COMMANDS = Registry("command", "toprovar.commands", "command")
POLICIES = Registry("policy", "toprovar.calibration.policies", "POLICY")
RESTORATIONS = Registry("restoration", "toprovar.models.restorations", "RESTORATION")
STUDIES = Registry("study", "toprovar.studies", "STUDY")
SELECTORS = Registry("selector", "toprovar.models.selectors", "SELECTOR")
STATISTICS = Registry("statistic", "toprovar.runtime.statistics", "STATISTIC")
SUITES = Registry("suite", "toprovar.evaluation.suites", "SUITE")
