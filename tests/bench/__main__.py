"""`make bench`: measure what is not measured yet, then write and print the tables."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from course_utils.core import PROJECT, describe
from course_utils.core.files import write_text

from . import contestants, networks, table
from .measure import Cell, attacked, key_of, pgd_overhead, resumed
from .networks import Task

DISTANCES_ON = ("standard", "pgd")  # the networks on which the smallest changes are looked for
FULL = {"images": 1000, "networks": ",".join(networks.NAMES), "norms": "linf,l2", "rounds": 20}
QUICK = {"images": 100, "networks": "standard", "norms": "linf", "rounds": 5, "skip": "ART"}
NOTES = """\
Robust accuracy with its 95 % Wilson interval; the difference on the same images with Newcombe's. Passes: images sent
forward + backward through the network, for each image attacked. Seconds of a processor, and their share of those of
the authors' AutoAttack († measured in another run than it). Bars: "standard" leaves at most .5 points more than
AutoAttack in 1/10 of its time, "thorough" no more (paired interval) in 1/3; PGD has no more overhead than torchattacks;
DeepFool and Carlini-Wagner are twice as fast as foolbox's and no farther away. "interval" is trained with interval
bounds, "masked" is "pgd" with its logits times 50; photos are six, without a bar."""


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options: what was given, else what --quick says, else all."""
    parser = argparse.ArgumentParser(prog="bench", description="The course's attacks beside other people's.")
    add = parser.add_argument
    add("--images", type=int, help="digits to attack (1000, which are all)")
    add("--networks", help=f"some of {','.join(networks.NAMES)} (all)")
    add("--norms", help="linf,l2 (both)")
    add("--only", default=",".join(contestants.GROUPS), help="some of %(default)s (all)")
    add("--skip", help="leave out attacks with this in their name")
    add("--rounds", type=int, help="of the measurement of PGD's overhead (20)")
    add("--quick", action="store_true", help="about two minutes: 100 images, one network, one norm, without ART")
    add("--fresh", action="store_true", help="measure everything again")
    add("--folder", type=Path, default=PROJECT / "build" / "bench", help="for the results (build/bench)")
    options = parser.parse_args(given)
    for name, value in ({"skip": None} | FULL | (QUICK if options.quick else {})).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    known = {"networks": networks.NAMES, "norms": ("linf", "l2"), "only": tuple(contestants.GROUPS)}
    for name, words in known.items():
        wanted = getattr(options, name).split(",")
        if unknown := sorted(set(wanted) - set(words)):
            parser.error(f"--{name}: unknown {', '.join(unknown)}; choose of {','.join(words)}")
        setattr(options, name, [word for word in words if word in wanted])
    return options


def plan(options: argparse.Namespace) -> Iterable[tuple[str, str, str, str]]:
    """Yield (network, group, norm, attack) of every cell; those that are compared follow one another."""
    for network in options.networks:
        for group in options.only:
            norms = options.norms if group == "ensemble" else ["l2"] if network in DISTANCES_ON else []
            for norm in norms if group != "pgd" else []:
                for attack in contestants.GROUPS[group]:
                    if not options.skip or options.skip not in attack:
                        yield network, group, norm, attack


def path_of(options: argparse.Namespace, *parts: object) -> Path:
    """Return the file of what these words and numbers stand for; with --fresh it is gone."""
    name = "-".join("".join(c if c.isalnum() else "_" for c in str(part)) for part in parts)
    path = options.folder / f"{name}.json"
    if options.fresh:
        path.unlink(missing_ok=True)
    return path


def measured(task: Task, options: argparse.Namespace, network: str, group: str, norm: str, name: str) -> Cell:
    """Return one cell, from its file if that is still valid."""
    key = key_of(task, network, group, norm, name, task.radii[norm], contestants.version(name))
    attack = contestants.GROUPS[group][name]
    path = path_of(options, network, norm, group, name, len(task.x))
    cell = Cell(**resumed(path, key, lambda: attacked(task, attack, network, group, norm, name)))
    left = 100 * sum(cell.correct) / len(cell.correct)
    print(f"{network}, {norm}, {group}, {name}: {left:.1f} % left, {cell.seconds:.1f} s", flush=True)
    return cell


def overhead(task: Task, options: argparse.Namespace, network: str) -> dict[str, list[float]]:
    """Return how long each PGD takes beside bare passes, from its file if that is still valid."""
    attacks = {name: a for name, a in contestants.PGD.items() if not options.skip or options.skip not in name}
    key = key_of(task, options.rounds, [contestants.version(name) for name in attacks])
    path = path_of(options, network, "pgd", options.rounds, len(task.x))
    return resumed(path, key, lambda: {"ratios": pgd_overhead(task, attacks, options.rounds)})["ratios"]


def main(given: Sequence[str] | None = None) -> None:
    """Measure, then write and print the tables; a run that was killed goes on after its last cell."""
    options = arguments(given)
    torch.set_num_threads(1)
    contestants.load()
    tasks = networks.tasks(tuple(options.networks), options.images)
    cells = [measured(tasks[cell[0]], options, *cell) for cell in plan(options)]
    parts = [f"{describe(torch.device('cpu'))}, {options.images} digits.", NOTES]
    if ensembles := [cell for cell in cells if cell.group == "ensemble"]:
        parts.append(table.ensemble_table(ensembles))
    if "pgd" in options.only and (network := options.networks[0]) != networks.PHOTOGRAPHS:
        parts += [f"PGD on {network}, {contestants.PGD_STEPS} steps, linf:"]
        parts.append(table.overhead_table(overhead(tasks[network], options, network)))
    if distances := [cell for cell in cells if cell.group != "ensemble"]:
        parts += ["Smallest changes in l2:", table.distance_table(distances)]
    text = "\n\n".join(parts)
    write_text(options.folder / "table.md", text + "\n")
    print(f"\n{text}\n\nwritten to {options.folder / 'table.md'}")


if __name__ == "__main__":
    main()
