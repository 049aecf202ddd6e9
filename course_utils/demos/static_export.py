"""Static export of demos: the pictures are rendered beforehand, and a script shows the one that the slider asks for."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from ..core.files import write_text
from ..core.settings import cache_dir, local_path
from ..core.suggestions import did_you_mean
from ..core.templates import render
from .photographs import UPLOADED
from .registry import catalogue
from .widget import STATIC_PICTURE, Demo, values_of

MAX_BYTES = 2_900_000  # of the pictures; with words and script a file stays below 3 MB
_SOURCES = (".css", ".j2", ".js", ".py")


def export(
    demo: Demo | str, path: str | Path, *, hint: str = "", positions: int = 21, examples: int = 5, **state: Any
) -> Path:
    """Write a demo as one HTML file whose slider needs neither kernel nor network, and return its path.

    Args:
        demo: a demo, or the name of one in the catalogue. path: the file.
        hint: what to try; by default the catalogue's.
        positions, examples: about so many of the slider and of the examples are rendered, fewer if 3 MB are full.
        **state: what the other controls hold; by default as in the static picture.

    Raises:
        ValueError: as `fragment`, or an address. OSError: the file cannot be written.

    >>> export("fgsm_slider", "fgsm.html", model="cnn")  # doctest: +SKIP
    PosixPath('fgsm.html')
    """
    path = local_path(path)
    exported = _exported(demo, hint, positions, examples, state)
    write_text(path, render("demo_page.html.j2", **exported))
    return path


def fragment(demo: Demo | str, *, hint: str = "", positions: int = 21, examples: int = 5, **state: Any) -> str:
    """Return what `export` writes as a piece of HTML, for a page that may hold several; arguments as there.

    Raises:
        ValueError: no such demo or control (says which there are), or the pictures of one example take more than 3 MB.
    """
    return render("demo.html.j2", **_exported(demo, hint, positions, examples, state))


def fragment_for(alt: str) -> str:
    """Return the fragment that replaces the static picture with this alt text, "" where it is not a demo's.

    It is rendered once and kept in the cache until the course's code changes.
    """
    title, mark, _ = alt.partition(STATIC_PICTURE)
    entry = next((e for e in catalogue().values() if mark and e.title == title), None)
    if entry is None:
        return ""
    file, mark = cache_dir() / "sliders" / f"{entry.name}.html", f"<!-- {_digest()} -->"
    if file.exists() and (kept := file.read_text(encoding="utf-8")).startswith(mark):
        return kept.removeprefix(mark)
    html = fragment(entry.name)
    write_text(file, mark + html)
    return html


def _exported(demo: Demo | str, hint: str, positions: int, examples: int, state: Mapping[str, Any]) -> dict[str, Any]:
    """Render the pictures of a demo, and return what the templates show of it."""
    if positions < 2 or examples < 1:
        raise ValueError(f"expected positions >= 2 and examples >= 1, got {positions} and {examples}.")
    if isinstance(demo, str):
        if demo not in catalogue():
            raise ValueError(f"no demo {demo!r}. {did_you_mean(demo, catalogue())}")
        entry = catalogue()[demo]
        demo, hint = entry.build(), hint or entry.hint
    if unknown := sorted(set(state) - set(demo.controls)):
        raise ValueError(f"{demo.title} has no control {unknown[0]!r}. Known: {', '.join(demo.controls)}.")
    demo.describe(**state)  # refuses what a control cannot hold
    state = demo.state | dict(demo.static_state) | state
    slider = _sample(demo, demo.slider, positions, state)
    choice = _sample(demo, demo.example, examples, state) if demo.example else None
    pictures: list[str] = []
    words: list[str] = []
    for example in [{demo.example: value} for value in choice.values] if choice else [{}]:
        states = [state | example | {demo.slider: value} for value in slider.values]
        rendered = [_webp(demo.render(**one)) for one in states]
        if sum(map(len, pictures + rendered)) > MAX_BYTES:
            break
        pictures += rendered
        words += [demo.describe(**one) for one in states]
    if not pictures:
        raise ValueError(f"the pictures take more than {MAX_BYTES / 1e6:g} MB: ask for fewer positions.")
    if choice:
        kept = len(pictures) // len(slider.values)
        choice = replace(choice, texts=choice.texts[:kept], start=min(choice.start, kept - 1))
    width, height = Image.open(io.BytesIO(base64.b64decode(pictures[0]))).size
    return {
        "title": demo.title,
        "hint": f"{hint} {_fixed_values(demo, state)}".strip(),
        "slider": slider,
        "choice": choice,
        "pictures": pictures,
        "words": words,
        "shown": slider.start + (choice.start * len(slider.values) if choice else 0),
        "width": width,
        "height": height,
    }


@dataclass(frozen=True)
class _Sample:
    """Some values of a control, as texts as well, and the index of the one that is shown first."""

    label: str
    values: list[Any]
    texts: list[str]
    start: int


def _sample(demo: Demo, name: str, most: int, state: Mapping[str, Any]) -> _Sample:
    """Spread about `most` values over a control, from its first to its last; the one that it holds is among them."""
    control, now = demo.controls[name], state[name]
    values = [value for value in values_of(control) if value != UPLOADED]
    start = values.index(now) if now in values else min(range(len(values)), key=lambda i: abs(values[i] - now))
    gaps = max(1, most - 1)
    places = sorted({start} | {round(i * (len(values) - 1) / gaps) for i in range(most)})
    chosen = [values[place] for place in places]
    texts = [format(value, getattr(control, "readout_format", "")) for value in chosen]
    return _Sample(control.description, chosen, texts, places.index(start))


def _fixed_values(demo: Demo, state: Mapping[str, Any]) -> str:
    """Say what the controls hold that cannot be moved without a kernel."""
    texts = [
        f"{control.description}: {state[name]}"
        for name, control in demo.controls.items()
        if name not in (demo.slider, demo.example) and type(state[name]) in (str, int, float)
    ]
    return f"({', '.join(texts)})" if texts else ""


def _webp(png: bytes) -> str:
    """Pack a picture again without loss, in about two thirds of the bytes, as base64."""
    packed = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(packed, format="webp", lossless=True, method=2)
    return base64.b64encode(packed.getvalue()).decode()


def _digest() -> str:
    """Return what changes with the code and the templates that demos are made of."""
    sources = sorted(path for path in Path(__file__).parents[1].rglob("*.*") if path.suffix in _SOURCES)
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
