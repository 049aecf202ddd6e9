"""HTML from the templates in `course_utils/templates`; every value is escaped."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # imported where a page is written: most commands write none
    import jinja2


@cache
def environment() -> jinja2.Environment:
    """Return the Jinja environment of all templates: autoescaping on, an unknown name is an error."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("course_utils"),
        autoescape=True,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def render(template: str, **values: Any) -> str:
    """Return a template, filled in.

    Args:
        template: its file name. **values: of the names that it uses.

    Raises:
        jinja2.UndefinedError: a name that the template uses is missing.

    >>> render("element.html.j2", tag="b", text="1 < 2", attributes={})
    '<b>1 &lt; 2</b>'
    """
    return environment().get_template(template).render(values)


def element(tag: str, text: str, **attributes: str) -> str:
    """Return one HTML element with a text in it.

    >>> element("span", "a & b", role="status")
    '<span role="status">a &amp; b</span>'
    """
    return render("element.html.j2", tag=tag, text=text, attributes=attributes)
