"""Layers: normalisation, the faster convolution, two batch norms in one place."""

import pytest
import torch
from conftest import same_weights
from torch import nn

from course_utils.attacks import pgd
from course_utils.models import (
    DualBatchNorm1d,
    DualBatchNorm2d,
    HalvingConv2d,
    Normalize,
    branch,
    dual_batch_norm,
    load_weights,
    save_weights,
    small_cnn,
)

X = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 10


def test_normalize_each_channel():
    x = torch.rand(4, 3, 5, 5)
    y = Normalize((0.1, 0.2, 0.3), (0.5, 1.0, 2.0))(x)
    for channel, (mean, std) in enumerate(zip((0.1, 0.2, 0.3), (0.5, 1.0, 2.0), strict=True)):
        assert torch.allclose(y[:, channel], (x[:, channel] - mean) / std)
    assert torch.allclose(Normalize(0.5, 0.25)(x), (x - 0.5) / 0.25)
    assert Normalize().double()(x.double()).dtype == torch.float64


@pytest.mark.parametrize(("mean", "std"), [((0.1, 0.2), (1.0,)), (0.5, 0.0), (0.5, -1.0), ((0.1, 0.2), (1.0, 0.0))])
def test_normalize_refuses(mean, std):
    with pytest.raises(ValueError, match="as many means as positive stds"):
        Normalize(mean, std)


# Dual batch norm ------------------------------------------------------------------------------------------------------


