"""The exercise of chapter 00: how far an image was changed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .. import evaluation
from . import inputs, mistakes
from .engine import expect
from .exercise import Case, Exercise
from .mistakes import Function, Mistake
from .properties import as_tensor, as_tensor_like, call_with_copies

# --- largest_change ---------------------------------------------------------------------------------------------------


def _largest_change(x: Tensor, adv: Tensor) -> Tensor:
    return (adv - x).abs().flatten(1).amax(1)


def _pair(n: int, shape: tuple[int, ...], still: int = 0, low: float = 0.4) -> tuple[Tensor, Tensor]:
    """Return n images and changed ones, each by an amount of its own; the first `still` are not changed.

    Of every two images that are changed, one has its largest change in a pixel that gets darker. Pixels begin between
    `low` and `low` + 0.2.
    """
    generator = torch.Generator().manual_seed(n)
    x = low + 0.2 * torch.rand(n, *shape, generator=generator)
    change = 0.2 * torch.rand(n, *shape, generator=generator) - 0.1
    for i in range(n):
        change[i].flatten()[(20 * i + 3) % change[i].numel()] = (0.2037 + 0.0113 * i) * (-1) ** i
    change[:still] = 0
    return x, x + change


def _one_for_each_image(answer: Function, x: Tensor, adv: Tensor) -> Tensor:
    """Return the sizes (N,) that the answer gives."""
    value = as_tensor(call_with_copies(answer, x, adv), "Return a torch tensor with one number for each image, (N,).")
    what = (
        f"for {len(x)} image{'s' * (len(x) > 1)} your result has the shape {tuple(value.shape)}, right is ({len(x)},)."
    )
    hint = "Look for the largest over all pixels of one image: its channels, its rows and its columns. Of each image one number is left."
    expect(value.shape == x.shape[:1], what, hint)
    return as_tensor_like(value, x[:, 0, 0, 0])


def _constant(got: Tensor, right: Tensor, *_: Tensor) -> str:
    same = len(got.unique()) == 1 < len(right.unique())
    return f"Your result is {got[0]:.3g} for every image. Compute it from x and adv." if same else ""


def _of_change(measure: Callable[[Tensor], Tensor]) -> Function:
    """Return a function of x and adv that measures the change (N, pixels)."""
    return lambda x, adv: measure((adv - x).flatten(1))


Exercise(
    "largest_change",
    reference=_largest_change,
    cases=[
        Case("gives the largest change of any pixel, for each image", [partial(_pair, 4, inputs.SHAPE)], "Subtract, take the sizes of the differences, and look for the largest one in each image."),
        Case("counts a change to a value outside [0, 1] as it is", [partial(_pair, 4, inputs.SHAPE, low=low) for low in (0.0, 0.8)], "Measure the images as they come: a change that leaves [0, 1] is what you want to find out about."),
        Case("copes with colours, other sizes, and images that did not change", [partial(_pair, 5, inputs.OTHER_SHAPE, 2), partial(_pair, 1, (1, 1, 40))], mistakes.ONLY_ARGUMENTS.format("the number of images and their shape")),
    ],
    mistakes=[
        Mistake("You look at changes of one sign only. A pixel that gets darker has changed just as much as one that gets brighter: take the sizes before you look for the largest.", _of_change(lambda d: d.amax(1)), _of_change(lambda d: -d.amin(1)), _of_change(lambda d: d.amax(1).abs()), _of_change(lambda d: d.amin(1).abs()), _of_change(lambda d: d.amin(1)), _of_change(lambda d: d.relu().amax(1))),
        Mistake("That is the average or the median change. The max norm asks for the pixel that changed the most.", _of_change(lambda d: d.abs().mean(1)), _of_change(lambda d: d.abs().median(1).values)),
        Mistake("That is the Euclidean norm, the length of the whole change. Here the largest pixel alone counts.", _of_change(lambda d: d.norm(dim=1)), _of_change(lambda d: d.square().sum(1))),
        Mistake("That is the root mean square or the standard deviation of the change. Here the largest pixel alone counts.", _of_change(lambda d: d.square().mean(1).sqrt()), _of_change(lambda d: d.std(1)), _of_change(lambda d: d.square().mean(1))),
        Mistake("That adds up the changes of all pixels. Look for the largest of them.", _of_change(lambda d: d.abs().sum(1)), _of_change(lambda d: d.sum(1).abs()), _of_change(lambda d: d.sum(1))),
        Mistake("That counts the pixels that changed. Here it matters how far they changed.", _of_change(lambda d: (d != 0).float().sum(1)), _of_change(lambda d: (d != 0).float().mean(1))),
        Mistake(".squeeze() also takes the dimension of the images away when there is one image. Leave it out: no dimension of size 1 is left over when you look for the largest over all pixels at once.", _of_change(lambda d: d.abs().amax(1).squeeze())),
        Mistake("keepdim=True leaves dimensions of size 1 behind. Leave it out: the result has one dimension, that of the images.", lambda x, adv: (adv - x).abs().amax((1, 2, 3), keepdim=True), _of_change(lambda d: d.abs().amax(1, keepdim=True))),
        Mistake("You look for the largest of each channel. An image has one largest change, over all of its channels: flatten channels, rows and columns into one dimension.", lambda x, adv: (adv - x).abs().amax((2, 3)), lambda x, adv: (adv - x).abs().amax((2, 3)).squeeze()),
        Mistake("That is the largest change of the whole batch. Each image has a largest change of its own.", _of_change(lambda d: d.abs().amax().repeat(len(d))), _of_change(lambda d: d.abs().amax()), _of_change(lambda d: d.amax())),
        Mistake("That is the smallest change. Look for the largest.", _of_change(lambda d: d.abs().amin(1))),
        Mistake("That is the brightest or darkest pixel of an image. Look at the difference of the two images.", lambda x, adv: adv.flatten(1).amax(1), lambda x, adv: adv.abs().flatten(1).amin(1), lambda x, adv: x.flatten(1).amax(1)),
        Mistake("You compare the largest pixels of the two images, which may be different ones. Subtract first, pixel by pixel.", lambda x, adv: (adv.flatten(1).amax(1) - x.flatten(1).amax(1)).abs(), lambda x, adv: adv.flatten(1).amax(1) - x.flatten(1).amax(1), lambda x, adv: (adv.flatten(1).amin(1) - x.flatten(1).amin(1)).abs()),
        Mistake("That is the distance from the smallest to the largest change. A change is measured from 0.", _of_change(lambda d: d.amax(1) - d.amin(1)), _of_change(lambda d: (d.amax(1) - d.amin(1)) / 2)),
        Mistake("You count in levels of 255. In this course pixels, and the sizes of changes, are between 0 and 1.", _of_change(lambda d: 255 * d.abs().amax(1)), _of_change(lambda d: d.abs().amax(1) / 255)),
        Mistake("You divide by the image. The size of a change does not depend on how bright a pixel was.", lambda x, adv: ((adv - x) / x).abs().flatten(1).amax(1), lambda x, adv: ((adv - x) / adv).abs().flatten(1).amax(1)),
        Mistake("You clip the images before you measure, and no longer see a change that leaves [0, 1].", lambda x, adv: _largest_change(x, adv.clamp(0, 1)), lambda x, adv: _largest_change(x, adv).clamp(max=0.2)),
        Mistake("You round the result. Return it as it is.", *(lambda x, adv, k=k: _largest_change(x, adv).round(decimals=k) for k in (2, 3)), lambda x, adv: (255 * _largest_change(x, adv)).round() / 255, lambda x, adv: _largest_change(x.half(), adv.half()).float()),
        Mistake("You put an image's channels together before you look for the largest change. Each value of each channel is a pixel value of its own.", *(lambda x, adv, together=together: together(adv - x).flatten(1).amax(1) for together in (lambda d: d.abs().sum(1), lambda d: d.abs().mean(1), lambda d: d.norm(dim=1), lambda d: d.sum(1).abs(), lambda d: d.mean(1).abs()))),
        Mistake("You square the change. Its size is what .abs() gives.", _of_change(lambda d: d.square().amax(1))),
        Mistake("You take the largest over a part of the pixels only: over one row, one column or one channel of the image.", lambda x, adv: (adv - x)[:, 0].abs().flatten(1).amax(1), lambda x, adv: (adv - x).abs()[:, :, 0].flatten(1).amax(1), lambda x, adv: (adv - x).abs()[..., 0].flatten(1).amax(1)),
        Mistake("You look for the largest over one dimension of the tensor. An image has three: channels, rows and columns. Flatten them into one first.", lambda x, adv: (adv - x).abs().amax(1), lambda x, adv: (adv - x).abs().amax(-1)),
        Mistake("You look for the largest over the images, and get an entry for each pixel. Look over the pixels of each image.", lambda x, adv: (adv - x).abs().amax(0), lambda x, adv: (adv - x).abs().flatten(1).amax(0)),
        Mistake("That is the place of the pixel, not the size of its change.", _of_change(lambda d: d.abs().argmax(1)), _of_change(lambda d: d.abs().argmax(1).float())),
    ],
    batched=("x", "adv"),
    untouched=("x", "adv"),
    typical=partial(_pair, 4, inputs.OTHER_SHAPE),
    returns="one number for each image",
    observe=_one_for_each_image,
    explain=_constant,
    library=(evaluation.distances,),
    tolerance=5e-5,  # of answers that count in levels of 255, too
).register()  # fmt: skip
