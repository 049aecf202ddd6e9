"""What every chapter must have. Each rule returns complaints; each is itself tested on a notebook that breaks it."""

import ast
import itertools
import re
import statistics

import pytest
from conftest import external_resources
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course_utils.core import settings
from course_utils.runner import chapters, html_export, parameters, student_version

TAGS = {
    "parameters",
    "results",
    "exercise",
    "nbval-check-output",
    "nbval-ignore-output",
    "nbval-skip",
    "raises-exception",
}
SOLUTIONS = sorted((chapters.NOTEBOOKS / "solutions").glob("*.ipynb"))
EXAMPLES = sorted((chapters.NOTEBOOKS / "examples").glob("*.ipynb"))
MAX_BYTES = 400_000
MAX_CODE_LINES = 300
MAX_CELL_LINES = 25
MAX_MEDIAN_LINES = 10
MIN_WORDS_PER_CODE_LINE = 8
MIN_CHECKED_CELLS = 1
CELLS = (25, 60)
REBUILT = ("00", "01", "02", "03", "04", "05")  # the chapters to which STRICT_RULES apply, by number
MAX_WORDS = {"chapter": 2800, "core": 2000}
MAX_LINES = {"chapter": 220, "core": 150}
MAX_MEDIAN_OF_REBUILT = 9
MAX_FOLDED_CELLS, MAX_FOLDED_LINES = 3, 25
MAX_SIDE_TRIPS = 3
WORDS_A_MINUTE, LINES_A_MINUTE, SESSION = 200, 12, 60
QUESTIONS = 5
GOING_FURTHER = "## Going further"
TIMES = re.compile(
    r"^\*Reading: (?P<reading>\d+) minutes?\. Running: (?P<running>\d+) (?P<unit>second|minute)s?\. "
    r"Exercises: (?:none|(?P<exercises>\d+) minutes?)\. You need: ",
    re.MULTILINE,
)
SENTENCE = re.compile(r'\s*(?:\+ )?f?"[^"]*"\s*[,)]?')
HOME_FOLDERS = r"(?:home|root|Users|tmp|usr|opt|var|mnt|srv|private)"
NETWORK = r"\b(?:requests|urllib|httpx|wget|curl|urlopen|urlretrieve|socket)\b|download\s*=\s*True|https?://"


# What a notebook consists of


def code_cells(nb):
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def prose(nb):
    return [cell.source for cell in nb.cells if cell.cell_type == "markdown"]


def tags(cell):
    return cell.metadata.get("tags", [])


def tagged(nb, tag):
    return [cell for cell in code_cells(nb) if tag in tags(cell)]


def outputs(nb):
    return [(number, output) for number, cell in enumerate(nb.cells, 1) for output in cell.get("outputs", [])]


def code_lines(cell):
    """Lines that are nothing but a piece of a sentence, as in Markdown(f"…"), are prose."""
    return [line for line in cell["source"].splitlines() if line.strip() and not SENTENCE.fullmatch(line)]


def visible_code(nb):
    """The code that a student sees: stubs instead of solutions."""
    shown = [cell for cell in code_cells(nb) if not is_folded(cell)]
    return [{"source": student_version.hide_solutions(cell.source)} for cell in shown]


def is_folded(cell):
    return bool(cell.metadata.get("jupyter", {}).get("source_hidden"))


def words(nb):
    """Words that a reader meets: of the text, its folds too, and of the sentences that code puts out."""
    shown = re.sub(r"<[^>]*>|(?<=\])\([^)\s]*\)", " ", "\n".join(prose(nb)))  # without tags and the targets of links
    sentences = [line for c in code_cells(nb) for line in c.source.splitlines() if SENTENCE.fullmatch(line)]
    return sum(bool(re.search(r"\w", word)) for text in (shown, *sentences) for word in text.split())


def lines(nb):
    return sum(len(code_lines(cell)) for cell in visible_code(nb))


def part(nb, cells):
    return new_notebook(cells=cells)


def start_of_going_further(nb):
    return next((n for n, c in enumerate(nb.cells) if c.source.startswith(GOING_FURTHER)), len(nb.cells))


def core(nb):
    return part(nb, nb.cells[: start_of_going_further(nb)])


