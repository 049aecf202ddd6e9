"""The benchmark's arithmetic, its files and its sources; the other packages are not needed."""

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from bench import __main__ as command
from bench import contestants, measure, networks, table
from bench.measure import Cell
from bench.networks import Task
from conftest import network

HERE = Path(__file__).parent
BENCH = HERE / "bench"


def cell(attack, correct, *, seconds=1.0, distance=None, group="ensemble", where="pgd", said=(), run="1"):
    distance = [1.0] * len(correct) if distance is None else distance
    return Cell(where, "linf", 0.2, group, attack, correct, distance, 3.0, 2.0, seconds, 2.0, list(said), run)


def task(n=20):
    model = network().eval()
    x = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return Task(model, x, model(x).argmax(1), {"linf": 0.1, "l2": 0.5})


# Arithmetic


@pytest.mark.parametrize("p", [(0.6, 0.005, 0.002), (0.5, 0.05, 0.05), (0.3, 0.1, 0.3), (0.0, 0.03, 0.0)])
def test_the_paired_interval_covers(p):
    _, only_one, only_other = p
    generator = np.random.default_rng(0)
    draws = generator.multinomial(200, [*p, 1 - sum(p)], size=400)
    truth, hits = only_one - only_other, 0
    for e, f, g, h in draws.tolist():
        ones, others = [1] * (e + f) + [0] * (g + h), [1] * e + [0] * f + [1] * g + [0] * h
        difference, low, high = table.paired_difference(ones, others)
        assert difference == pytest.approx((f - g) / 200)
        assert low <= difference <= high
        hits += low <= truth <= high
    assert hits / len(draws) > 0.91


def test_the_paired_interval_is_narrower_than_without_pairs_and_antisymmetric():
    ones = [1] * 60 + [0] * 40
    paired = table.paired_difference(ones, [1] * 55 + [0] * 45)
    shuffled = table.paired_difference(ones, [0] * 45 + [1] * 55)
    assert paired[0] == shuffled[0]
    assert paired[2] - paired[1] < (shuffled[2] - shuffled[1]) / 2
    back = table.paired_difference([1] * 55 + [0] * 45, ones)
    assert paired == pytest.approx((-back[0], -back[2], -back[1]))


def test_the_interval_of_a_median_covers():
    values = np.random.default_rng(0).exponential(size=(2000, 20)).tolist()
    hits = [low <= np.log(2) <= high for _, low, high in map(table.median_interval, values)]
    assert 0.94 < np.mean(hits) < 0.98  # 95.9 % by the binomial distribution
    assert table.median_interval([3, 1]) == (2, 1, 3)


# What is written


def test_a_bar_is_met_or_missed_in_words():
    reference = cell(contestants.REFERENCE, [1] * 100 + [0] * 100, seconds=100)
    equal, one_more, more = ([1] * n + [0] * (200 - n) for n in (100, 101, 120))
    assert table.bar(cell("ours, standard", equal, seconds=10), reference) == "met"
    assert table.bar(cell("ours, standard", one_more, seconds=10), reference) == "met"
    assert table.bar(cell("ours, thorough", one_more, seconds=33), reference) == "met"
    late = table.bar(cell("ours, standard", more, seconds=20), reference)
    assert late == "**missed: leaves 10.0 points more, takes 1/5.0 of the time**"
    assert table.bar(cell("ours, thorough", more, seconds=1), reference) == "**missed: leaves 10.0 points more**"
    assert table.bar(cell("ours, quick", more), reference) == ""
    assert table.bar(cell("ours, standard", more, where="photos"), reference) == ""


def test_the_table_of_ensembles():
    reference = cell(contestants.REFERENCE, [1] * 50 + [0] * 50, seconds=100)
    ours = cell("ours, standard", [1] * 60 + [0] * 40, seconds=5, said=["masked"], run="2")
    head, _, first, second = table.ensemble_table([reference, ours]).splitlines()
    assert all(line.count("|") == head.count("|") for line in (first, second))
    assert "50.0 % (40.4–59.6, n = 100)" in first
    assert "1/20.0 †" in second
    assert "**missed: leaves 10.0 points more**; warns" in second
    assert "+10.0 (" in second
    assert "−" not in second
    assert table.ensemble_table([ours]).count("missed") == 0  # nothing to compare with


def test_the_table_of_distances():
    far = [2.0] * 4
    ours = cell("ours", [0, 0, 0, 1], group="deepfool", seconds=1)
    assert table.distance_bar(ours, cell("foolbox", [0, 0, 1, 1], seconds=3, distance=far)) == "met, 3.0 times as fast"
    lost = table.distance_bar(ours, cell("foolbox", [0, 0, 0, 0], seconds=1, distance=[0.5] * 4))
    assert lost == "**missed: only 1.0 times as fast, 2.000 times as far, fools 1 images less**"
    foolbox = cell("foolbox", [0] * 4, group="deepfool", distance=far)
    assert "| 100.0 % | 2.000 | 2.000 |" in table.distance_table([ours, foolbox])


