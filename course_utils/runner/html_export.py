"""Notebooks as web pages that need no network: formulas become MathML, nothing is loaded from elsewhere."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2
import nbformat
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from traitlets import Any as AnyTrait
from traitlets.config import Config

from ..core import templates
from ..core.files import write_text
from ..core.settings import local_path
from . import chapters

_ARG = re.compile(r"\\arg(?![a-zA-Z])")  # latex2mathml knows \max and \min, but not \arg
# A sign after another operator, unless that one closes: latex2mathml spaces it as if it stood between two terms.
_UNARY = re.compile(r"(<mo[^>]*>(?!&#x0(?:0029|005D|007D|007C|2016|0021);)[^<]*</mo>)<mo>(&#x02212;|&#x0002B;)</mo>")


class _Renderer(IPythonRenderer):
    """nbconvert's Markdown renderer, with formulas as MathML and links that lead to the pages."""

    def __init__(self, link_to: Callable[[str], str], **options: Any):
        super().__init__(**options)
        self.link_to = link_to

    def inline_math(self, body: str) -> str:
        return mathml(body)

    def block_math(self, body: str) -> str:
        return mathml(body, display=True)

    def latex_environment(self, name: str, body: str) -> str:
        return mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", display=True)

    def block_html(self, html: str) -> str:
        return super().block_html(self._linked(_math_in_html(html)))

    def inline_html(self, html: str) -> str:
        return super().inline_html(self._linked(html))

    def link(self, text: str, url: str, title: str | None = None) -> str:
        return super().link(text, self.link_to(url), title)

    def _linked(self, html: str) -> str:
        return re.sub(r"""(href=["'])([^"']+)""", lambda found: found[1] + self.link_to(found[2]), html)


class Exporter(HTMLExporter):
    """nbconvert's exporter with formulas as MathML, alt texts, and sliders; what it writes loads nothing.

    `link_to` and `slider` are those of `page`.
    """

    link_to = AnyTrait()
    slider = AnyTrait()
    # The prefix tells the course's templates from nbconvert's of the same names.
    extra_loaders = (jinja2.PrefixLoader({"course": templates.environment().loader}),)
    raw_template = "{% extends 'course/page.html.j2' %}"

    @property
    def default_config(self) -> Config:
        # Scripts and live widgets need a network or a kernel: the picture or table beside them is shown instead.
        shown = ["text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/latex", "text/plain"]
        config = super().default_config.copy()
        config.merge(Config({"NbConvertBase": {"display_data_priority": shown}}))
        return config

    def default_filters(self) -> Iterator[tuple[str, Callable]]:
        yield from super().default_filters()
        yield "slider", self.slider

    @jinja2.pass_context
    def markdown2html(self, context: Mapping[str, Any], source: str) -> str:
        attachments = context.get("cell", {}).get("attachments", {})
        renderer = _Renderer(self.link_to, escape=False, attachments=attachments, anchor_link_text="¶")
        return MarkdownWithMath(renderer=renderer).render(source)


def mathml(tex: str, *, display: bool = False) -> str:
    """Return a formula in TeX as MathML; one that cannot be read stays TeX, as code.

    >>> mathml("x^2").startswith("<math")
    True
    """
    try:
        markup = convert(_ARG.sub(r"\\operatorname{arg}", tex.strip()), display="block" if display else "inline")
    except Exception:  # latex2mathml raises a dozen kinds; the page is written all the same
        markup = "\\"
    if "\\" in markup:  # an unknown command comes back as it is
        return templates.element("code", tex, **{"class": "unreadable-formula"})
    return _UNARY.sub(r'\1<mo form="prefix">\2</mo>', markup)


def page(
    nb: nbformat.NotebookNode,
    name: str,
    *,
    link_to: Callable[[str], str] = str,
    slider: Callable[[str], str] = lambda alt: "",
    exporter: type[Exporter] = Exporter,
) -> str:
    """Return a notebook as one HTML page that loads nothing.

    Args:
        nb: the notebook.
        name: its file name without ending.
        link_to: maps the target of a link in the notebook to one in the page.
        slider: maps the alt text of a picture to the HTML that stands in for it, or to "" where the picture stays.
        exporter: what writes the page.
    """
    nb = nbformat.from_dict({**nb, "metadata": {**nb.metadata, "title": _title(nb) or name}})
    writer = exporter(link_to=link_to, slider=slider, language_code="en")
    html, _ = writer.from_notebook_node(nb, resources={"metadata": {"name": name}})
    return html


def export(
    path: str | Path, out_dir: str | Path, *, links_from: Path | None = None, ending: str = ".html", **options: Any
) -> Path:
    """Write the page of a notebook into a folder and return its file.

    Args:
        path: the notebook.
        out_dir: the folder.
        links_from: the folder its relative links start at, where the notebook has been moved.
        ending: of the file's name.
        **options: as in `page`.

    Raises:
        ValueError: the folder is an address. OSError: it cannot be written.
    """
    path, out_dir = Path(path), local_path(out_dir)
    origin = links_from or path.parent
    html = page(
        chapters.read_notebook(path), path.stem, link_to=lambda url: _rewritten_link(url, origin, out_dir), **options
    )
    target = out_dir / f"{path.stem}{ending}"
    write_text(target, html)
    return target


def _math_in_html(html: str) -> str:
    """Convert formulas in raw HTML, which Markdown passes on as it is and a live notebook typesets."""
    html = re.sub(r"(?<!\\)\$\$(.+?)(?<!\\)\$\$", lambda m: mathml(m[1], display=True), html, flags=re.DOTALL)
    return re.sub(r"(?<![$\\])\$([^$\n]+?)(?<![$\\])\$", lambda m: mathml(m[1]), html)


def _title(nb: nbformat.NotebookNode) -> str:
    headings = (re.search(r"^# (.+)$", c.source, re.MULTILINE) for c in nb.cells if c.cell_type == "markdown")
    return next((found[1].strip() for found in headings if found), "")


def _rewritten_link(url: str, origin: Path, out_dir: Path) -> str:
    file, mark, anchor = url.partition("#")
    if not file or re.match(r"[a-z]+:|/", file):
        return url
    if re.fullmatch(r"[^/]+\.ipynb", file):
        return file.removesuffix(".ipynb") + ".html" + mark + anchor
    if (origin / file).exists():
        try:
            return Path(os.path.relpath(origin / file, out_dir)).as_posix() + mark + anchor
        except ValueError:  # under Windows there is no way from one drive to another
            return (origin / file).resolve().as_uri() + mark + anchor
    return url