def side_trips(nb):
    """The sections of "Going further", each a notebook that begins with its heading; it keeps its exercises."""
    cells, found = nb.cells[start_of_going_further(nb) :], []
    for cell in cells:
        if re.search(r"^### (?!Exercise)", cell.source, re.MULTILINE) and cell.cell_type == "markdown":
            found.append([])
        if found and "results" not in tags(cell):
            found[-1].append(cell)
    return [part(nb, trip) for trip in found]


def exercise_minutes(nb):
    """Minutes that the box of each exercise states; None where it states none."""
    boxes = [text for text in prose(nb) if re.search(r"^### Exercise\b", text, re.MULTILINE)]
    found = [re.search(r"^> \*\*[^*]* · (\d+) minutes?\.\*\*", box, re.MULTILINE) for box in boxes]
    return [int(minutes[1]) if minutes else None for minutes in found]


def reading_minutes(nb):
    return words(nb) / WORDS_A_MINUTE + lines(nb) / LINES_A_MINUTE


def section(nb, heading):
    """The text under a heading of the second level, up to the next one."""
    text = "\n".join(map(without_fences, prose(nb)))
    found = re.search(rf"^## {heading}$(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return found[1] if found else ""


def without_fences(text):
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def is_first_steps(nb):
    return nb.cells[0].source.startswith("# 00")


# Rules


def has_one_parameters_cell(nb):
    cells = tagged(nb, "parameters")
    if len(cells) != 1:
        return [f"{len(cells)} cells are tagged parameters, expected one"]
    try:
        parameters.parse_parameters(cells[0].source)
    except ValueError as error:
        return [str(error)]
    return []


def ends_with_results(nb):
    last = code_cells(nb)[-1]
    is_tagged = [cell.id for cell in tagged(nb, "results")] == [last.id]
    return [] if is_tagged and re.search(r"\brecord\(", last.source) else ["the last code cell, and no other, records"]


def has_known_tags_only(nb):
    return [f"unknown tag {tag!r}" for cell in nb.cells for tag in tags(cell) if tag not in TAGS]


def stores_what_is_compared(nb):
    cells = tagged(nb, "nbval-check-output")
    enough = len(cells) >= MIN_CHECKED_CELLS
    found = [] if enough else [f"{len(cells)} cells are tagged nbval-check-output, expected {MIN_CHECKED_CELLS}"]
    found += [f"nothing stored to compare: {c.source[:40]!r}" for c in cells if not (c.outputs and c.execution_count)]
    return found + [f"cleared for students: {c.source[:40]!r}" for c in cells if student_version.BEGIN in c.source]


def was_run_top_to_bottom(nb):
    counts = [cell.execution_count for cell in code_cells(nb)]
    return [] if counts == list(range(1, len(counts) + 1)) else [f"execution counts are {counts}"]


def stores_no_error(nb):
    cells = [c for c in code_cells(nb) if "raises-exception" not in tags(c)]
    return [f"{o.ename}: {o.evalue}" for c in cells for o in c.outputs if o.output_type == "error"]


def stores_no_widget(nb):
    found = [
        f"cell {number} stores a live widget" for number, o in outputs(nb) if chapters.WIDGET_MIME in o.get("data", {})
    ]
    return found + (["widget state is stored"] if "widgets" in nb.metadata else [])


def is_small(nb):
    size = len(chapters.notebook_text(nb).encode())
    return [f"{size / 1000:.0f} kB, at most {MAX_BYTES / 1000:.0f}"] if size > MAX_BYTES else []


def describes_its_pictures(nb):
    found = []
    for number, output in outputs(nb):
        for kind in ("image/png", "image/jpeg", "image/svg+xml"):
            if kind in output.get("data", {}) and len(output.metadata.get(kind, {}).get("alt", "").split()) < 3:
                found.append(f"cell {number} shows a picture without an alt text")
    text = "\n".join(map(without_fences, prose(nb)))
    found += [f"no alt text: {image}" for image in re.findall(r"!\[\s*\]\([^)]*\)", text)]
    return found + [i for i in re.findall(r"<img\b[^>]*>", text) if not re.search(r"""alt=["'][^"']""", i)]


def has_headings_in_order(nb):
    text = "\n".join(map(without_fences, prose(nb)))
    levels = [len(marks) for marks in re.findall(r"^(#{1,6})\s", text, re.MULTILINE)]
    found = [] if levels[:1] == [1] and levels.count(1) == 1 else ["one first heading, at the top, is expected"]
    jumps = [(a, b) for a, b in itertools.pairwise(levels) if b > a + 1]
    return found + [f"a heading of level {b} follows one of level {a}" for a, b in jumps]


def has_no_absolute_path(nb):
    pattern = rf"(?<![\w.~:/<])/{HOME_FOLDERS}/|\b[A-Z]:\\|{re.escape(str(settings.PROJECT))}"
    shown = [(n, str(o.get("text", "")) + str(without_pictures(o.get("data", {})))) for n, o in outputs(nb)]
    sources = [(n, cell.source) for n, cell in enumerate(nb.cells, 1)]
    found = [n for n, text in sources + shown if re.search(pattern, text)]
    # What is printed shows any folder of the machine that ran it; HTML and prose have other uses for slashes
    printed = [(n, str(o.get("text", "")) + str(o.get("data", {}).get("text/plain", ""))) for n, o in outputs(nb)]
    found += [n for n, text in printed if re.search(r"(?<![\w.~:/<])/\w[\w.-]*/\w", text)]
    return [f"cell {n} holds an absolute path" for n in dict.fromkeys(found)]


def without_pictures(data):
    return {kind: value for kind, value in data.items() if not kind.startswith("image/")}


def needs_no_network(nb):
    return [f"{found[0]!r} in code" for c in code_cells(nb) if (found := re.search(NETWORK, c.source))]


def installs_nothing(nb):
    pattern = r"^\s*[!%]|\bget_ipython\(|\bsubprocess\b|\bos\.system\b"
    return [f"{found[0]!r} in code" for c in code_cells(nb) if (found := re.search(pattern, c.source, re.MULTILINE))]


def leaves_processes_to_the_package(nb):
    pattern = r"^\s*(?:import|from)\b.*\b\w*parallel\w*|\b(?:multiprocessing|joblib|concurrent)\b"
    return [f"{found[0]!r} in code" for c in code_cells(nb) if (found := re.search(pattern, c.source, re.MULTILINE))]


def has_short_cells(nb):
    lengths = [len(code_lines(cell)) for cell in visible_code(nb)]
    found = [f"a code cell of {n} lines, at most {MAX_CELL_LINES}" for n in lengths if n > MAX_CELL_LINES]
    if statistics.median(lengths) > MAX_MEDIAN_LINES:
        found.append(f"the median code cell has {statistics.median(lengths)} lines, at most {MAX_MEDIAN_LINES}")
    if sum(lengths) > MAX_CODE_LINES:
        found.append(f"{sum(lengths)} lines of code, at most {MAX_CODE_LINES}")
    return found


def has_the_right_length(nb):
    low, high = (1, CELLS[1]) if is_first_steps(nb) else CELLS
    return [] if low <= len(nb.cells) <= high else [f"{len(nb.cells)} cells, expected {low} to {high}"]


def explains_its_code(nb):
    if words(nb) < MIN_WORDS_PER_CODE_LINE * lines(nb):
        return [f"{words(nb) / lines(nb):.1f} words for each line of code, at least {MIN_WORDS_PER_CODE_LINE}"]
    return []


def checks_its_exercises(nb):
    found = []
    for number, cell in enumerate(nb.cells):
        if cell.cell_type != "markdown" or not re.search(r"^### Exercise\b", cell.source, re.MULTILINE):
            continue
        following = next((c for c in nb.cells[number:] if c.cell_type == "code"), None)
        if following is None or not re.search(r"\bcheck\(", following.source):
            found.append(f"no check(...) after {cell.source.splitlines()[0]!r}")
        elif student_version.BEGIN not in following.source:
            found.append(f"nothing to solve after {cell.source.splitlines()[0]!r}")
    return found


def closes_its_folds(nb):
    texts = [without_fences(text) for text in prose(nb)]
    return [text[:40] for text in texts if len(re.findall(r"<details\b", text)) != text.count("</details>")]


def is_readable_python(nb):
    found = []
    for cell in code_cells(nb):
        try:
            ast.parse(cell.source)
        except SyntaxError as error:
            found.append(f"{error.msg}: {cell.source[:40]!r}")
    return found


def makes_an_offline_page(nb):
    html = html_export.page(nb, "page")
    unreadable = re.findall(r'<code class="unreadable-formula">(.*?)</code>', html, re.DOTALL)
    return [f"the page cannot show ${tex}$" for tex in unreadable] + external_resources(html)


RULES = [
    has_one_parameters_cell,
    ends_with_results,
    has_known_tags_only,
    stores_what_is_compared,
    was_run_top_to_bottom,
    stores_no_error,
    stores_no_widget,
    is_small,
    describes_its_pictures,
    has_headings_in_order,
    has_no_absolute_path,
    needs_no_network,
    installs_nothing,
    leaves_processes_to_the_package,
    has_short_cells,
    has_the_right_length,
    explains_its_code,
    checks_its_exercises,
    closes_its_folds,
    is_readable_python,
    makes_an_offline_page,
]


# Rules for the chapters that are one session of an hour


def has_few_words(nb):
    counts = {"chapter": words(nb), "core": words(core(nb))}
    return [f"{n} words in the {name}, at most {MAX_WORDS[name]}" for name, n in counts.items() if n > MAX_WORDS[name]]


def has_little_code(nb):
    counts = {"chapter": lines(nb), "core": lines(core(nb))}
    found = [f"{n} lines in the {name}, at most {MAX_LINES[name]}" for name, n in counts.items() if n > MAX_LINES[name]]
    median = statistics.median(len(code_lines(cell)) for cell in visible_code(nb))
    if median > MAX_MEDIAN_OF_REBUILT:
        found.append(f"the median code cell has {median} lines, at most {MAX_MEDIAN_OF_REBUILT}")
    return found


def folds_little_code(nb):
    lengths = [len(code_lines(cell)) for cell in code_cells(nb) if is_folded(cell)]
    found = [f"a folded cell of {n} lines, at most {MAX_FOLDED_LINES}" for n in lengths if n > MAX_FOLDED_LINES]
    many = [f"{len(lengths)} folded cells, at most {MAX_FOLDED_CELLS}"] if len(lengths) > MAX_FOLDED_CELLS else []
    return found + many


def leaves_bookkeeping_to_the_package(nb):
    nodes = [node for cell in code_cells(nb) for node in ast.walk(ast.parse(cell.source))]
    return [f"{ast.unparse(node)} in code" for node in nodes if is_bookkeeping(node)]


def is_bookkeeping(node):
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name) | ast.keyword(arg=str(name)):
            return "parallel" in name
        case ast.Call(func=ast.Name(id="zip"), args=arguments):
            return any(isinstance(argument, ast.Starred) for argument in arguments)
        case ast.Lambda(args=arguments):
            return any(argument.arg == "job" for argument in arguments.args)
        case ast.DictComp():
            inner = [n for n in ast.walk(node) if isinstance(n, ast.DictComp | ast.ListComp | ast.SetComp)]
            return len(inner) > 1 or len(node.generators) > 1
    return False


