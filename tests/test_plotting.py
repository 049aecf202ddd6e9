import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from course_utils import plotting
from course_utils.plotting import figures


def pixels(fig):
    return np.asarray(Image.open(io.BytesIO(figures.to_png(fig))).convert("RGB"))


def test_show_displays_one_png_with_its_alt_text(displayed):
    fig, ax = plotting.figure()
    plotting.line(ax, [0, 1], [0, 1], "a", low=[0, 0], high=[1, 2])
    plotting.show(fig, "A rising line.")
    ((data, metadata),) = displayed
    assert metadata["image/png"]["alt"] == "A rising line."
    assert Image.open(io.BytesIO(data["image/png"])).format == "PNG"


def test_show_refuses_a_figure_without_alt_text():
    fig, _ = plotting.figure()
    with pytest.raises(ValueError, match="alt text"):
        plotting.show(fig, " ")


def test_no_figure_is_left_in_pyplot():
    before = plt.get_fignums()
    figures.to_png(plotting.image_grid(torch.rand(3, 1, 5, 5)))
    assert plt.get_fignums() == before


def test_lines_differ_in_more_than_colour():
    _, ax = plotting.figure()
    for i in range(len(plotting.COLOURS)):
        plotting.line(ax, [0, 1], [i, i], str(i))
    styles = {(line.get_linestyle(), line.get_marker()) for line in ax.lines}
    assert len(styles) == len(plotting.COLOURS)


def test_curves_are_drawn_over_one_axis_and_of_one_length():
    fig = plotting.curves([0, 1, 2], {"a": [1, 2, 3], "b": [3, 2, 1]}, xlabel="steps", ylim=(0, 4))
    (ax,) = fig.axes
    assert [line.get_ydata().tolist() for line in ax.lines] == [[1, 2, 3], [3, 2, 1]]
    assert (ax.get_xlabel(), ax.get_ylim()) == ("steps", (0, 4))
    with pytest.raises(ValueError, match="3 values"):
        plotting.curves([0, 1, 2], {"a": [1, 2]})
    with pytest.raises(ValueError, match="none"):
        plotting.curves([0, 1, 2], {})


def test_signed_images_have_white_at_zero_and_symmetric_limits():
    _, ax = plotting.figure()
    plotting.show_image(ax, torch.tensor([[[-0.1, 0.0], [0.3, 0.0]]]), signed=True)
    low, high = ax.images[0].get_clim()
    assert (low, high) == pytest.approx((-0.3, 0.3))


def test_signed_images_of_zeros_do_not_fail():
    _, ax = plotting.figure()
    plotting.show_image(ax, torch.zeros(1, 2, 2), signed=True)
    assert ax.images[0].get_clim() == (-1, 1)


def test_grid_has_a_cell_for_each_image_and_refuses_none():
    fig = plotting.image_grid(torch.rand(5, 1, 4, 4), [str(i) for i in range(5)], columns=3)
    assert sum(bool(ax.images) for ax in fig.axes) == 5
    with pytest.raises(ValueError, match="at least one image"):
        plotting.image_grid(torch.rand(0, 1, 4, 4))


@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 6, 6), (6, 6)])
def test_grey_colour_and_bare_images(shape):
    _, ax = plotting.figure()
    plotting.show_image(ax, torch.rand(shape))
    assert ax.images[0].get_array().shape[:2] == (6, 6)


def test_bars_are_sorted_cut_and_mark_the_true_class_without_colour():
    fig, ax = plotting.figure()
    plotting.class_bars(ax, torch.tensor([0.1, 0.6, 0.3]), true=2, top=2)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["1", "2"]
    hatches = [bar.get_hatch() for bar in ax.patches]
    assert hatches[0] is None
    assert hatches[1]
    fig_without, ax = plotting.figure()
    plotting.class_bars(ax, torch.tensor([0.1, 0.6, 0.3]), true=0, top=2)
    assert not np.array_equal(pixels(fig), pixels(fig_without))


