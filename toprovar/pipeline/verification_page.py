"""The page of a comparison graph by graph: one file that needs no other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from toprovar.compiler.tensorrt.verify import EngineCheck, OutputCheck, Tolerance

__all__ = ["render_checks"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem }
th, td { padding: 0.2rem 0.8rem; border-bottom: 1px solid #ddd; text-align: right; font-variant-numeric: tabular-nums }
th:first-child, td:first-child { text-align: left }
.failed { background: #fde8e8 }
summary { cursor: pointer }
"""


def render_checks(title: str, precision: str, tolerance: Tolerance, checks: Sequence[EngineCheck]) -> str:
    """HTML: a line a call, its outputs folded away; failures stand open.

    Args:
        title: of the deployment.
        precision: of products.
        tolerance: what was allowed.
        checks: what was found.
    """
    failed = sum(bool(one.failures) for one in checks)
    verdict = f"{failed} of {len(checks)} calls are out of tolerance" if failed else f"all {len(checks)} calls passed"
    rules = (
        f"Products in {precision}. Allowed: {tolerance.statistic} error {tolerance.relative:.1e} of an output's "
        f"largest value, cosine {tolerance.cosine:g}, PSNR {tolerance.psnr:g} dB, "
        f"{tolerance.equal_bits:.1%} equal bits."
    )
    if tolerance.entropy_cosine is not None and tolerance.entropy_psnr is not None:
        rules += (
            " Of standardised entropies, which are differences of nearly equal numbers: "
            f"cosine {tolerance.entropy_cosine:g}, PSNR {tolerance.entropy_psnr:g} dB."
        )
    calls = "\n".join(_call(one) for one in checks)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}: graphs against the model</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}: graphs against the model</h1><p>{escape(verdict)}.</p><p>{escape(rules)}</p>\n"
        f"{calls}\n</body></html>\n"
    )


def _call(check: EngineCheck) -> str:
    where = "" if check.scale is None else f", scale {check.scale}{', sparse' if check.sparse else ''}"
    bits = "" if check.equal_bits is None else f", {check.equal_bits:.3%} equal bits"
    wrong = f" &mdash; failed: {escape(', '.join(check.failures))}" if check.failures else ""
    head = f"{escape(check.runner)}: {escape(check.graph)}{where}, {check.rows} rows{bits}{wrong}"
    rows = "\n".join("".join(_row(output)) for output in check.outputs)
    return (
        f"<details{' open' if check.failures else ''}><summary{_class(bool(check.failures))}>{head}</summary>"
        "<table><tr><th>output</th><th>largest error</th><th>relative</th><th>cosine</th><th>PSNR</th></tr>\n"
        f"{rows}</table></details>"
    )


def _row(output: OutputCheck) -> Iterator[str]:
    yield f"<tr{_class(not output.passed)}><td>{escape(output.name)}</td>"
    yield f"<td>{output.absolute:.2e}</td><td>{output.relative:.2e}</td>"
    yield f"<td>{'' if output.cosine is None else f'{output.cosine:.6f}'}</td>"
    yield f"<td>{'' if output.psnr is None else f'{output.psnr:.1f} dB'}</td></tr>"


def _class(failed: bool) -> str:
    return ' class="failed"' if failed else ""