def tells_its_minutes(nb):
    times = TIMES.search(nb.cells[0].source)
    if not times:
        return ["the head has no line *Reading: 20 minutes. Running: 30 seconds. Exercises: 30 minutes. You need: …*"]
    exercises = exercise_minutes(core(nb))
    if None in exercises:
        return ["an exercise whose box does not begin with > **Easy · 8 minutes.**"]
    reading, stated = reading_minutes(core(nb)), int(times["reading"])
    found = [] if abs(reading - stated) <= 1 else [f"the head says {stated} minutes to read, it takes {reading:.1f}"]
    if int(times["exercises"] or 0) != sum(exercises):
        found.append(f"the head says {times['exercises']} minutes for exercises, the boxes {sum(exercises)}")
    running = int(times["running"]) / (60 if times["unit"] == "second" else 1)
    if stated + sum(exercises) + running > SESSION:
        found.append(f"{stated} + {sum(exercises)} + {running:.1f} minutes, at most {SESSION} together")
    return found


def ends_with_short_side_trips(nb):
    text = "\n".join(map(without_fences, prose(nb)))
    found = [] if text.count(f"\n{GOING_FURTHER}") <= 1 else ["more than one section goes further"]
    trips = side_trips(nb)
    if any(re.search(r"^## (?!Going further$)", t, re.MULTILINE) for t in prose(nb)[len(prose(core(nb))) :]):
        found.append("a section follows the side trips")
    if start_of_going_further(nb) == len(nb.cells) and f"\n{GOING_FURTHER}" in text:
        found.append(f"{GOING_FURTHER!r} does not begin its cell")
    if len(trips) > MAX_SIDE_TRIPS:
        found.append(f"{len(trips)} side trips, at most {MAX_SIDE_TRIPS}")
    for trip in trips:
        stated = re.search(r"(\d+) minutes?\b", trip.cells[0].source)
        needed = reading_minutes(trip) + sum(filter(None, exercise_minutes(trip)))
        if not stated or abs(int(stated[1]) - needed) > 1:
            title = trip.cells[0].source.splitlines()[0]
            found.append(f"{title!r} says {stated and stated[0]}, it takes {needed:.1f} minutes")
    return found


