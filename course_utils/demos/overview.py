"""The gallery: every demo on one page, which `make demo` shows in Voila."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets

from ..core.templates import element, render
from .registry import Entry, catalogue
from .widget import alert


def gallery() -> widgets.VBox:
    """Return every demo of the catalogue in a section of its own, which is built when it is first opened.

    >>> len(gallery().children) == 1 + len(catalogue())
    True
    """
    page = widgets.VBox([widgets.HTML(render("gallery.html.j2")), *map(_section, catalogue().values())])
    page.add_class("course-gallery")
    return page


def _section(entry: Entry) -> widgets.VBox:
    heading = widgets.ToggleButton(description=f"{entry.chapter}  {entry.title}", tooltip=entry.hint)
    heading.add_class("course-heading")
    body = widgets.VBox(layout=widgets.Layout(display="none"))

    def fold(change: Mapping[str, Any]) -> None:
        body.layout.display = "flex" if change["new"] else "none"

    def build(change: Mapping[str, Any]) -> None:
        if not change["new"]:
            return
        status = element("span", "Building the demo. At first it may train networks …", role="status")
        body.children = [widgets.HTML(status)]
        try:
            body.children = _contents(entry)
        except Exception as error:  # whatever is missing: the page goes on, and the section can be opened again
            body.children = [widgets.HTML(alert(error))]
        else:
            heading.unobserve(build, names="value")

    heading.observe(fold, names="value")
    heading.observe(build, names="value")
    return widgets.VBox([heading, body])


def _contents(entry: Entry) -> list[widgets.Widget]:
    """Build a demo; return what to try, two buttons and the demo itself."""
    demo = entry.build()
    reset = widgets.Button(description="Reset", tooltip="Put every control back to where it was")
    reset.on_click(lambda _: demo.reset())
    forward = widgets.Button(description="Next example", disabled=demo.example is None)
    forward.on_click(lambda _: demo.next_example())
    return [widgets.HTML(element("span", entry.hint)), widgets.HBox([reset, forward]), demo.widget()]