def test_heatmap_shows_every_share_and_leaves_gaps_empty():
    _, ax = plotting.figure()
    plotting.heatmap(ax, [[0.1, 1.0], [float("nan"), 0.55]], ["a", "b"], ["cnn", "mlp"])
    assert sorted(text.get_text() for text in ax.texts) == ["10", "100", "55"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["cnn", "mlp"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]
    with pytest.raises(ValueError, match="shape"):
        plotting.heatmap(ax, [[0.1, 1.0]], ["a", "b"], ["cnn", "mlp"])


def small_line():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    torch.nn.init.constant_(model[1].bias, 0.0)
    model[1].weight.data = torch.tensor([[-1.0, 2.0, 0.0, 0.5], [1.0, -2.0, 0.0, -0.5]])
    return model


def test_two_pixel_paths_end_in_the_corner_that_lies_uphill():
    image = torch.tensor(
        [[[0.8, 0.2], [0.5, 0.9]]]
    )  # the loss of class 0 rises with the first pixel, falls with the second
    ax = plotting.two_pixel_paths(small_line(), image, 0, radius=0.3, step_size=0.1).axes[0]
    paths = {drawn.get_label(): drawn.get_xydata() for drawn in ax.lines}
    ends = {name: points[-1].tolist() for name, points in paths.items()}
    assert ends["projected path"] == pytest.approx(
        [0.0, 1.0]
    )  # the box cuts the ball; the second pixel is the first axis
    assert ends["free path"] == pytest.approx([0.5 - 0.8, 0.5 + 0.8])
    assert paths["projected path"][0].tolist() == pytest.approx([0.5, 0.5])


def test_two_pixel_paths_need_two_pixels_near_an_end():
    with pytest.raises(ValueError, match="two pixels nearer to 0 or 1"):
        plotting.two_pixel_paths(small_line(), torch.full((1, 2, 2), 0.5), 0, radius=0.3, step_size=0.1)


def test_class_curves_show_the_true_class_alone_in_colour():
    z = torch.arange(8.0).view(4, 2)
    fig = plotting.class_curves(range(4), {"one": z, "other": -z}, true=1, xlabel="t")
    assert [ax.get_title() for ax in fig.axes] == ["one", "other"]
    for ax, values in zip(fig.axes, (z, -z), strict=True):
        *others, true = ax.lines
        assert list(true.get_ydata()) == values[:, 1].tolist()
        assert true.get_linewidth() > max(each.get_linewidth() for each in others)
        assert true.get_color() not in {each.get_color() for each in others}


@pytest.mark.parametrize(("logits", "true"), [({}, 0), ({"a": torch.ones(3, 2)}, 0), ({"a": torch.ones(4, 2)}, 2)])
def test_class_curves_refuse_what_does_not_fit(logits, true):
    with pytest.raises(ValueError, match="expected logits of shape"):
        plotting.class_curves(range(4), logits, true=true)


@pytest.mark.parametrize("channels", [1, 3])
def test_changes_show_each_image_above_its_change_on_one_scale(channels):
    x = torch.full((3, channels, 4, 4), 0.5)
    adv = x + torch.tensor([0.1, -0.3, 0.2]).view(3, 1, 1, 1)
    fig = plotting.changes(x, adv, ["a", "b", "c"])
    upper, lower = fig.axes[:3], fig.axes[3:]
    assert [ax.get_title() for ax in upper] == ["a", "b", "c"]
    assert lower[1].get_title() == "−0.30 to −0.30"
    assert all(ax.images[0].get_clim() == pytest.approx((-0.3, 0.3)) for ax in lower)


@pytest.mark.parametrize(
    ("x", "adv"), [(torch.ones(0, 1, 4, 4),) * 2, (torch.ones(2, 1, 4, 4), torch.ones(3, 1, 4, 4))]
)
def test_changes_refuse_images_without_a_partner(x, adv):
    with pytest.raises(ValueError, match="before and after"):
        plotting.changes(x, adv)
