"""What reduced precision does to the logits."""

from __future__ import annotations

from toprovar.evaluation.report.material import Material
from toprovar.evaluation.report.section import Missing, Section, Table

__all__ = ["make"]

_TITLE = "Precision"
_EXPLANATION = (
    "How wrong the logits get in reduced precision: the same prompts with the same codes at every scale, against the "
    "model's own modules in fp32, everything computed. One per cent means that the error's root mean square is a "
    "hundredth of the logits'; what that does to the images is for `toprovar eval` to say."
)


def make(material: Material) -> Section:
    """The section."""
    measured = material.precision
    if isinstance(measured, Missing):
        return Section("precision", _TITLE, _EXPLANATION, notes=(measured.line,))
    names = tuple(measured.errors)
    rows = [
        (
            f"scale {index}, {scale.height} x {scale.width}",
            *(f"{measured.errors[name][index]:.2%}" for name in names),
        )
        for index, scale in enumerate(material.plan.scales)
    ]
    caption = f"Error of the logits by precision; {measured.prompts} prompts, on {measured.machine}."
    return Section("precision", _TITLE, _EXPLANATION, tables=(Table(("scale", *names), tuple(rows), caption),))
