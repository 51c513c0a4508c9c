"""Reads a page strictly: every tag is closed, in order, and nothing comes from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

_VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """A page and what is in it; raises where it is not well-formed."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        text = path.read_text(encoding="utf-8")
        assert text.startswith("<!DOCTYPE html>")
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> repeats an attribute"
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1:] == [tag], f"</{tag}> where {self.open[-3:]} are open"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def check(self) -> None:
        """No scripts, no references to anything outside, and links that lead somewhere."""
        assert not {"script", "iframe", "link", "object", "base"} & {tag for tag, _ in self.tags}
        identifiers = [attributes["id"] for _, attributes in self.tags if "id" in attributes]
        assert len(identifiers) == len(set(identifiers))
        for tag, attributes in self.tags:
            for name, value in attributes.items():
                assert not name.startswith("on"), f"<{tag} {name}>"
                if name == "href":
                    assert value in {f"#{identifier}" for identifier in identifiers}
                if name == "src":
                    assert (value or "").startswith("data:image/png;base64,")
        for image in self.all("img"):
            assert image["alt"]
        styles = " ".join(re.findall(r"url\([^)]*\)|@import[^;]*", " ".join(self.rawdata)))
        assert styles == ""
