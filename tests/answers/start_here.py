"""Answers to the exercise of chapter 00."""

import numpy as np
import torch

from answers import right, wrong
from course_utils import evaluation

# ---------------------------------------------------------------- largest_change


@right("largest_change")
def one_image_at_a_time(x, adv):
    return torch.stack([(after - before).abs().max() for before, after in zip(x, adv, strict=True)])


@right("largest_change")
def the_max_norm_of_linalg(x, adv):
    return torch.linalg.vector_norm(x - adv, ord=float("inf"), dim=(1, 2, 3))


@right("largest_change")
def brighter_or_darker(x, adv):
    change = (adv - x).reshape(len(x), -1)
    return torch.maximum(change.max(dim=1).values, -change.min(dim=1).values)


@right("largest_change")
def by_numpy(x, adv):
    change = np.abs(adv.detach().cpu().numpy() - x.detach().cpu().numpy())
    return torch.from_numpy(change.reshape(len(change), -1).max(axis=1)).to(x)


@wrong("largest_change", "only pixels that get brighter count", "changes of one sign only")
def without_the_absolute_value(x, adv):
    return (adv - x).flatten(1).max(dim=1).values


@wrong("largest_change", "the absolute value comes too late", "changes of one sign only")
def absolute_value_of_the_maximum(x, adv):
    return (adv - x).amax((1, 2, 3)).abs()


@wrong("largest_change", "one number for the whole batch", "largest change of the whole batch")
def of_the_batch(x, adv):
    return (adv - x).abs().max()


@wrong("largest_change", "the same number for every image", "largest change of the whole batch")
def of_the_batch_repeated(x, adv):
    return torch.full((len(x),), (adv - x).abs().max().item())


@wrong("largest_change", "the Euclidean norm", "Euclidean norm")
def length(x, adv):
    return torch.linalg.vector_norm(adv - x, dim=(1, 2, 3))


@wrong("largest_change", "the average of the sizes", "average or the median change")
def mean_size(x, adv):
    return (adv - x).abs().mean((1, 2, 3))


@wrong("largest_change", "the number of pixels that changed", "counts the pixels")
def how_many(x, adv):
    return (adv != x).flatten(1).sum(1).to(x.dtype)


@wrong("largest_change", "the sum over the pixels", "adds up the changes")
def total(x, adv):
    return (adv - x).abs().flatten(1).sum(1)


@wrong("largest_change", "the brightest pixels are compared, wherever they are", "which may be different ones")
def difference_of_the_maxima(x, adv):
    return (adv.amax((1, 2, 3)) - x.amax((1, 2, 3))).abs()


@wrong("largest_change", "maximum over the channels alone", "over one dimension of the tensor")
def over_the_channels(x, adv):
    return (adv - x).abs().max(dim=1).values


@wrong("largest_change", "maximum over the images instead of the pixels", "over the images, and get an entry")
def over_the_images(x, adv):
    return (adv - x).abs().flatten(1).amax(0)


@wrong("largest_change", "counted in levels of 255", "levels of 255")
def in_levels(x, adv):
    return (adv * 255 - x * 255).abs().flatten(1).amax(1)


@wrong("largest_change", "adv is overwritten with the change", "Whoever called you still needs the original")
def in_place(x, adv):
    return adv.sub_(x).abs_().flatten(1).amax(1)


@wrong("largest_change", "a Python list", "Return one tensor")
def as_a_list(x, adv):
    return [(b - a).abs().max().item() for a, b in zip(x, adv, strict=True)]


@wrong("largest_change", "relative to the image", "You divide by the image")
def relative(x, adv):
    return ((adv - x).abs() / x).flatten(1).amax(1)


@right("largest_change")
def amax_dims(x, adv):
    return (x - adv).abs().amax(dim=(1, 2, 3))


@right("largest_change")
def dist(x, adv):
    return torch.tensor([torch.dist(a, b, p=float("inf")).item() for a, b in zip(x, adv, strict=True)], dtype=x.dtype)


@wrong("largest_change", "only the first channel: right for grey images alone", "a part of the pixels only")
def first_channel(x, adv):
    return (adv - x)[:, 0].abs().flatten(1).amax(1)


@wrong("largest_change", "one number for each image and channel: (N, C)", "largest of each channel")
def per_channel(x, adv):
    return (adv - x).abs().amax((2, 3))


@wrong("largest_change", ".max(1) returns values and indices", "Take the first of them: .values")
def max_tuple(x, adv):
    return (adv - x).abs().flatten(1).max(1)


@wrong("largest_change", "(N, 1, 1, 1) in place of (N,)", "keepdim=True leaves")
def kept_dims(x, adv):
    return (adv - x).abs().amax((1, 2, 3), keepdim=True)


@wrong("largest_change", "largest minus smallest change", "from the smallest to the largest")
def largest_minus_smallest(x, adv):
    d = (adv - x).flatten(1)
    return d.amax(1) - d.amin(1)


@wrong("largest_change", "squeeze: a batch of one gives a number without a dimension", ".squeeze() also takes")
def squeezed(x, adv):
    return (adv - x).abs().flatten(1).amax(1).squeeze()


@wrong("largest_change", "784 pixels written into the code", "Do not write sizes such as 784")
def reshape_28(x, adv):
    return (adv - x).abs().view(-1, 784).amax(1)


@wrong("largest_change", "a constant", "for every image. Compute it from x and adv")
def a_tenth(x, adv):
    return torch.full((len(x),), 0.1)


@wrong("largest_change", "a number in place of a tensor", "one number for each image")
def a_plain_number(x, adv):
    return 0.1


@wrong("largest_change", "the course's function does the work", "leaves the work to course_utils.evaluation")
def of_the_library(x, adv):
    return evaluation.distances(x, adv, measure="linf")


@wrong("largest_change", "a change that leaves [0, 1] is cut off before it is measured", "You clip the images")
def clipped_first(x, adv):
    return (adv.clamp(0, 1) - x).abs().flatten(1).amax(1)


@wrong("largest_change", "the result is rounded", "You round the result")
def three_decimals(x, adv):
    return ((adv - x).abs().flatten(1).amax(1) * 1000).round() / 1000


@wrong("largest_change", "the channels of a pixel are put together", "channels together")
def length_over_channels(x, adv):
    return (adv - x).norm(dim=1).flatten(1).amax(1)


@wrong("largest_change", "a list instead of a tensor", "makes one of a list of numbers")
def a_list_of_numbers(x, adv):
    return [(after - before).abs().max().item() for before, after in zip(x, adv, strict=True)]
