"""The `course` command: run chapters, make the students' versions, export pages, check the machine."""

from __future__ import annotations

import codecs
import io
import math
import sys
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import __version__
from ..core import settings
from .environment import doctor

if TYPE_CHECKING:
    import pandas as pd

    from ..runner.chapters import Chapter
    from ..runner.execution import RunResult

MAX_MEMORY_MB = 2048


def _seconds(context: click.Context, option: click.Parameter, value: float | None) -> int | None:
    from ..runner.execution import whole_seconds

    try:
        return whole_seconds(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


_timeout = click.option("--timeout", type=float, callback=_seconds, help="Seconds allowed to each cell.")


# For encodings that lack our signs, as cp1252 does, in which Python writes to a pipe under Windows
_PLAIN = str.maketrans({"✓": "ok", "✗": "x", "→": "->", "–": "-", "…": "...", "·": "-"})


def _in_plain_signs(error: UnicodeEncodeError) -> tuple[str, int]:
    """Replace what cannot be encoded, instead of ending the command (see `codecs.register_error`)."""
    plain = error.object[error.start : error.end].translate(_PLAIN)
    return plain.encode("ascii", "backslashreplace").decode(), error.end


codecs.register_error("course", _in_plain_signs)


class _Command(click.Group):
    """Prints to whatever encoding, also what click itself prints, such as help; says in one line what went wrong."""

    def main(self, *args: Any, **options: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # not so in a notebook, or without a console
                stream.reconfigure(errors="course")
        return super().main(*args, **options)

    def invoke(self, context: click.Context) -> Any:
        """Turn what is refused, or a folder that cannot be written, into exit code 2, what had to stop into 1."""
        try:
            return super().invoke(context)
        except (click.exceptions.Exit, click.Abort, BrokenPipeError):  # click knows what to do
            raise
        except (ValueError, OSError, RuntimeError) as error:
            click.echo(f"course: {error}", err=True)
            sys.exit(1 if isinstance(error, RuntimeError) else 2)


@click.group(cls=_Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="course")
def main() -> None:
    """A course on adversarial examples. Start with `course doctor`, then open notebooks/ in JupyterLab."""


# --- run, build, html -----------------------------------------------------------------------------


@main.command()
@click.argument("chapters", nargs=-1, metavar="[CHAPTER]...")
@click.option("--student", is_flag=True, help="Run the versions with exercises instead of the solutions.")
@click.option("--preset", default="quick", show_default=True, help="quick (minutes) or full (full-scale data).")
@click.option("-p", "assignments", multiple=True, metavar="NAME=VALUE", help="Set a parameter; may be repeated.")
@click.option("--out", default="build/course", show_default=True, help="Folder for what comes out.")
@_timeout
def run(
    chapters: tuple[str, ...], student: bool, preset: str, assignments: tuple[str, ...], out: str, timeout: int | None
) -> None:
    """Execute chapters (all, or those named: 01, linear_models, …) and write notebooks, pages and an index.

    \b
    course run                         every chapter
    course run 02 -p eps=8/255         one chapter, one parameter changed
    course run --preset full           full-scale data sets
    """
    from ..runner import execution, html_export, parameters, reports
    from ..runner.chapters import refuse_sources

    folder = settings.local_path(out)
    chosen = _choose(chapters, student)
    refuse_sources(folder, *(chapter.path for chapter in chosen))
    jobs = _plan(chosen, parameters.load_preset(preset), assignments)
    results = []
    for chapter, params in jobs:
        click.echo(f"running {chapter.name} …", err=True)
        result = execution.run_notebook(chapter.path, params, folder, timeout=timeout)
        html_export.export(result.notebook, folder, links_from=chapter.path.parent)
        results.append(result)
    reports.write_index(folder)
    click.echo(_table(results))
    click.echo(f"Open {folder / 'index.html'} in a browser.")
    _finish(results)


@main.command()
@click.argument("chapters", nargs=-1, metavar="[CHAPTER]...")
@_timeout
def build(chapters: tuple[str, ...], timeout: int | None) -> None:
    """Re-execute solutions in place, then write the students' versions (for those who edit the course).

    A chapter that fails is left as it was.
    """
    from ..runner import execution, student_version

    chosen = _choose(chapters, student=False)
    student_version.differences()  # refuses unbalanced markers before an hour is spent
    results = []
    for chapter in chosen:
        click.echo(f"building {chapter.name} …", err=True)
        results.append(execution.rebuild(chapter.path, timeout=timeout))
    click.echo(_table(results))
    _echo_written(student_version.write_students())
    _finish(results)


@main.command("student")
@click.option("--check", is_flag=True, help="Write nothing; fail if a student's version is not up to date.")
def student_command(check: bool) -> None:
    """Write notebooks/NN_….ipynb from notebooks/solutions/, with the solutions replaced by stubs."""
    from ..runner import student_version

    if not check:
        _echo_written(student_version.write_students())
        return
    lines = student_version.differences()
    for line in lines:
        click.echo(line)
    if lines:
        click.echo("Run `course student` (and delete what has no source).", err=True)
        sys.exit(1)


@main.command()
@click.option("--out", default="build/html", show_default=True, help="Folder for the pages.")
def html(out: str) -> None:
    """Export the stored chapters as web pages that need no network, with sliders that need no kernel.

    No chapter is executed. The sliders' pictures are drawn once and kept in the cache.
    """
    from ..runner import chapters, html_export, reports

    folder = settings.local_path(out)
    chapters.refuse_sources(folder)
    for chapter in chapters.chapters():
        chapters.write_notebook(chapters.read_notebook(chapter.path), folder / chapter.path.name)
        html_export.export(chapter.path, folder, slider=_slider)
    reports.write_index(folder)
    click.echo(f"Open {folder / 'index.html'} in a browser.")


@main.command()
@click.argument("chapters", nargs=-1, required=True, metavar="CHAPTER...")
@click.option("--out", default="build/html", show_default=True, help="Folder for the slides.")
def slides(chapters: tuple[str, ...], out: str) -> None:
    """Export stored chapters as slides (reveal.js), one file each, that need no network.

    \b
    course slides 02       build/html/02_fgsm.slides.html, beside the pages of `course html`
    """
    from ..runner import slides

    for chapter in _choose(chapters, student=False):
        click.echo(f"Open {slides.export(chapter.path, out, slider=_slider)} in a browser.")


def _slider(alt: str) -> str:
    """Return the slider that stands in for the static picture with this alt text, or say why the picture stays."""
    from .. import demos

    try:
        return demos.fragment_for(alt)
    except Exception as error:  # weights that are not there, a full disk: no reason to do without the page
        click.echo(f"The slider {alt.partition(' (')[0]!r} stays a static picture: {error}", err=True)
        return ""


@main.command()
@click.argument("chapters", nargs=-1, metavar="[CHAPTER]...")
@click.option("--workers", type=click.IntRange(min=1), help="Runs side by side. [default: one for each core]")
@click.option(
    "--resume/--fresh", default=True, show_default=True, help="Keep the runs that are finished, or repeat them."
)
@click.option("--out", default="build/margins", show_default=True, help="Folder for the runs.")
def margins(chapters: tuple[str, ...], workers: int | None, resume: bool, out: str) -> None:
    """Run chapters on simulated machines with several seeds; write how far their claims are from failing.

    The rows go to data/margins.csv. Without a name the chapters are measured whose code has changed since. About ten
    runs of each chapter: an hour and more for all of them. What is stopped goes on where it was.
    """
    from ..runner import margins

    chosen = _choose(chapters, student=False)
    chosen = chosen if chapters or not resume else margins.outdated(chosen)
    rows = margins.measure(chosen, out, workers=workers, resume=resume) if chosen else []
    unsafe = [row for row in rows if not row.is_safe]
    for row in sorted(unsafe, key=lambda row: row.margin):
        click.echo(f"✗ {row.name} ({row.kind}): margin {row.margin:.2f} in {row.runs} runs, mean {row.mean:.4g}")
    click.echo(
        f"{len(rows)} rows, {len(unsafe)} below {margins.MIN_MARGIN} standard deviations: {margins.MARGINS_FILE}"
    )
    sys.exit(1 if unsafe else 0)


# --- sweep, status, collect -----------------------------------------------------------------------


@main.command()
@click.argument("chapter")
@click.option("--grid", "axes", multiple=True, metavar="NAME=VALUES", help="eps=0.05,0.1 or seed=0:5; may be repeated.")
@click.option("--student", is_flag=True, help="Run the version with exercises instead of the solution.")
@click.option("--preset", default="quick", show_default=True, help="quick (minutes) or full (full-scale data).")
@click.option("-p", "assignments", multiple=True, metavar="NAME=VALUE", help="Set a parameter of all runs.")
@click.option("--workers", type=click.IntRange(min=1), help="Runs side by side. [default: one for each GPU or core]")
@click.option("--scheduler", metavar="ADDRESS", help="Run on dask: local, or a scheduler's tcp://host:port.")
@click.option("--resume/--fresh", default=True, show_default=True, help="Keep what is finished, or repeat it.")
@_timeout
@click.option("--out", help="Folder, or s3://bucket/folder, for what comes out. [default: build/sweeps/CHAPTER]")
def sweep(
    chapter: str,
    axes: tuple[str, ...],
    student: bool,
    preset: str,
    assignments: tuple[str, ...],
    workers: int | None,
    scheduler: str | None,
    resume: bool,
    timeout: int | None,
    out: str | None,
) -> None:
    """Run a chapter with every combination of some values, side by side; go on where an earlier call stopped.

    \b
    course sweep 02 --grid eps=0.05,0.1,0.2 --grid seed=0:5     15 runs: 0:5 is 0, 1, 2, 3, 4
    course sweep 02 --grid eps=2/255,8/255 --scheduler local    on dask
    """
    from ..runner import chapters, cluster, parameters, reports, sweeps

    found = chapters.find_chapter(chapter, student)
    [(_, common)] = _plan([found], parameters.load_preset(preset), assignments)
    params = [common | point for point in sweeps.grid(**_axes(found.path, axes))]
    out = out or f"build/sweeps/{found.name}"
    with cluster.connect(scheduler, workers) if scheduler else nullcontext() as executor:
        try:
            frame = sweeps.run_sweep(
                found.path, params, out, executor=executor, workers=workers, timeout=timeout, resume=resume
            )
        except KeyboardInterrupt:
            click.echo("Interrupted. What is finished is kept: the same command goes on.", err=True)
            sys.exit(130)
    where = reports.write_report(out, frame)
    click.echo(_summary(frame))
    click.echo(f"Open {where} in a browser.")
    sys.exit(0 if (frame.status == "completed").all() else 1)


@main.command()
@click.argument("folder", metavar="DIR")
def status(folder: str) -> None:
    """Say how far the runs in a folder are, from another terminal or afterwards."""
    from ..runner import outcomes

    click.echo(_summary(outcomes.collect(folder)))


@main.command()
@click.argument("folder", metavar="DIR")
@click.option("--to", "target", required=True, metavar="FILE", help="A .csv or .parquet file.")
def collect(folder: str, target: str) -> None:
    """Write one table of all runs in a folder: parameters, results, seconds, status."""
    from ..runner import outcomes

    frame = outcomes.collect(folder)
    outcomes.write_table(frame, target)
    click.echo(f"wrote {len(frame)} runs to {target}")


def _axes(path: Path, texts: tuple[str, ...]) -> dict[str, list]:
    """Read the values of each --grid NAME=VALUES."""
    from ..runner.parameters import parse_values, read_parameters

    known, axes = read_parameters(path), {}
    for text in texts:
        name, values = _split(text, "--grid", "NAME=VALUES, like --grid eps=0.1,0.2")
        if name in axes:
            raise ValueError(f"--grid names {name!r} twice")
        axes[name] = parse_values(values, known[name].default if name in known else None)
    return axes


def _summary(frame: pd.DataFrame) -> str:
    """Return a line for each run that failed or was broken off, one that counts all runs, and the time left."""
    from ..runner.outcomes import count_runs, seconds_left
    from ..runner.sweeps import format_params

    params, left = frame.attrs["params"], seconds_left(frame)
    lines = []
    for row in frame[frame.status.isin(["failed", "interrupted"])].to_dict("records"):
        error = row["error"] or "broken off; the next sweep repeats it"
        lines.append(f"✗ {format_params({name: row[name] for name in params})}: {error}")
    lines.append(count_runs(frame))
    if not math.isnan(left):
        lines.append(f"About {timedelta(seconds=round(left))} left (h:mm:ss).")
    return "\n".join(lines)


def _choose(names: tuple[str, ...], student: bool) -> list[Chapter]:
    from ..runner import chapters

    named = {c.path: c for c in (chapters.find_chapter(name, student) for name in names)}
    return list(named.values()) or chapters.chapters(student)


def _plan(chapters: list[Chapter], preset: dict[str, dict], assignments: tuple[str, ...]) -> list[tuple[Chapter, dict]]:
    """Pair every chapter with its checked parameters; say which chapters lack one that others have."""
    from ..core.suggestions import did_you_mean
    from ..runner.parameters import check_parameters, parse_value, preset_parameters, read_parameters

    pairs = [_split(text, "-p", "NAME=VALUE, like -p eps=0.1") for text in assignments]
    known = {chapter.path: read_parameters(chapter.path) for chapter in chapters}
    for name, _ in pairs:
        lacking = [c for c in chapters if name not in known[c.path]]
        if len(lacking) == len(chapters):
            every = {n: p for parameters in known.values() for n, p in parameters.items()}
            raise ValueError(f"no chapter to run has a parameter {name!r}. {did_you_mean(name, every)}")
        for chapter in lacking:
            click.echo(f"{chapter.name} has no parameter {name!r}: it runs without it.", err=True)
    jobs = []
    for chapter in chapters:
        own = known[chapter.path]
        typed = {name: parse_value(text, own[name].default) for name, text in pairs if name in own}
        params = preset_parameters(preset, chapter) | typed
        jobs.append((chapter, check_parameters(chapter.name, own, params)))
    return jobs


def _split(text: str, option: str, wanted: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ValueError(f"{option} expects {wanted}, got {text!r}")
    return name.strip(), value.strip()


def _table(results: list[RunResult]) -> str:
    import pandas as pd

    rows = [
        {
            "seconds": f"{r.seconds:.1f}",
            "claims": f"{r.claims_passed}/{r.claims_total}" if r.claims_total else "–",
            "peak memory": f"{r.peak_memory_mb} MB" if r.peak_memory_mb else "–",
            "status": r.status,
        }
        for r in results
    ]
    return pd.DataFrame(rows, index=[r.name for r in results]).rename_axis(columns="chapter").to_string()


def _finish(results: list[RunResult]) -> None:
    for r in results:
        if r.error:
            click.echo(f"✗ {r.name}: {r.error}", err=True)
        if (r.peak_memory_mb or 0) > MAX_MEMORY_MB:
            click.echo(f"! {r.name}: peak memory {r.peak_memory_mb} MB, above {MAX_MEMORY_MB} MB", err=True)
    if not all(results):
        sys.exit(1)


def _echo_written(paths: list[Path]) -> None:
    for path in paths:
        click.echo(f"wrote {path.name}")
    if not paths:
        click.echo("The students' notebooks are up to date.")


# --- doctor ---------------------------------------------------------------------------------------


@main.command("doctor")
def doctor_command() -> None:
    """Check Python, packages, device, folders and data: one line each, with the cure."""
    findings = doctor()
    click.echo(str(findings))
    sys.exit(0 if findings else 1)
