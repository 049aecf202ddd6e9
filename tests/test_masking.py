"""Tests of gradient masking: T31, can the evaluation be trusted?"""

import pytest
import torch
from conftest import network
from torch import nn

from course_utils.evaluation import masking_tests


class Line(nn.Module):
    """Two classes by a sum of pixels with signs; honest, and its robust accuracy at any radius is known."""

    def forward(self, x):
        signs = torch.tensor([1.0, -1.0] * 8)
        z = (x.flatten(1) - 0.5) @ signs
        return torch.stack([-z, z], dim=1)


class Stairs(Line):
    """The same classes behind a rounding: gradients of zero, as many mistakes nearby."""

    def forward(self, x):
        z = super().forward(x)
        return (4 * z).round() / 4 + 0 * z


class Saturated(Line):
    """The same classes as probabilities of 0 and 1."""

    def forward(self, x):
        return (1e4 * super().forward(x)).softmax(1)


class Noisy(Line):
    """The same classes, asked through noise."""

    def forward(self, x):
        return super().forward(x + 0.05 * torch.randn_like(x))


def images(model, n=60):
    x = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return x, model(x).argmax(1)


TWICE, ZERO, STEPS, PGD, NOISE, BLACK_BOX, FAR = range(7)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_honest_model_passes_all_tests(norm):
    model = Line()
    x, y = images(model)
    frame = masking_tests(model, x, y, 0.05 if norm == "linf" else 0.2, norm=norm)
    assert list(frame.columns) == ["test", "value", "passed", "do not trust"]
    assert frame.passed.all(), frame
    assert not frame["do not trust"].any()
    assert masking_tests(model, x, y, 0.05, source=nn.Sequential(nn.Flatten(), nn.Linear(16, 2))).passed.all()


def test_values_are_those_of_the_line():
    """PGD fools whoever is within 16·eps of the boundary, at radius 1 everyone; a step is as good as forty."""
    model = Line()
    x, y = images(model)
    inside = ((model(x)[:, 1].abs()) < 16 * 0.02).float().mean().item()
    values = masking_tests(model, x, y, 0.02).value
    assert values[TWICE] == values[ZERO] == values[STEPS] == 0
    assert 0 <= values[PGD] <= 1 / 60  # the box is in nobody's way here
    assert values[NOISE] <= inside
    assert values[BLACK_BOX] == 0
    assert values[FAR] == 1


@pytest.mark.filterwarnings("ignore:.*gradients are exactly zero", "ignore:.*look like probabilities")
@pytest.mark.parametrize("hidden", [Stairs, Saturated])
def test_a_hidden_gradient_is_found(hidden):
    model = hidden()
    x, y = images(model)
    frame = masking_tests(model, x, y, 0.05)
    assert not frame.passed[[ZERO, BLACK_BOX, FAR]].any(), frame
    assert frame["do not trust"][[ZERO, BLACK_BOX, FAR]].str.contains("gradient").all()
    transferred = masking_tests(model, x, y, 0.05, source=Line())
    assert not transferred.passed[BLACK_BOX], transferred


def test_a_model_that_draws_is_recognised_and_averaged_on_request():
    model = Noisy()
    x, y = images(Line())
    frame = masking_tests(model, x, y, 0.02)
    assert not frame.passed[TWICE]
    assert "draws=20" in frame["do not trust"][TWICE]
    averaged = masking_tests(model, x, y, 0.02, draws=20)
    assert averaged.passed[TWICE]
    assert frame.equals(masking_tests(model, x, y, 0.02))  # its draws, too, are those of the seed


def test_it_repeats_itself_and_leaves_the_global_stream_and_the_model_alone():
    model, state = network(), torch.get_rng_state()
    model.train()
    x = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y = model.eval()(x).argmax(1)
    model.train()
    assert masking_tests(model, x, y, 0.05).equals(masking_tests(model, x, y, 0.05))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_it_looks_at_initially_correct_images_only():
    model = Line()
    x, y = images(model)
    wrong = torch.cat([y, 1 - y[:10]])
    assert masking_tests(model, torch.cat([x, x[:10]]), wrong, 0.05).equals(masking_tests(model, x, y, 0.05))


def test_it_refuses_what_it_cannot_test():
    model = Line()
    x, y = images(model)
    with pytest.raises(ValueError, match="classifies as y"):
        masking_tests(model, x, 1 - y, 0.1)
    with pytest.raises(ValueError, match="eps > 0"):
        masking_tests(model, x, y, 0.0)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        masking_tests(model, x, y, 0.1, steps=0)
    with pytest.raises(ValueError, match="norm must be"):
        masking_tests(model, x, y, 0.1, norm="l1")