def normed(seed=0):
    """A network with both kinds of batch norm, one nested; its statistics and parameters are no longer 0 and 1."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        convolution = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, momentum=0.3, eps=1e-3), nn.ReLU())
        model = nn.Sequential(
            convolution, nn.Flatten(), nn.Linear(12, 6), nn.BatchNorm1d(6, affine=False), nn.Linear(6, 10)
        )
        for _ in range(3):
            model(torch.rand(8, 1, 4, 4) + 0.5)
        nn.init.uniform_(convolution[1].weight)
        nn.init.uniform_(convolution[1].bias)
    return model


def statistics(layer):
    return torch.cat([layer.running_mean, layer.running_var]).clone()


def test_dual_batch_norm_starts_as_two_copies():
    single = normed().eval()
    dual = dual_batch_norm(single)
    assert isinstance(dual[0][1], DualBatchNorm2d)
    assert isinstance(dual[3], DualBatchNorm1d)
    expected = single(X)
    assert torch.equal(dual(X), expected)
    with branch(dual, "auxiliary"):
        assert torch.equal(dual(X), expected)
    assert isinstance(single[3], nn.BatchNorm1d)  # a copy: the network itself stays as it was
    assert dual[0][1].auxiliary.momentum == 0.3
    assert not dual[0][1].training
    assert dual_batch_norm(normed())[0][1].training


def test_a_layer_alone_and_a_dual_network_can_be_doubled():
    assert isinstance(dual_batch_norm(nn.BatchNorm2d(3)), DualBatchNorm2d)
    twice = dual_batch_norm(dual_batch_norm(normed()))
    assert isinstance(twice[3].main, nn.BatchNorm1d)


def test_a_network_without_batch_norm_is_refused():
    with pytest.raises(ValueError, match=r"no BatchNorm1d or BatchNorm2d.*small_cnn\(batch_norm=True\)"):
        dual_batch_norm(small_cnn())
    with pytest.raises(ValueError, match=r"no auxiliary branch.*dual_batch_norm"), branch(small_cnn(), "auxiliary"):
        pass
    with branch(small_cnn(), "main"):
        pass
    with pytest.raises(ValueError, match=r"one of .*got 'clean'"), branch(dual_batch_norm(normed()), "clean"):
        pass


@pytest.mark.parametrize("name", ["main", "auxiliary"])
def test_a_pass_moves_the_statistics_of_its_branch_only(name):
    model = dual_batch_norm(normed())
    expected = normed()
    expected(X)
    with branch(model, name):
        model(X)
    for layer, before, after in ((model[0][1], normed()[0][1], expected[0][1]), (model[3], normed()[3], expected[3])):
        other = layer.auxiliary if name == "main" else layer.main
        assert torch.equal(statistics(getattr(layer, name)), statistics(after))
        assert torch.equal(statistics(other), statistics(before))
        assert not torch.equal(statistics(after), statistics(before))


@pytest.mark.parametrize("name", ["main", "auxiliary"])
def test_a_pass_trains_the_affine_parameters_of_its_branch_only(name):
    model = dual_batch_norm(normed())
    with branch(model, name):
        model(X).square().sum().backward()
    layer = model[0][1]
    other = layer.auxiliary if name == "main" else layer.main
    assert getattr(layer, name).weight.grad.abs().sum() > 0
    assert other.weight.grad is None
    assert other.bias.grad is None


def test_branches_nest_and_come_back():
    model = dual_batch_norm(normed())

    def branches():
        return {model[0][1].branch, model[3].branch}

    assert branches() == {"main"}
    with branch(model, "auxiliary"):
        with branch(model, "main"):
            assert branches() == {"main"}
        assert branches() == {"auxiliary"}
        with pytest.raises(ArithmeticError), branch(model, "main"):
            raise ArithmeticError
        assert branches() == {"auxiliary"}
    assert branches() == {"main"}
    model[3].branch = "auxiliary"  # each layer gets its own branch back
    with branch(model, "main"):
        assert branches() == {"main"}
    assert (model[0][1].branch, model[3].branch) == ("main", "auxiliary")


@pytest.mark.parametrize("name", ["main", "auxiliary"])
def test_attacks_do_not_touch_the_statistics_of_either_branch(name):
    model = dual_batch_norm(normed()).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with branch(model, name):
        adv = pgd(model, X, Y, 0.1, steps=3)
    assert not torch.equal(adv, X)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model[3].main.training
    assert model[3].auxiliary.training


def test_both_branches_are_saved(tmp_path):
    model, other = dual_batch_norm(normed()), dual_batch_norm(normed(seed=1))
    with branch(model, "auxiliary"):
        model(X)
    save_weights(model, tmp_path / "w.pt")
    load_weights(other, tmp_path / "w.pt")
    assert same_weights(model, other)
    assert not torch.equal(model[3].main.running_mean, model[3].auxiliary.running_mean)


# The halving convolution ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(28, 28), (6, 4), (7, 6)])
def test_the_halving_convolution_is_torchs_own_in_value_and_every_gradient(size):
    ours = HalvingConv2d(3, 5).double()
    theirs = nn.Conv2d(3, 5, 5, stride=2, padding=2).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(2, 3, *size, dtype=torch.float64, requires_grad=True)
    values = [layer(x) for layer in (ours, theirs)]
    torch.testing.assert_close(*values)
    weights = torch.rand_like(values[0])
    gradients = [
        torch.autograd.grad((value * weights).sum(), [x, *layer.parameters()])
        for value, layer in zip(values, (ours, theirs), strict=True)
    ]
    torch.testing.assert_close(*gradients)


def test_the_halving_convolution_can_be_differentiated_twice_and_by_torch_func():
    layer = HalvingConv2d(1, 2).double()
    x = torch.rand(2, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)
    assert torch.autograd.gradgradcheck(layer, x)

    def energy(image):
        return layer(image[None]).square().sum()

    each = torch.func.vmap(torch.func.grad(energy))(x.detach())
    (together,) = torch.autograd.grad(layer(x).square().sum(), x)
    torch.testing.assert_close(each, together)


def test_the_halving_convolution_spends_nothing_on_gradients_that_nobody_asked_for():
    layer = HalvingConv2d(1, 2).requires_grad_(False)
    assert not layer(torch.rand(1, 1, 4, 4)).requires_grad
    x = torch.rand(1, 1, 4, 4, requires_grad=True)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    assert x.grad is not None


@pytest.mark.parametrize("forward", [False, True])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("wanted", ["images", "weights", "both"])
def test_the_halving_convolution_under_autocast_is_torchs_own(forward, backward, wanted):
    ours = HalvingConv2d(2, 5).requires_grad_(wanted != "images")
    theirs = nn.Conv2d(2, 5, 5, stride=2, padding=2).requires_grad_(wanted != "images")
    theirs.load_state_dict(ours.state_dict())
    results = []
    for layer in (ours, theirs):
        x = torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_(wanted != "weights")
        with torch.autocast("cpu", torch.bfloat16, enabled=forward):
            value = layer(x)
        with torch.autocast("cpu", torch.bfloat16, enabled=backward):
            value.float().square().sum().backward()
        results.append([value, *(t.grad for t in (x, *layer.parameters()) if t.requires_grad)])
    assert [t.dtype for t in results[0]] == [t.dtype for t in results[1]]
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-3)