def asks_questions_with_folded_answers(nb):
    folds = len(re.findall(r"<details\b", section(nb, "Questions")))
    return [] if folds == QUESTIONS else [f"{folds} questions with folded answers, expected {QUESTIONS}"]


STRICT_RULES = [
    has_few_words,
    has_little_code,
    folds_little_code,
    leaves_bookkeeping_to_the_package,
    tells_its_minutes,
    ends_with_short_side_trips,
    asks_questions_with_folded_answers,
]


def rules_for(path):
    return RULES + (STRICT_RULES if path.name[:2] in REBUILT else [])


FOR_CHAPTERS_ONLY = {has_one_parameters_cell, stores_what_is_compared, has_the_right_length, explains_its_code}


@pytest.mark.parametrize(
    ("path", "rule"),
    [pytest.param(path, rule, id=f"{rule.__name__}-{path.stem}") for path in SOLUTIONS for rule in rules_for(path)],
)
def test_chapter(path, rule):
    complaints = rule(chapters.read_notebook(path))
    assert not complaints, "\n".join(complaints)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_example(path):
    nb = chapters.read_notebook(path)
    is_page = not tagged(nb, "parameters")  # of widgets, to look at: it is no run that has results
    left_out = FOR_CHAPTERS_ONLY | ({ends_with_results} if is_page else set())
    complaints = [text for rule in RULES if rule not in left_out for text in rule(nb)]
    assert not complaints, "\n".join(complaints)


