"""Files of weights: what is kept, what is refused, and that nothing half-read stays."""

import pickle

import pytest
import torch
from conftest import network, same_weights
from torch import nn

from course_utils.weights import load_state, load_weights, save_weights


def test_weights_survive_a_round_trip(tmp_path):
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
    with pytest.raises(ValueError, match=r"w\.pt is damaged or of another network .*delete it to train anew"):
        load_weights(network(), tmp_path / "w.pt")


@pytest.mark.parametrize("saved", [[1, 2], {"0": "text"}, {}, network(6).state_dict(), nn.Linear(3, 2).state_dict()])
def test_other_networks_weights_are_refused_and_change_nothing(saved, tmp_path):
    torch.save(saved, tmp_path / "w.pt")
    model = network(5)
    with pytest.raises(ValueError, match="damaged or of another network"):
        load_weights(model, tmp_path / "w.pt")
    assert same_weights(model, network(5))


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_weights(network(), tmp_path / "none.pt")


def test_a_file_in_the_older_format_is_read(tmp_path):
    """torch wrote it before 2020, and so are the weights that lie in packages."""
    state = network().state_dict()
    torch.save(state, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    assert all(torch.equal(value, state[name]) for name, value in load_state(tmp_path / "w.pt").items())
