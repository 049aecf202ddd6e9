"""What the exercises of chapters 10 and 11 are tried on, and what no comparison with their references tells."""

import pytest
import torch
from conftest import assert_passes, with_noise

from course_utils import attacks
from course_utils.attacks import jpeg
from course_utils.exercises import inputs, photographs
from course_utils.exercises.properties import call_with_copies


def test_the_network_takes_pixels_and_normalises_inside():
    """It answers as the network without normalisation does, for which its weights make up."""
    model, x, _ = photographs._pictures()
    plain = inputs.unsaturated_network(*photographs.SIZES, photographs.SEED)
    assert torch.equal(x, attacks.quantise(x))
    torch.testing.assert_close(model(x), plain(x), rtol=1e-4, atol=1e-4)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(model[0](x), (x - mean) / std)


@pytest.mark.parametrize(("name", "go"), [("fgsm_in_levels", photographs._fgsm), ("targeted_step", photographs._aimed)])
def test_rounding_decides_nothing(name, go):
    def disturbed(g):
        with torch.random.fork_rng():
            return (with_noise(g) * (g != 0)).sign()

    assert_passes(name, go(move=disturbed))


def test_the_views_do_not_depend_on_the_order():
    _, x, *_ = photographs._expectations(3, 1)
    at_once, one_by_one = photographs._Camera(x), photographs._Camera(x)
    together = at_once(x.repeat(2, 1, 1, 1))
    apart = [one_by_one(x[i : i + 1]) for i in (2, 2, 0, 1, 0, 1)]
    assert torch.equal(together, torch.cat([apart[k] for k in (2, 3, 0, 4, 5, 1)]))
    assert not any(torch.equal(together[i], together[i + 3]) for i in range(3))
    assert at_once.views == one_by_one.views == [2, 2, 2]
    assert at_once.strangers == 0
    at_once(together)
    assert at_once.strangers == 6


@pytest.mark.parametrize(("sizes", "eps"), [(((3, 32, 32), 4), 4 / 255), (((3, 40, 24), 3), 5 / 255)])
def test_jpeg_tells_the_attacks_apart(sizes, eps):
    """The network reads its pictures rightly, before and after JPEG; only steps through JPEG fool it there."""
    task = model, x, y, eps = photographs._shapes(8, sizes, eps)

    def fooled(attack):
        return photographs._fooled(model, jpeg(call_with_copies(attack, *task)), y) / len(x)

    assert photographs._fooled(model, x, y) == photographs._fooled(model, jpeg(x), y) == 0
    assert photographs._fooled(model, attacks.pgd(*task), y) == len(x)
    assert fooled(attacks.pgd) <= 0.25
    assert fooled(attacks.fgsm) <= 0.25
    assert fooled(photographs._behind(steps=1, size=1.0)) <= 0.5
    assert fooled(photographs._behind()) == 1
