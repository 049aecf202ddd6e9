"""The whole catalogue on one page, for the lecture hall: `make demo` shows it in Voila."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import ipywidgets as widgets

from .registry import Entry, catalogue
from .widget import alert

_STYLE = """<style>
.course-gallery {
  --jp-widgets-font-size: 1.25rem; --jp-widgets-inline-height: 2.5rem; --jp-widgets-inline-width: 26rem;
  --jp-widgets-inline-label-width: 7rem; --jp-widgets-inline-width-short: 12rem; --jp-widgets-container-padding: 0;
}
.course-gallery .widget-html-content { font-size: 1.25rem; line-height: 1.5; }
.course-gallery .widget-image { zoom: 1.6; }
.course-gallery .course-heading { width: 100%; height: auto; padding: 0.4rem 1rem; text-align: left; }
.course-gallery .course-heading { font-size: 1.4rem; margin: 0.2rem 0; }
</style>"""


def gallery() -> widgets.VBox:
    """Return every demo of the catalogue in a section of its own, which is built when it is first opened.

    >>> len(gallery().children) == 1 + len(catalogue())
    True
    """
    page = widgets.VBox([widgets.HTML(_STYLE), *map(_section, catalogue().values())])
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
        body.children = [widgets.HTML("<span role='status'>Building the demo. At first it may train networks …</span>")]
        try:
            body.children = _shell(entry)
        except Exception as error:  # whatever is missing: the page goes on, and the section can be opened again
            body.children = [widgets.HTML(alert(error))]
        else:
            heading.unobserve(build, names="value")

    heading.observe(fold, names="value")
    heading.observe(build, names="value")
    return widgets.VBox([heading, body])


def _shell(entry: Entry) -> list[widgets.Widget]:
    """Build a demo; return what to try, two buttons and the demo itself."""
    demo = entry.build()
    reset = widgets.Button(description="Reset", tooltip="Put every control back to where it was")
    reset.on_click(lambda _: demo.reset())
    forward = widgets.Button(description="Next example", disabled=demo.example is None)
    forward.on_click(lambda _: demo.next_example())
    return [widgets.HTML(escape(entry.hint)), widgets.HBox([reset, forward]), demo.widget()]