@pytest.mark.parametrize("path", [*SOLUTIONS, *EXAMPLES], ids=lambda p: p.stem)
def test_links_lead_somewhere(path):
    text = "\n".join(map(without_fences, prose(chapters.read_notebook(path))))
    targets = re.findall(r"\]\(([^)#\s]+)", text) + re.findall(r"""href=["']([^"'#]+)""", text)
    local = [t for t in targets if not re.match(r"[a-z]+:", t)]
    chapters_to_come = [t for t in local if re.fullmatch(r"\d\d_\w+\.ipynb", t) and t[:2] > SOLUTIONS[-1].name[:2]]
    missing = [t for t in local if not (path.parent / t).exists() and t not in chapters_to_come]
    assert not missing


def headings(path):
    """What may stand after # in a link to a notebook: its headings, as Jupyter writes them."""
    text = "\n".join(map(without_fences, prose(chapters.read_notebook(path))))
    return {heading.strip().replace(" ", "-") for heading in re.findall(r"^#{1,6} (.+)$", text, re.MULTILINE)}


@pytest.mark.parametrize("path", [*SOLUTIONS, *EXAMPLES], ids=lambda p: p.stem)
def test_links_into_a_notebook_lead_to_a_heading(path):
    links = re.findall(
        r"\]\(([\w./]*\.ipynb|)#([^)\s]+)\)", "\n".join(map(without_fences, prose(chapters.read_notebook(path))))
    )
    targets = [(path.parent / file if file else path, anchor) for file, anchor in links]
    assert not [(t.name, anchor) for t, anchor in targets if t.exists() and anchor not in headings(t)]