def test_the_table_of_overheads():
    assert "missed" in table.overhead_table({"ours": [1.2, 1.3], "torchattacks": [1.1, 1.1]})
    assert "| ours | 1.05 (1.00–1.10) | 2 | met |" in table.overhead_table({"ours": [1.0, 1.1], "torchattacks": [1.1]})


def test_signs_of_zero():
    assert table.points((-0.0001, -0.01, 0.0)) == "+0.0 (−1.0 to +0.0)"


# Measuring


def test_a_cell_counts_passes_and_what_remains():
    own = task()
    wrong = (own.y + 1) % 10

    def attack(model, x, y, eps, norm):
        point = x.clone().requires_grad_(True)
        torch.autograd.grad(model(point).sum(), point)
        model(x)
        return x + eps / 2

    found = Cell(**measure.attacked(own, attack, "n", "ensemble", "linf", "a"))
    assert (found.forward, found.backward) == (2, 1)
    assert found.distance == pytest.approx([0.05 * 4] * 20)
    outside = torch.zeros_like(own.x)
    assert measure.remains_correct(own, outside, 0.1, "linf").all()  # fools nobody: it left the ball
    assert not measure.remains_correct(Task(own.model, own.x, wrong, own.radii), own.x, 0.1, "linf").any()


def test_a_run_goes_on_where_it_was_killed(tmp_path):
    path, calls = tmp_path / "new" / "cell.json", []

    def compute():
        calls.append(1)
        return {"value": 3}

    assert measure.resumed(path, "a", compute)["value"] == 3
    assert measure.resumed(path, "a", compute)["value"] == 3
    assert len(calls) == 1
    measure.resumed(path, "b", compute)
    path.write_text(path.read_text()[:-4])  # half a file
    assert measure.resumed(path, "b", compute) == json.loads(path.read_text())
    assert len(calls) == 3


def test_a_key_stands_for_weights_images_and_settings():
    own = task()
    key = measure.key_of(own, "linf", 0.1)
    assert measure.key_of(task(), "linf", 0.1) == key
    assert measure.key_of(own, "linf", 0.2) != key
    assert measure.key_of(task(19), "linf", 0.1) != key
    with torch.no_grad():
        own.model[-1].bias[0] += 1
    assert measure.key_of(own, "linf", 0.1) != key


def test_the_command_measures_once(tmp_path, monkeypatch, capsys):
    constant = {name: lambda model, x, *_: x for name in ("ours, quick", contestants.REFERENCE)}
    monkeypatch.setattr(contestants, "ENSEMBLES", constant)
    monkeypatch.setitem(contestants.GROUPS, "ensemble", constant)
    monkeypatch.setattr(contestants, "version", lambda name: "1")
    monkeypatch.setattr(contestants, "load", lambda: None)
    monkeypatch.setattr(networks, "tasks", lambda names, images: {name: task(images) for name in names})
    options = ["--images", "20", "--networks", "pgd,free", "--norms", "l2", "--only", "ensemble"]
    command.main([*options, "--folder", str(tmp_path)])
    assert len(list(tmp_path.glob("*.json"))) == 4
    assert "100.0 % (83.9–100.0, n = 20)" in (tmp_path / "table.md").read_text()
    before = {path: path.read_text() for path in tmp_path.glob("*.json")}
    command.main([*options, "--folder", str(tmp_path)])
    assert {path: path.read_text() for path in tmp_path.glob("*.json")} == before
    command.main([*options, "--folder", str(tmp_path), "--fresh"])
    assert {path: path.read_text() for path in tmp_path.glob("*.json")} != before  # other times


def test_unknown_names_are_refused(capsys):
    with pytest.raises(SystemExit):
        command.arguments(["--networks", "pdg"])
    assert "--networks: unknown pdg; choose of standard" in capsys.readouterr().err


def test_bounds_hold():
    model = network().eval()
    x = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    low, high = networks.output_bounds(model, x - 0.1, x + 0.1)
    for seed in range(20):
        noise = 0.2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) - 0.1
        logits = model(x + noise)
        assert ((low <= logits + 1e-5) & (logits <= high + 1e-5)).all()
    exact = networks.output_bounds(model, x, x)
    assert torch.allclose(exact[0], model(x), atol=1e-5)


# Sources


def test_nothing_private_of_the_course_is_used():
    for path in BENCH.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [getattr(node, "module", None) or "", *(n.name for n in getattr(node, "names", []))]
            names += [node.attr] if isinstance(node, ast.Attribute) else []
            private = [n for n in names for part in n.split(".") if part.startswith("_") and not part.startswith("__")]
            assert not private, (path.name, private)


def test_other_peoples_attacks_have_one_version():
    pins = [
        re.findall(r"^(\S+)==(\S+)", path.read_text(), re.M)
        for path in (HERE / "extras.txt", BENCH / "requirements.txt")
    ]
    extras, bench = map(dict, pins)
    assert {name: bench[name] for name in extras.keys() & bench} == {
        name: extras[name] for name in extras.keys() & bench
    }
    assert set(contestants.PACKAGES.values()) <= set(bench)
