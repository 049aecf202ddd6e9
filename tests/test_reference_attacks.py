"""Other people's attacks as oracles, where the definitions coincide. `make extras` installs them."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import course_utils.core.vision  # noqa: F401 - first: torchattacks imports torchvision, which this makes importable
from course_utils.attacks import carlini_wagner, deepfool, fgsm, pgd

EPS = 0.1


def trained(model, x, y, steps=60):
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def task():
    """A small trained network with unsaturated logits, images and labels."""
    generator = torch.Generator().manual_seed(0)
    templates = torch.rand(5, 1, 10, 10, generator=generator)
    y = torch.randint(5, (300,), generator=generator)
    x = (templates[y] + 0.6 * torch.randn(300, 1, 10, 10, generator=generator)).clamp(0, 1)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(100, 32), nn.Tanh(), nn.Linear(32, 5))
        return trained(model, x, y), x, y


class Scaled(nn.Module):
    """A model whose logits are larger or smaller, which changes no label and no distance."""

    def __init__(self, model, scale):
        super().__init__()
        self.model, self.scale = model, scale

    def forward(self, x):
        return self.scale * self.model(x)


@pytest.fixture(scope="module", params=[("mlp", 1), ("conv", 1), ("mlp", 50), ("conv", 0.02)], ids=str)
def small_task(task, request):
    """Images that a small network is right about; an MLP or a convolutional one, with logits of several sizes."""
    mlp, x, y = task
    kind, scale = request.param
    model = mlp
    if kind == "conv":
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            layers = [nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten()]
            model = trained(nn.Sequential(*layers, nn.Linear(144, 5)), x, y, steps=120)
    model = Scaled(model, scale).eval()
    right = model(x).argmax(1) == y
    return model, x[right][:25], y[right][:25]


@pytest.fixture(scope="module")
def torchattacks():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torchattacks", exc_type=ImportError)


@pytest.fixture(scope="module")
def foolbox(task):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("foolbox", exc_type=ImportError)


@pytest.fixture(scope="module")
def foolbox_model(foolbox, task):
    return foolbox.PyTorchModel(task[0], bounds=(0, 1), device="cpu")


def assert_same_signs(ours, theirs):
    """Equal but for pixels whose gradient is at rounding level: at most one in ten thousand."""
    assert ((ours - theirs).abs() > 1e-6).float().mean() <= 1e-4


def robust(model, adv, y):
    return (model(adv).argmax(1) == y).float().mean().item()


def test_fgsm_is_torchattacks_fgsm(torchattacks, task):
    model, x, y = task
    assert_same_signs(fgsm(model, x, y, EPS), torchattacks.FGSM(model, eps=EPS)(x, y))


def test_targeted_fgsm_is_torchattacks_targeted_fgsm(torchattacks, task):
    model, x, y = task
    theirs = torchattacks.FGSM(model, eps=EPS)
    theirs.set_mode_targeted_by_label(quiet=True)
    target = (y + 1) % 5
    assert_same_signs(fgsm(model, x, target, EPS, targeted=True), theirs(x, target))


def test_linf_pgd_is_no_weaker_than_torchattacks(torchattacks, task):
    model, x, y = task
    theirs = torchattacks.PGD(model, eps=EPS, alpha=2.5 * EPS / 20, steps=20, random_start=False)(x, y)
    ours = pgd(model, x, y, EPS, steps=20, random_start=False)
    assert robust(model, ours, y) <= robust(model, theirs, y)
    assert (ours - theirs).abs().mean() < 0.02 * EPS  # the same way, but for signs of vanishing gradients


def test_l2_pgd_is_no_weaker_than_torchattacks(torchattacks, task):
    model, x, y = task
    options = {"eps": 1.0, "alpha": 0.125, "steps": 20, "random_start": False}
    theirs = torchattacks.PGDL2(model, **options)(x, y)
    ours = pgd(model, x, y, 1.0, norm="l2", steps=20, random_start=False)
    assert robust(model, ours, y) <= robust(model, theirs, y)
    assert (ours - theirs).flatten(1).norm(dim=1).median() < 0.05


def test_fgsm_is_foolbox_fgsm(foolbox, foolbox_model, task):
    model, x, y = task
    theirs, *_ = foolbox.attacks.LinfFastGradientAttack()(foolbox_model, x, y, epsilons=EPS)
    assert_same_signs(fgsm(model, x, y, EPS), theirs)


def test_l2_fgsm_is_foolbox_fast_gradient(foolbox, foolbox_model, task):
    model, x, y = task
    theirs, *_ = foolbox.attacks.L2FastGradientAttack()(foolbox_model, x, y, epsilons=1.0)
    # Cross-entropy's float32 gradient of a confident image is known to three digits; foolbox follows it.
    assert torch.allclose(fgsm(model, x, y, 1.0, norm="l2"), theirs, atol=1e-3)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_is_no_weaker_than_foolbox(foolbox, foolbox_model, task, norm):
    model, x, y = task
    eps = EPS if norm == "linf" else 1.0
    attack = {"linf": foolbox.attacks.LinfProjectedGradientDescentAttack, "l2": foolbox.attacks.L2PGD}[norm]
    theirs, *_ = attack(rel_stepsize=2.5 / 20, steps=20, random_start=False)(foolbox_model, x, y, epsilons=eps)
    ours = pgd(model, x, y, eps, norm=norm, steps=20, random_start=False)
    assert robust(model, ours, y) <= robust(model, theirs, y)


def assert_no_farther(model, x, y, ours, theirs, norm):
    """Fools as many images, and in the median no more than a tenth farther away where both fool."""
    fooled = [model(adv).argmax(1) != y for adv in (ours, theirs)]
    assert fooled[0].sum() >= fooled[1].sum() > 0
    both = fooled[0] & fooled[1]
    ours, theirs = ((adv - x)[both].flatten(1).norm(p=norm, dim=1) for adv in (ours, theirs))
    assert (ours / theirs).median() <= 1.1
    assert ours.median() <= 1.1 * theirs.median()


@pytest.mark.slow
def test_deepfool_is_no_farther_than_torchattacks(torchattacks, small_task):
    model, x, y = small_task
    assert_no_farther(model, x, y, deepfool(model, x, y), torchattacks.DeepFool(model)(x, y), 2)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool_is_no_farther_than_foolbox(foolbox, small_task, norm):
    model, x, y = small_task
    attack = {"l2": foolbox.attacks.L2DeepFoolAttack, "linf": foolbox.attacks.LinfDeepFoolAttack}[norm]
    theirs, *_ = attack()(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=None)
    ours = deepfool(model, x, y, norm=norm)
    assert_no_farther(model, x, y, ours, theirs, 2 if norm == "l2" else torch.inf)


@pytest.mark.slow
def test_carlini_wagner_is_no_farther_than_torchattacks(torchattacks, small_task):
    model, x, y = small_task
    theirs = torchattacks.CW(model, c=10, steps=100)(x, y)
    assert_no_farther(model, x, y, carlini_wagner(model, x, y), theirs, 2)


@pytest.mark.slow
def test_carlini_wagner_is_no_farther_than_foolbox(foolbox, small_task):
    model, x, y = small_task
    attack = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=7, steps=100, stepsize=0.1)
    theirs, *_ = attack(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=None)
    assert_no_farther(model, x, y, carlini_wagner(model, x, y), theirs, 2)