def test_other_chapters_can_link_to_the_notation_and_the_glossary():
    assert {"Notation", "Glossary"} <= headings(SOLUTIONS[0])


def test_the_map_says_what_the_chapters_say():
    start = chapters.read_notebook(SOLUTIONS[0])
    shown = [o.data.get("text/markdown") for _, o in outputs(start) if "data" in o]
    assert chapters.course_map() in shown, "the map is of an earlier day: `course build 00`"


def test_students_have_what_the_solutions_give():
    if SOLUTIONS:
        assert student_version.differences() == []


def test_full_preset_fits_the_chapters():
    preset = parameters.load_preset("full")
    known = {path.stem[:2]: chapters.Chapter.at(path) for path in SOLUTIONS}
    assert set(preset) - {"all"} <= set(known)
    for chapter in known.values():
        own = parameters.read_parameters(chapter.path)
        parameters.check_parameters(chapter.name, own, parameters.preset_parameters(preset, chapter))


# The rules, tested


def good_notebook():
    """A notebook that no rule complains about; the bad ones are made from it."""
    printed = [new_output("stream", name="stdout", text="done")]
    picture = new_output(
        "display_data", data={"image/png": "AAAA"}, metadata={"image/png": {"alt": "three blurred digits"}}
    )
    words = "word " * 40
    times = "*Reading: 5 minutes. Running: 30 seconds. Exercises: 8 minutes. You need: 00.*"
    cells = [
        new_markdown_cell(f"# 01 Title\n\n{words}\n\n{times}\n\n```\n# no heading\n<details>\n```"),
        new_code_cell("eps = 0.1  # 0 to 1\nname = 'a'", metadata={"tags": ["parameters"]}),
        new_markdown_cell(f"## Section\n\n{words} $x^2$ [paper](https://arxiv.org/abs/1) ![a digit](a.png)"),
        new_code_cell("plot()", outputs=[picture]),
        new_markdown_cell(
            "### Exercise – one\n\n> **Easy · 8 minutes.** Why.\n\n"
            "<details><summary>Hint</summary>\n\nThink.\n\n</details>"
        ),
        new_code_cell("### BEGIN SOLUTION\na = 1\n### END SOLUTION\ncheck('a', a)", metadata={"tags": ["exercise"]}),
    ]
    for _ in range(12):
        cells += [new_markdown_cell(words), new_code_cell("print('done')", outputs=list(printed))]
    cells[-1].metadata["tags"] = ["nbval-check-output"]
    cells += [
        new_markdown_cell("## Questions\n" + "<details><summary>Why?</summary>So.</details>\n" * QUESTIONS),
        new_markdown_cell(f"{GOING_FURTHER}\n\n### A side trip\n\n*1 minute.* {words}"),
        new_code_cell("record(a=a)", metadata={"tags": ["results"]}),
    ]
    nb = chapters.tidy(new_notebook(cells=cells))
    for count, cell in enumerate(code_cells(nb), 1):
        cell.execution_count = count
    return nb


def code(number, source):
    def change(nb):
        code_cells(nb)[number].source = source

    return change


def markdown(number, text):
    def change(nb):
        [cell for cell in nb.cells if cell.cell_type == "markdown"][number].source += text

    return change


def tag(number, *names):
    def change(nb):
        code_cells(nb)[number].metadata["tags"] = list(names)

    return change


def output(number, kind="display_data", **content):
    def change(nb):
        code_cells(nb)[number].outputs = [new_output(kind, **content)]

    return change


def fold(*numbers):
    def change(nb):
        for number in numbers:
            code_cells(nb)[number].metadata["jupyter"] = {"source_hidden": True}

    return change


def replace(old, new):
    def change(nb):
        for cell in nb.cells:
            cell.source = cell.source.replace(old, new)

    return change


def without(text):
    return replace(text, "")


def cells(change):
    return lambda nb: setattr(nb, "cells", change(nb.cells))


