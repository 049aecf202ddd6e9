"""Web pages: formulas, pictures, links, and that nothing is loaded from elsewhere."""

import os
import re

import pytest
from bs4 import BeautifulSoup
from conftest import external_resources
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course_utils.runner import chapters, html_export, paper_claims

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def notebook(*cells):
    nb = new_notebook(cells=[new_markdown_cell("# 01 Small & large"), *cells])
    return chapters.tidy(nb)


def shown(*outputs):
    return new_code_cell(
        "1", execution_count=1, outputs=[new_output("display_data", data=d, metadata=m) for d, m in outputs]
    )


def page(*cells, **options):
    return html_export.page(notebook(*cells), "01_a", **options)


@pytest.fixture(scope="module")
def full_page():
    text = (
        "Inline $x^2$ and\n\n$$\\tilde x = \\frac{a}{b} < 1$$\n\n\\begin{align} a &= b \\\\ c &= d \\end{align}\n\n"
        "<details><summary>Hint with $w$</summary>\n\nUse $\\lVert w\\rVert_1$.\n\n</details>\n\n"
        "[next](02_b.ipynb#top) [web](https://example.org/a.ipynb) `code $a$`"
    )
    claims = {
        paper_claims.CLAIMS_MIME: {"claims": []},
        "text/html": "<table><tr><td>claims</td></tr></table>",
        "text/plain": "c",
    }
    return page(
        new_markdown_cell(text),
        shown(
            ({"image/png": PIXEL}, {"image/png": {"alt": 'a "digit"'}}),
            ({"text/markdown": "At $\\varepsilon$ the **shift**"}, {}),
            ({"text/latex": "$\\displaystyle y^3$"}, {}),
            (claims, {}),
            ({paper_claims.RESULTS_MIME: {"results": {}}, "text/plain": "acc = 0.5"}, {}),
            ({"application/javascript": "alert(1)", "text/plain": "a script"}, {}),
        ),
    )


def test_all_formulas_are_mathml(full_page):
    assert full_page.count("<math") == 7
    body = full_page.partition("<main>")[2]
    assert re.findall(r"\$[^$<]*\$", body) == ["$a$"], "only the one in code stays"


def test_nothing_is_loaded_from_elsewhere(full_page):
    assert external_resources(full_page) == []
    assert "<script" not in full_page


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://cdn.example/x.js"></script>',
        "<img alt='' src=//example.org/a.png>",
        '<link rel="stylesheet" href="http://a/b.css">',
        "<style>@import 'https://a/b.css'</style>",
        "<style>a { background: url(https://a/b.png) }</style>",
    ],
)
def test_external_resources_are_found(html):
    assert external_resources(html)


def test_a_link_is_no_load():
    assert external_resources('<a href="https://arxiv.org/abs/1412.6572">paper</a>') == []


def test_language_title_and_alt_text(full_page):
    assert '<html lang="en">' in full_page
    assert "<title>01 Small &amp; large</title>" in full_page
    assert [image["alt"] for image in BeautifulSoup(full_page, "html.parser").find_all("img")] == ['a "digit"']


def test_a_slider_stands_in_for_its_picture_only():
    outputs = [({"image/png": PIXEL}, {"image/png": {"alt": alt}}) for alt in ("a <b>", "c")]
    html = page(shown(*outputs), slider={"a <b>": "<figure>live</figure>", "c": ""}.get)
    body = BeautifulSoup(html, "html.parser")
    assert [image["alt"] for image in body.find_all("img")] == ["c"]
    assert body.figure.text == "live"


def test_tables_and_texts_stand_in_for_the_course_s_own_types(full_page):
    assert "<td>claims</td>" in full_page
    assert "acc = 0.5" in full_page
    assert "a script" in full_page
    assert "alert(1)" not in full_page


def test_links_between_chapters_lead_to_pages(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "README.md").touch()
    path = tmp_path / "notebooks" / "01_a.ipynb"
    links = (
        "[n](02_b.ipynb#top) [d](../data/README.md) [w](https://a.org/b.ipynb) [h](#here) <a href='02_b.ipynb'>b</a>"
    )
    chapters.write_notebook(notebook(new_markdown_cell(links)), path)
    html = html_export.export(path, tmp_path / "build" / "course").read_text(encoding="utf-8")
    found = re.findall(r'href="([^"]*)"', html.partition("</h1>")[2])
    assert found == ["02_b.html#top", "../../data/README.md", "https://a.org/b.ipynb", "#here", "02_b.html"]


def test_links_lead_to_another_drive(tmp_path, monkeypatch):
    """There is no relative path from drive to drive under Windows: the page is written none the less."""

    def relpath(path, start):
        raise ValueError("path is on mount 'C:', start on mount 'D:'")

    monkeypatch.setattr(os.path, "relpath", relpath)
    (tmp_path / "file.md").touch()
    path = tmp_path / "01_a.ipynb"
    chapters.write_notebook(notebook(new_markdown_cell("[d](file.md#top) [n](02_b.ipynb)")), path)
    html = html_export.export(path, tmp_path / "out").read_text(encoding="utf-8")
    assert f'href="{(tmp_path / "file.md").as_uri()}#top"' in html
    assert 'href="02_b.html"' in html


@pytest.mark.parametrize(
    "tex",
    [
        r"\arg\max_{\|\eta\|_\infty \le \epsilon} w^\top \eta",
        r"\operatorname{sign}(\nabla_x J(\theta, x, y))",
        r"\lVert w \rVert_1, \quad \mathbb{E}_{x \sim \mathcal{D}}",
        r"\begin{cases} 1 & x > 0 \\ -1 & \text{otherwise} \end{cases}",
        r"\boldsymbol{w}^{\mathsf T} x \approx \mathbf{0} \not= \hat{y}",
        r"\underbrace{a + b}_{c}, \overline{x}, \min_{\theta} \sum_{i=1}^n \left( \frac{1}{2} \right)",
    ],
)
def test_formulas_of_the_field_can_be_read(tex):
    markup = html_export.mathml(tex)
    assert markup.startswith("<math"), markup
    assert "\\" not in markup


@pytest.mark.parametrize(
    ("tex", "is_unary"),
    [("y = -1", True), ("(-x)", True), (r"a \le +b", True), ("a - b", False), ("(a) - b", False), (r"|a| + b", False)],
)
def test_signs_are_set_as_signs(tex, is_unary):
    assert ('form="prefix"' in html_export.mathml(tex)) == is_unary


@pytest.mark.parametrize("tex", [r"\unknowncommand x", "{", r"a \label{x}"])
def test_a_formula_that_cannot_be_read_stays_visible(tex):
    assert html_export.mathml(tex).startswith('<code class="unreadable-formula">')


def test_folded_code_can_be_unfolded_and_its_output_is_shown():
    folded = shown(({"image/png": PIXEL}, {"image/png": {"alt": "one black pixel"}}))
    folded.source, folded.metadata = "paint()", {"jupyter": {"source_hidden": True}}
    html = BeautifulSoup(page(folded, new_code_cell("seen = 1")), "html.parser")
    (details,) = html.find_all("details")
    assert details.summary.get_text() == "Show the code"
    assert "paint" in details.get_text()
    assert "seen" not in details.get_text()
    assert details.find("img") is None
    assert html.find("img", alt="one black pixel") is not None
