"""Files of weights: what is kept, what is refused, and that nothing half-read stays."""

import pickle

import pytest
import torch
from conftest import network, same_weights
from torch import nn

from course_utils.models import load_state, load_weights, save_weights


def test_weights_are_the_same_after_a_round_trip(tmp_path):
    model, other = network(seed=1), network(seed=2)
    save_weights(model, tmp_path / "new" / "w.pt")
    load_weights(other, tmp_path / "new" / "w.pt")
    assert same_weights(model, other)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["w.pt"]


def test_every_flipped_bit_is_harmless_or_found(tmp_path):
    """No damaged file loads as other weights, wherever the damage is."""
    good, path = network(seed=1), tmp_path / "w.pt"
    save_weights(good, path)
    content = path.read_bytes()
    found = 0
    for position in range(0, len(content), max(1, len(content) // 200)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :])
        model = network(seed=2)
        try:
            load_weights(model, path)
        except ValueError:
            found += 1
            assert same_weights(model, network(seed=2))
        else:
            assert same_weights(model, good), position
    assert found > 20


@pytest.mark.parametrize(
    "content", [b"", b"text", b"PK\x03\x04", pickle.dumps({"a": 1})], ids=["empty", "text", "zip", "pickle"]
)
def test_what_is_no_file_of_weights(content, tmp_path):
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"w\.pt cannot be read as weights: it is damaged.*Take another copy"):
        load_weights(network(), tmp_path / "w.pt")


@pytest.mark.parametrize("saved", [[1, 2], {"0": "text"}, {}, network(6).state_dict(), nn.Linear(3, 2).state_dict()])
def test_other_networks_weights_are_refused_and_change_nothing(saved, tmp_path):
    torch.save(saved, tmp_path / "w.pt")
    model = network(5)
    with pytest.raises(ValueError, match=r"w\.pt is of another network: .*Build the network") as error:
        load_weights(model, tmp_path / "w.pt")
    assert "delete" not in str(error.value)
    assert same_weights(model, network(5))


def prefixed(prefix, state):
    return {prefix + name: value for name, value in state.items()}


WRAPPED = {
    "DataParallel": lambda model: nn.DataParallel(model).state_dict(),
    "compiled": lambda model: torch.compile(model, backend="eager").state_dict(),
    "compiled, in parallel": lambda model: nn.DataParallel(torch.compile(model, backend="eager")).state_dict(),
    "parallel, compiled": lambda model: torch.compile(nn.DataParallel(model), backend="eager").state_dict(),
    "compiled layer": lambda model: nn.Sequential(*model[:1], torch.compile(model[1]), *model[2:]).state_dict(),
    "script": lambda model: {"epoch": 3, "state_dict": model.state_dict(), "optimizer": {"lr": 0.1}},
    "parallel script": lambda model: {"state_dict": prefixed("module.", model.state_dict())},
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_what_others_put_around_weights_is_taken_off(wrap, tmp_path):
    good, model = network(seed=1), network(seed=2)
    torch.save(wrap(good), tmp_path / "w.pt")
    load_weights(model, tmp_path / "w.pt")
    assert same_weights(model, good)


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_plain_weights_go_into_a_wrapped_model(wrap, tmp_path):
    good, model = network(seed=1), network(seed=2)
    save_weights(good, tmp_path / "w.pt")
    load_weights(wrap(model), tmp_path / "w.pt")
    assert same_weights(model, good)


def test_a_part_that_is_called_module_keeps_its_name(tmp_path):
    """Only where every name begins with it, it is a wrapper's."""
    good, model = (nn.ModuleDict({"module": network(seed=s), "head": nn.Linear(10, 2)}) for s in (1, 2))
    save_weights(good, tmp_path / "w.pt")
    load_weights(model, tmp_path / "w.pt")
    assert same_weights(model, good)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: prefixed("net.", state),
            r"lacks '1\.weight', '1\.bias' and 2 more names and has besides 'net\.1",
        ),
        (lambda state: {"state_dict": prefixed("net.", state)}, "has besides 'net"),
        (lambda state: state | {"1.weight": torch.zeros(5, 9)}, r"'1\.weight' has shape \(5, 9\) instead of \(5, 16\)"),
        (lambda state: {"model": state}, "does not hold tensors by name"),
        (lambda state: prefixed("module.", state) | {"extra": torch.zeros(1)}, r"has besides 'module\.1\.weight'"),
    ],
)
def test_the_difference_is_named(change, message, tmp_path):
    torch.save(change(network().state_dict()), tmp_path / "w.pt")
    with pytest.raises(ValueError, match=message):
        load_weights(network(), tmp_path / "w.pt")


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_weights(network(), tmp_path / "none.pt")


def test_a_file_in_the_older_format_is_read(tmp_path):
    """torch wrote it before 2020, and so are the weights that lie in packages."""
    state = network().state_dict()
    torch.save(state, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    assert all(torch.equal(value, state[name]) for name, value in load_state(tmp_path / "w.pt").items())
