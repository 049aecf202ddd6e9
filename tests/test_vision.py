"""torchvision beside any build of torch."""

import ast
from pathlib import Path

import torch

import course_utils
from course_utils.core.vision import torchvision

SOURCES = sorted(Path(course_utils.__file__).parent.rglob("*.py"))


def test_what_the_course_uses_works():
    assert torchvision.datasets.MNIST.resources
    assert torchvision.datasets.utils.check_integrity
    net = torchvision.models.squeezenet1_1(weights=None).eval()
    assert net(torch.rand(1, 3, 64, 64)).shape == (1, 1000)
    resized = torchvision.transforms.functional.resize(torch.rand(1, 8, 8), [4, 4], antialias=True)
    assert resized.shape == (1, 4, 4)


def test_importing_twice_is_the_same_module():
    import torchvision as direct

    assert direct is torchvision


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


def test_no_other_module_imports_torchvision():
    assert [path.name for path in SOURCES if "torchvision" in imported(path)] == ["vision.py"]
