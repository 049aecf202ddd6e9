"""Demos without a kernel: the pictures are drawn beforehand, and a few lines of JavaScript show the one asked for."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from PIL import Image

from ..core.files import write_text
from ..core.settings import cache_dir, local_path
from ..core.suggestions import did_you_mean
from .photographs import UPLOADED
from .registry import Entry, catalogue
from .widget import Demo

MAX_BYTES = 2_900_000  # of the pictures; with words and script a file stays below 3 MB
_STYLE = """
.course-demo { margin: 1em 0; padding: 0; max-width: 100%; font-family: system-ui, sans-serif; line-height: 1.5; }
.course-demo figcaption, .course-demo p { margin: 0 0 0.5em; text-align: left; }
.course-demo label { display: inline-flex; gap: 0.6em; align-items: center; margin-right: 2em; }
.course-demo input { width: min(22em, 50vw); accent-color: #0072b2; }
.course-demo input, .course-demo select { min-height: 1.8em; font: inherit; }
.course-demo label span { min-width: 4em; font-variant-numeric: tabular-nums; }
.course-demo img { display: block; max-width: 100%; height: auto; background: white; }
.course-demo [role=status] { min-height: 3em; }
"""
# Keys that move the handle shall not turn a page of slides as well.
_SCRIPT = """
(root => {
  const { stops, pictures, words } = JSON.parse(root.querySelector("script[type]").textContent);
  const [handle, choice, image] = ["input", "select", "img"].map(tag => root.querySelector(tag));
  const show = () => {
    const shown = (choice ? choice.selectedIndex : 0) * stops.length + Number(handle.value);
    image.src = "data:image/webp;base64," + pictures[shown];
    image.alt = root.querySelector("[role=status]").textContent = words[shown];
    root.querySelector("label span").textContent = stops[handle.value];
    handle.setAttribute("aria-valuetext", stops[handle.value]);
  };
  root.addEventListener("input", show);
  root.addEventListener("keydown", event => event.stopPropagation());
  root.querySelector("[hidden]").hidden = false;
  show();
})(document.currentScript.parentElement);
"""
_FRAGMENT = """<figure class="course-demo" role="group" aria-label="{title}" data-prevent-swipe>
<style>{style}</style>
<figcaption><strong>{title}</strong><br>{hint}</figcaption>
<p hidden><label>{label} <input type="range" min="0" max="{last}" value="{start}" autocomplete="off">
<span aria-hidden="true"></span></label>{choice}</p>
<img src="data:image/webp;base64,{picture}" width="{width}" height="{height}" alt="{words}">
<p role="status" aria-live="polite">{words}</p>
<noscript><p>This is a still picture: its slider needs JavaScript.</p></noscript>
<script type="application/json">{data}</script>
<script>{script}</script>
</figure>"""
_CHOICE = '<label>{label} <select autocomplete="off">{options}</select></label>'
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>{title}</title>
<style>body {{ max-width: 64rem; margin: 2rem auto; padding: 0 1rem; font-size: 125%; }}
.course-demo img {{ width: 100%; }}</style></head>
<body><main>{fragment}</main></body></html>
"""
_STATIC = re.compile(r"(.+?) \(static picture of the slider\)")


def export(
    demo: Demo | str, path: str | Path, *, hint: str = "", positions: int = 21, examples: int = 5, **state: Any
) -> Path:
    """Write a demo as one HTML file whose slider needs neither kernel nor network, and return its path.

    Args:
        demo: a demo, or the name of one in the catalogue. path: the file.
        hint: what to try; by default the catalogue's.
        positions, examples: about so many of the handle and of the examples are drawn, fewer if 3 MB are full.
        **state: what the other controls hold; by default as in the static picture.

    Raises:
        ValueError: as `fragment`, or an address. OSError: the file cannot be written.

    >>> export("fgsm_slider", "fgsm.html", model="cnn")  # doctest: +SKIP
    PosixPath('fgsm.html')
    """
    path = local_path(path)
    html = fragment(demo, hint=hint, positions=positions, examples=examples, **state)
    title = re.search('aria-label="(.*?)"', html)[1]
    write_text(path, _PAGE.format(title=title, fragment=html))
    return path


def fragment(demo: Demo | str, *, hint: str = "", positions: int = 21, examples: int = 5, **state: Any) -> str:
    """Return what `export` writes as a piece of HTML, for a page that may hold several; arguments as there.

    Raises:
        ValueError: no such demo or control (says which there are), or the pictures of one example take more than 3 MB.
    """
    if positions < 2 or examples < 1:
        raise ValueError(f"expected positions >= 2 and examples >= 1, got {positions} and {examples}.")
    if isinstance(demo, str):
        entry = _find(demo)
        demo, hint = entry.build(), hint or entry.hint
    if unknown := sorted(set(state) - set(demo.controls)):
        raise ValueError(f"{demo.title} has no control {unknown[0]!r}. Known: {', '.join(demo.controls)}.")
    demo.describe(**state)  # refuses what a control cannot hold
    state = demo.state | dict(demo.static) | state
    handle = _axis(demo, demo.handle, positions, state)
    choice = _axis(demo, demo.example, examples, state) if demo.example else None
    pictures: list[str] = []
    words: list[str] = []
    for example in choice.values if choice else [None]:
        chosen = state | ({choice.name: example} if choice else {})
        states = [chosen | {handle.name: value} for value in handle.values]
        drawn = [_webp(demo.render(**one)) for one in states]
        if sum(map(len, pictures + drawn)) > MAX_BYTES:
            break
        pictures += drawn
        words += [demo.describe(**one) for one in states]
    if not pictures:
        raise ValueError(f"the pictures take more than {MAX_BYTES / 1e6:g} MB: ask for fewer positions.")
    return _html(demo.title, f"{hint} {_held(demo, state)}".strip(), handle, choice, pictures, words)


def in_place_of(alt: str) -> str:
    """Return the fragment for the static picture of a demo, known by its alt text, or "" for any other picture.

    It is drawn once and kept in the cache until the course's code changes.
    """
    found = _STATIC.match(alt)
    entry = next((e for e in catalogue().values() if found and e.title == found[1]), None)
    if entry is None:
        return ""
    file, mark = cache_dir() / "sliders" / f"{entry.name}.html", f"<!-- {_digest()} -->"
    if file.exists() and (kept := file.read_text(encoding="utf-8")).startswith(mark):
        return kept.removeprefix(mark)
    html = fragment(entry.name)
    write_text(file, mark + html)
    return html


@dataclass(frozen=True)
class _Axis:
    """What of a control is drawn: its values, how they are read, and the place of the one that is shown first."""

    name: str
    label: str
    values: list[Any]
    readings: list[str]
    start: int


def _axis(demo: Demo, name: str, most: int, state: Mapping[str, Any]) -> _Axis:
    """Spread about `most` values over a control, from its first to its last; the one that it holds is among them."""
    control, now = demo.controls[name], state[name]
    if isinstance(control, widgets.FloatSlider):
        count = round((control.max - control.min) / control.step)
        values = [min(control.min + i * control.step, control.max) for i in range(count + 1)]
    elif isinstance(control, widgets.IntSlider):
        values = list(range(control.min, control.max + 1, control.step))
    else:
        values = [option for option in control.options if option != UPLOADED]
    start = values.index(now) if now in values else min(range(len(values)), key=lambda i: abs(values[i] - now))
    gaps = max(1, most - 1)
    places = sorted({start} | {round(i * (len(values) - 1) / gaps) for i in range(most)})
    layout = getattr(control, "readout_format", "")
    chosen = [values[place] for place in places]
    return _Axis(name, control.description, chosen, [format(value, layout) for value in chosen], places.index(start))


def _html(
    title: str, hint: str, handle: _Axis, choice: _Axis | None, pictures: Sequence[str], words: Sequence[str]
) -> str:
    first, options = handle.start, ""
    if choice:
        drawn = choice.readings[: len(pictures) // len(handle.values)]  # fewer than asked for if the file was full
        start = min(choice.start, len(drawn) - 1)
        first += start * len(handle.values)
        rows = (f"<option{' selected' * (i == start)}>{escape(text)}</option>" for i, text in enumerate(drawn))
        options = _CHOICE.format(label=escape(choice.label), options="".join(rows))
    data = json.dumps({"stops": handle.readings, "pictures": pictures, "words": words}, ensure_ascii=False)
    width, height = Image.open(io.BytesIO(base64.b64decode(pictures[0]))).size
    return _FRAGMENT.format(
        title=escape(title),
        hint=escape(hint),
        style=_STYLE,
        script=_SCRIPT,
        label=escape(handle.label),
        last=len(handle.values) - 1,
        start=handle.start,
        choice=options,
        picture=pictures[first],
        width=width,
        height=height,
        words=escape(words[first]),
        data=data.replace("<", "\\u003c"),
    )


def _held(demo: Demo, state: Mapping[str, Any]) -> str:
    """Say what the controls hold that cannot be moved without a kernel."""
    others = {name: state[name] for name in demo.controls if name not in (demo.handle, demo.example)}
    texts = [
        f"{demo.controls[name].description}: {value if isinstance(value, str) else f'{value:g}'}"
        for name, value in others.items()
        if isinstance(value, str | int | float) and not isinstance(value, bool)
    ]
    return f"({', '.join(texts)})" if texts else ""


def _webp(png: bytes) -> str:
    """Pack a picture again without loss, in about two thirds of the bytes, as base64."""
    packed = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(packed, format="webp", lossless=True, method=2)
    return base64.b64encode(packed.getvalue()).decode()


def _find(name: str) -> Entry:
    if name not in catalogue():
        raise ValueError(f"no demo {name!r}. {did_you_mean(name, catalogue())}")
    return catalogue()[name]


def _digest() -> str:
    """Return what changes with the code that demos are made of."""
    sources = sorted(Path(__file__).parents[1].rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
