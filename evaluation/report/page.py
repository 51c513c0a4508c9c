"""Sections to one HTML page that needs nothing beside it."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from toprovar.evaluation.report.section import Picture, Section
from toprovar.evaluation.report.style import DPI, WIDTH

__all__ = ["render_page"]

_TEMPLATE = "page.html.j2"


def render_page(title: str, made: str, cautions: Sequence[str], sections: Sequence[Section]) -> str:
    """The page's text; everything that comes from outside is escaped.

    Args:
        title: Its heading.
        made: By what and when it was made.
        cautions: What must not be overlooked, a line each.
        sections: The sections in order.
    """
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"data_uri": _data_uri, "code": _code}
    template = environment.get_template(_TEMPLATE)
    width = round(WIDTH * DPI)
    return template.render(title=title, made=made, cautions=cautions, sections=sections, width=width)


def _data_uri(picture: Picture) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture.png).decode('ascii')}"


def _code(line: str) -> Markup:
    """Escapes a line; what stands in backticks is a command."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(line))))