BAD = [
    (has_one_parameters_cell, tag(0)),
    (has_one_parameters_cell, tag(1, "parameters")),
    (has_one_parameters_cell, code(0, "eps = 1 / 10")),
    (ends_with_results, tag(-1)),
    (ends_with_results, tag(3, "results")),
    (ends_with_results, code(-1, "print(a)")),
    (has_known_tags_only, tag(1, "nbval-check-outputs")),
    (stores_what_is_compared, tag(-2)),
    (stores_what_is_compared, lambda nb: code_cells(nb)[-2].update(outputs=[])),
    (stores_what_is_compared, lambda nb: code_cells(nb)[-2].update(execution_count=None)),
    (stores_what_is_compared, tag(2, "nbval-check-output")),
    (was_run_top_to_bottom, lambda nb: code_cells(nb)[4].update(execution_count=9)),
    (was_run_top_to_bottom, lambda nb: code_cells(nb)[4].update(execution_count=None)),
    (stores_no_error, output(4, "error", ename="E", evalue="", traceback=[])),
    (stores_no_widget, output(4, data={chapters.WIDGET_MIME: {}})),
    (stores_no_widget, lambda nb: nb.metadata.update(widgets={})),
    (is_small, output(4, data={"image/png": "A" * MAX_BYTES})),
    (describes_its_pictures, output(4, data={"image/png": "AAAA"})),
    (describes_its_pictures, output(4, data={"image/png": "AAAA"}, metadata={"image/png": {"alt": ""}})),
    (describes_its_pictures, markdown(0, "\n![](a.png)")),
    (describes_its_pictures, markdown(0, "\n<img src='a.png'>")),
    (has_headings_in_order, markdown(1, "\n# Second")),
    (has_headings_in_order, markdown(1, "\n#### Too deep")),
    (has_headings_in_order, cells(lambda cells: cells[1:])),
    (has_no_absolute_path, code(4, "open('/home/me/data')")),
    (has_no_absolute_path, code(4, "open('C:\\\\data')")),
    (has_no_absolute_path, output(4, "stream", name="stderr", text="/tmp/ipykernel_1/1.py:3: UserWarning")),
    (has_no_absolute_path, output(4, "stream", name="stdout", text="data mirror /lab/data")),
    (has_no_absolute_path, output(4, data={"text/html": "<pre>/usr/lib/python3</pre>"})),
    (needs_no_network, code(4, "from urllib.request import urlopen")),
    (needs_no_network, code(4, "requests.get(url)")),
    (needs_no_network, code(4, "MNIST('data', download=True)")),
    (needs_no_network, code(4, "load('https://example.org/a')")),
    (installs_nothing, code(4, "a = 1\n!pip install torchattacks")),
    (installs_nothing, code(4, "%pip install torchattacks")),
    (installs_nothing, code(4, "get_ipython().system('ls')")),
    (leaves_processes_to_the_package, code(4, "from course_utils.core.parallel import parallel_map")),
    (leaves_processes_to_the_package, code(4, "from course_utils.core import parallel")),
    (leaves_processes_to_the_package, code(4, "import joblib")),
    (has_short_cells, code(4, "a = 1\n" * (MAX_CELL_LINES + 1))),
    (has_short_cells, lambda nb: [c.update(source="a = 1\n" * 11) for c in code_cells(nb)]),
    (has_short_cells, cells(lambda cells: cells * 25)),
    (has_the_right_length, cells(lambda cells: cells[:10])),
    (has_the_right_length, cells(lambda cells: cells * 3)),
    (explains_its_code, code(4, "a = 1\n" * 90)),
    (checks_its_exercises, code(2, "### BEGIN SOLUTION\na = 1\n### END SOLUTION")),
    (checks_its_exercises, code(2, "check('a', 1)")),
    (closes_its_folds, markdown(2, "\n<details>")),
    (is_readable_python, code(4, "def f(:")),
    (makes_an_offline_page, markdown(1, " $\\unknowncommand$")),
    (makes_an_offline_page, markdown(1, "\n\n<img alt='a' src='https://example.org/a.png'>")),
    (has_few_words, markdown(1, "word " * MAX_WORDS["core"])),
    (has_few_words, markdown(-1, "word " * MAX_WORDS["chapter"])),
    (has_few_words, code(4, 'Markdown(\n    "' + "word " * MAX_WORDS["core"] + '"\n)')),
    (has_little_code, code(4, "a = 1\n" * MAX_LINES["core"])),
    (has_little_code, code(-1, "a = 1\n" * MAX_LINES["chapter"])),
    (has_little_code, lambda nb: [c.update(source="a = 1\n" * 10) for c in code_cells(nb)]),
    (folds_little_code, fold(1, 2, 3, 4)),
    (folds_little_code, lambda nb: (fold(4)(nb), code(4, "a = 1\n" * (MAX_FOLDED_LINES + 1))(nb))),
    (leaves_bookkeeping_to_the_package, code(4, "rows = parallel_map(f, jobs)")),
    (leaves_bookkeeping_to_the_package, code(4, "rows = parallel.map(f, jobs)")),
    (leaves_bookkeeping_to_the_package, code(4, "rows = zip(*jobs, strict=True)")),
    (leaves_bookkeeping_to_the_package, code(4, "rows = map(lambda job: job(), jobs)")),
    (leaves_bookkeeping_to_the_package, code(4, "rows = {a: {b: f(a, b) for b in y} for a in x}")),
    (leaves_bookkeeping_to_the_package, code(4, "rows = {(a, b): f(a, b) for a in x for b in y}")),
    (tells_its_minutes, without("*Reading:")),
    (tells_its_minutes, markdown(1, "word " * 500)),
    (tells_its_minutes, code(4, "a = 1\n" * 25)),
    (tells_its_minutes, replace("Exercises: 8 minutes", "Exercises: none")),
    (tells_its_minutes, replace("> **Easy · 8 minutes.**", "> **Easy.**")),
    (tells_its_minutes, replace("8 minutes", "60 minutes")),
    (tells_its_minutes, replace("30 seconds", "50 minutes")),
    (ends_with_short_side_trips, markdown(-1, "\n\n## Summary")),
    (ends_with_short_side_trips, replace(GOING_FURTHER, f"Words.\n\n{GOING_FURTHER}")),
    (ends_with_short_side_trips, replace("*1 minute.* ", "")),
    (ends_with_short_side_trips, replace("*1 minute.*", "*9 minutes.*")),
    (ends_with_short_side_trips, cells(lambda cells: [*cells, *[new_markdown_cell("### More\n\n*1 minute.*")] * 3])),
    (asks_questions_with_folded_answers, markdown(-2, "<details><summary>One more?</summary>Yes.</details>")),
    (asks_questions_with_folded_answers, replace("## Questions", "## Answers")),
]


@pytest.mark.parametrize("rule", RULES + STRICT_RULES, ids=lambda r: r.__name__)
def test_rule_accepts_a_good_notebook(rule):
    assert rule(good_notebook()) == []


@pytest.mark.parametrize(("rule", "spoil"), BAD, ids=[f"{i}-{rule.__name__}" for i, (rule, _) in enumerate(BAD)])
def test_rule_refuses_a_bad_notebook(rule, spoil):
    nb = good_notebook()
    spoil(nb)
    assert rule(nb)


def test_every_rule_is_tested():
    assert {rule for rule, _ in BAD} == {*RULES, *STRICT_RULES}


def test_rebuilt_chapters_exist():
    assert set(REBUILT) <= {path.name[:2] for path in SOLUTIONS}


def test_the_words_that_count():
    nb = new_notebook(cells=[new_markdown_cell("| a | b |\n|---|---|\n<details>c</details> [d e](f.ipynb) $x$ – g")])
    nb.cells.append(new_code_cell('Markdown(\n    f"h i {j}."\n)'))
    assert words(nb) == 10  # a b c d e x g h i {j}


def test_minutes_count_text_code_and_exercises():
    nb = new_notebook(cells=[new_markdown_cell("word " * 400), new_code_cell("a = 1\n" * 24)])
    assert reading_minutes(nb) == 4


def test_paths_and_addresses_that_are_fine():
    nb = good_notebook()
    code_cells(nb)[4].source = "path = '../data/claims.yaml'"
    output(5, data={"text/html": "<a href='https://example.org/home/a'>a</a> ~/tmp/x"})(nb)
    assert has_no_absolute_path(nb) == []
