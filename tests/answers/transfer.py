"""Answers to the exercises of chapter 05, by readers who had not seen the checks."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from answers import right, wrong

# ---------------------------------------------------------------- neighbour_step


def nearest(x, y, x_train, y_train, p=2.0, far=math.inf, view=lambda images: images.flatten(1)):
    """Return the nearest training image with another label, by the distance that the answer takes."""
    distance = torch.cdist(view(x), view(x_train), p=p)
    distance[y[:, None] == y_train] = far
    return x_train[distance.argmin(1)]


@right("neighbour_step")
def masked_distances(x, y, x_train, y_train, eps):
    distance = torch.cdist(x.flatten(1), x_train.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    distance = distance.masked_fill(y.unsqueeze(1) == y_train.unsqueeze(0), float("inf"))
    return x + (x_train[distance.argmin(dim=1)] - x).clamp(-eps, eps)


@right("neighbour_step")
def image_by_image_among_the_others(x, y, x_train, y_train, eps):
    moved = []
    for image, label in zip(x, y, strict=True):
        others = x_train[y_train != label]
        goal = others[((others - image) ** 2).flatten(1).sum(1).argmin()]
        moved.append(torch.minimum(torch.maximum(goal, image - eps), image + eps))
    return torch.stack(moved)


@right("neighbour_step")
def in_numpy(x, y, x_train, y_train, eps):
    a, b, labels = x.detach().cpu().numpy(), x_train.detach().cpu().numpy(), y_train.cpu().numpy()
    out = a.copy()
    for i, label in enumerate(y.tolist()):
        length = np.linalg.norm((b - a[i]).reshape(len(b), -1), axis=1)
        length[labels == label] = np.inf
        out[i] += np.clip(b[length.argmin()] - a[i], -eps, eps)
    return torch.from_numpy(out).to(x)


@right("neighbour_step")
def sorted_candidates_on_a_copy(x, y, x_train, y_train, eps):
    result = x.clone()
    for i in range(len(x)):
        order = (x_train - x[i]).flatten(1).norm(dim=1).argsort(stable=True).tolist()
        goal = x_train[next(j for j in order if int(y_train[j]) != int(y[i]))]
        up = goal > x[i]
        result[i][up] = torch.min(x[i] + eps, goal)[up]
        result[i][~up] = torch.max(x[i] - eps, goal)[~up]
    return result


@wrong("neighbour_step", "images with the same label are not left out", "You go to the nearest of all training images")
def nearest_of_all(x, y, x_train, y_train, eps):
    goal = x_train[torch.cdist(x.flatten(1), x_train.flatten(1)).argmin(1)]
    return x + (goal - x).clamp(-eps, eps)


@wrong(
    "neighbour_step",
    "the mask is the wrong way round: towards the nearest image with the same label",
    "You go to the nearest image with the same",
)
def mask_inverted(x, y, x_train, y_train, eps):
    distance = torch.cdist(x.flatten(1), x_train.flatten(1))
    distance[y[:, None] != y_train] = torch.inf
    return x + (x_train[distance.argmin(1)] - x).clamp(-eps, eps)


@wrong(
    "neighbour_step",
    "a whole step of eps overshoots pixels that are nearer than that",
    "Pixels overshoot the neighbour's: one that is",
)
def sign_step(x, y, x_train, y_train, eps):
    return (x + eps * torch.sign(nearest(x, y, x_train, y_train) - x)).clamp(0, 1)


@wrong(
    "neighbour_step",
    "the distance is the sum of absolute differences, not the Euclidean one",
    "You sum the absolute differences. The",
)
def city_block(x, y, x_train, y_train, eps):
    return x + (nearest(x, y, x_train, y_train, p=1.0) - x).clamp(-eps, eps)


@wrong(
    "neighbour_step",
    "the training images are sifted once for the whole batch, by the first label",
    "You use the label of the first image for all",
)
def sifted_by_the_first_label(x, y, x_train, y_train, eps):
    others = x_train[y_train != y[0]]
    goal = others[torch.cdist(x.flatten(1), others.flatten(1)).argmin(1)]
    return x + (goal - x).clamp(-eps, eps)


@wrong(
    "neighbour_step",
    "eps limits the length of the whole move, not each pixel",
    "You limit the Euclidean length of the change.",
)
def limited_by_length(x, y, x_train, y_train, eps):
    way = nearest(x, y, x_train, y_train) - x
    length = way.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
    return x + way * (eps / length).clamp(max=1)


@wrong("neighbour_step", "x itself is moved in place", "Whoever called you still needs the original")
def moved_in_place(x, y, x_train, y_train, eps):
    x += (nearest(x, y, x_train, y_train) - x).clamp(-eps, eps)
    return x


@wrong(
    "neighbour_step",
    "the change is limited upwards only, so pixels that get darker go all the way",
    "Clamp the change at both ends, from −eps to",
)
def limited_upwards_only(x, y, x_train, y_train, eps):
    return torch.min(x + eps, nearest(x, y, x_train, y_train))


@wrong(
    "neighbour_step",
    "the place among the sifted images is looked up among all of them",
    "The number from argmin counts among the",
)
def index_of_another_list(x, y, x_train, y_train, eps):
    out = torch.empty_like(x)
    for i in range(len(x)):
        others = x_train[y_train != y[i]]
        j = (others - x[i]).flatten(1).norm(dim=1).argmin()
        out[i] = x[i] + (x_train[j] - x[i]).clamp(-eps, eps)
    return out


@wrong("neighbour_step", "the distance looks at the first channel only", "You go to the first training image with")
def first_channel_only(x, y, x_train, y_train, eps):
    goal = nearest(x, y, x_train, y_train, view=lambda images: images[:, 0].flatten(1))
    return x + (goal - x).clamp(-eps, eps)


# ---------------------------------------------------------------- log_mean_probability


@right("log_mean_probability")
def logsumexp_of_a_stack(logits):
    return torch.stack([z.log_softmax(1) for z in logits]).logsumexp(0) - math.log(len(logits))


@right("log_mean_probability")
def logaddexp_one_by_one(logits):
    total = F.log_softmax(logits[0], dim=-1)
    for z in logits[1:]:
        total = torch.logaddexp(total, F.log_softmax(z, dim=-1))
    return total - math.log(len(logits))


@right("log_mean_probability")
def cross_entropy_of_every_class(logits):
    n, classes = logits[0].shape
    columns = []
    for k in range(classes):
        label = torch.full((n,), k, device=logits[0].device)
        losses = torch.stack([F.cross_entropy(z, label, reduction="none") for z in logits], dim=1)
        columns.append(torch.logsumexp(-losses - math.log(len(logits)), dim=1))
    return torch.stack(columns, dim=1)


@right("log_mean_probability")
def largest_taken_out_by_hand(logits):
    z = torch.stack(tuple(logits), dim=-1).double()
    z = z - z.amax(dim=1, keepdim=True)
    logs = z - z.exp().sum(dim=1, keepdim=True).log()
    top = logs.amax(dim=-1, keepdim=True)
    return ((logs - top).exp().mean(dim=-1).log() + top.squeeze(-1)).to(logits[0].dtype)


wrong("log_mean_probability", "the mean is taken over logits", "You average the logits. Each model's logits")(
    lambda logits: torch.stack(logits).mean(0).log_softmax(1)
)

wrong(
    "log_mean_probability",
    "the mean is taken over logarithms of probabilities",
    "You average the log-probabilities, which",
)(lambda logits: sum(z.log_softmax(1) for z in logits) / len(logits))

wrong(
    "log_mean_probability",
    "probabilities round to 0 before the logarithm, which is then -inf",
    "exp(−1000) rounds to 0, whose logarithm is",
)(lambda logits: torch.stack([z.softmax(1) for z in logits]).mean(0).log())


@wrong(
    "log_mean_probability",
    "a guard of 1e-12 lifts all smaller probabilities",
    "exp(−1000) rounds to 0, whose logarithm is",
)
def guarded_log(logits):
    return torch.stack([z.softmax(1) for z in logits]).mean(0).clamp_min(1e-12).log()


@wrong(
    "log_mean_probability",
    "it is the logarithm of the sum: the number of models is forgotten",
    "That is the logarithm of the sum. To divide",
)
def log_of_the_sum(logits):
    return torch.logsumexp(torch.stack([z.log_softmax(1) for z in logits]), 0)


@wrong(
    "log_mean_probability",
    "the softmax of the stack runs over the images, not over the classes",
    "Your softmax runs over the images. In (N, K)",
)
def softmax_over_the_batch(logits):
    return torch.stack(logits).log_softmax(1).logsumexp(0) - math.log(len(logits))


@wrong(
    "log_mean_probability",
    "the logarithm of the sum is divided by the number of models",
    "Divide inside the logarithm: there a division",
)
def divided_outside_the_log(logits):
    return torch.stack([z.log_softmax(1) for z in logits]).logsumexp(0) / len(logits)


@wrong(
    "log_mean_probability",
    "one largest logit is taken out of the whole batch, so other images lose all their exp",
    "exp(−1000) rounds to 0, whose logarithm is",
)
def one_maximum_for_the_batch(logits):
    shifted = [z - z.max() for z in logits]
    logs = [z - z.exp().sum(1, keepdim=True).log() for z in shifted]
    return torch.logsumexp(torch.stack(logs), 0) - math.log(len(logits))


@wrong(
    "log_mean_probability",
    "the last model has the weight 1/2, however many there are",
    "Each model's logits become probabilities by",
)
def mean_of_mean_and_next(logits):
    so_far, *rest = [z.log_softmax(1) for z in logits]
    for logs in rest:
        so_far = torch.logaddexp(so_far, logs) - math.log(2)
    return so_far


@wrong("log_mean_probability", "the caller's list is emptied", "Go through it with for … in logits: append")
def pops_from_the_list(logits):
    n, total = len(logits), logits.pop(0).log_softmax(1)
    while logits:
        total = torch.logaddexp(total, logits.pop(0).log_softmax(1))
    return total - math.log(n)


# ---------------------------------------------------------------- jacobian_augment


def label_logit(logits, labels):
    return logits.gather(1, labels[:, None])


def score_gradient(model, x, labels, score=label_logit):
    """Return the gradient of the summed scores with respect to the images."""
    points = x.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(score(model(points), labels).sum(), points)
    return gradient


@right("jacobian_augment")
def gather_and_grad(model, x, labels, lam):
    points = x.detach().clone().requires_grad_()
    picked = model(points).gather(1, labels.view(-1, 1)).sum()
    return (x + lam * torch.autograd.grad(picked, points)[0].sign()).clamp(0, 1).detach()


@right("jacobian_augment")
def one_point_at_a_time(model, x, labels, lam):
    new = []
    for image, label in zip(x.detach().split(1), labels.tolist(), strict=True):
        image = image.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(model(image)[0, label], image)
        new.append(torch.clip(image.detach() + lam * torch.sign(slope), 0, 1))
    return torch.cat(new)


@right("jacobian_augment")
def backward_to_the_images_only(model, x, labels, lam):
    leaf = x.detach().clone().requires_grad_()
    logits = model(leaf)
    chosen = torch.zeros_like(logits)
    chosen[torch.arange(len(labels)), labels] = 1
    logits.backward(chosen, inputs=[leaf])
    with torch.no_grad():
        return leaf.add(leaf.grad.sign(), alpha=lam).clamp_(0, 1)


@right("jacobian_augment")
def vector_jacobian_product_and_numpy(model, x, labels, lam):
    def picked(images):
        return model(images)[range(len(labels)), labels]

    _, slope = torch.autograd.functional.vjp(picked, x.detach(), torch.ones(len(x), device=x.device, dtype=x.dtype))
    moved = x.detach().cpu().numpy() + lam * np.sign(slope.cpu().numpy())
    return torch.from_numpy(np.clip(moved, 0, 1)).to(x)


@wrong("jacobian_augment", "the gradient is that of the cross-entropy", "You differentiate the cross-entropy or the")
def of_the_loss(model, x, labels, lam):
    return (x + lam * score_gradient(model, x, labels, F.cross_entropy).sign()).clamp(0, 1)


@wrong(
    "jacobian_augment", "the gradient is that of the label's probability", "You differentiate the cross-entropy or the"
)
def of_the_probability(model, x, labels, lam):
    slope = score_gradient(model, x, labels, lambda logits, k: label_logit(logits.softmax(1), k))
    return (x + lam * slope.sign()).clamp(0, 1)


@wrong(
    "jacobian_augment",
    "the gradient is that of the model's own highest logit, not of the black box's label",
    "You use the model's own prediction. Use the",
)
def of_the_highest_logit(model, x, labels, lam):
    return (x + lam * score_gradient(model, x, labels, lambda logits, _: logits.amax(1)).sign()).clamp(0, 1)


@wrong("jacobian_augment", "the old points are returned as well", "Return the new points only, one for each of")
def old_and_new_points(model, x, labels, lam):
    return torch.cat([x, (x + lam * score_gradient(model, x, labels).sign()).clamp(0, 1)])


@wrong(
    "jacobian_augment", "the points are clipped above 1 but not below 0", "The new points leave [0, 1]: clip them, at"
)
def clipped_at_one_only(model, x, labels, lam):
    return (x + lam * score_gradient(model, x, labels).sign()).clamp(max=1)


@wrong("jacobian_augment", "backward leaves gradients on the weights", "loss.backward() adds to every p.grad, and the")
def backward_through_the_weights(model, x, labels, lam):
    points = x.detach().clone().requires_grad_()
    model(points)[torch.arange(len(x)), labels].sum().backward()
    return (x + lam * points.grad.sign()).clamp(0, 1)


@wrong(
    "jacobian_augment",
    "[:, labels] picks the logits of all labels for every image",
    "model(x)[:, labels] picks the logits of all",
)
def every_label_for_every_image(model, x, labels, lam):
    return (x + lam * score_gradient(model, x, labels, lambda logits, k: logits[:, k]).sign()).clamp(0, 1)


@wrong(
    "jacobian_augment",
    "the step is clipped in the place of the point, so nothing moves down",
    "Every step down is lost: clip the new point",
)
def clips_the_step(model, x, labels, lam):
    return x + (lam * score_gradient(model, x, labels).sign()).clamp(0, 1)


@wrong(
    "jacobian_augment",
    "a sign made by dividing by |gradient| + 1e-6 takes a part of the step where gradients are tiny",
    "You divide the gradient by its absolute value",
)
def sign_by_division(model, x, labels, lam):
    gradient = score_gradient(model, x, labels)
    return (x + lam * gradient / (gradient.abs() + 1e-6)).clamp(0, 1)


@wrong("jacobian_augment", "a negative lam is taken as positive", "lam may be negative, and then the step goes")
def size_of_lam(model, x, labels, lam):
    return torch.clamp(x + abs(lam) * torch.sign(score_gradient(model, x, labels)), 0, 1)


# ---------------------------------------------------------------- momentum_fgsm


def loss_gradient(model, x, y):
    x = x.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)
    return gradient


def size(gradient):
    """Return the mean absolute value of each image's gradient, kept away from zero."""
    return gradient.abs().mean(dim=(1, 2, 3), keepdim=True).clamp_min(torch.finfo(gradient.dtype).tiny)


def walk(model, x, y, step, steps, decay, size=size, share=1.0, clip=True):
    """Return x after some steps along the momentum; the arguments by name are where answers differ."""
    adv, momentum = x.detach().clone(), torch.zeros_like(x)
    for _ in range(steps):
        gradient = loss_gradient(model, adv, y)
        momentum = decay * momentum + share * gradient / size(gradient)
        adv = adv + step * momentum.sign()
        if clip:
            adv = adv.clamp(0, 1)
    return adv.clamp(0, 1)


@right("momentum_fgsm")
def nothing_where_the_gradient_is_zero(model, x, y, eps, steps, decay):
    adv, momentum = x.detach(), torch.zeros_like(x)
    for _ in range(steps):
        adv = adv.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(adv), y, reduction="sum"), adv)
        scale = gradient.abs().mean(dim=(1, 2, 3), keepdim=True)
        momentum = decay * momentum + torch.where(scale > 0, gradient / scale, 0)
        adv = (adv.detach() + eps / steps * momentum.sign()).clamp(0, 1)
    return adv


@right("momentum_fgsm")
def one_image_after_another(model, x, y, eps, steps, decay):
    finished = []
    for i in range(len(x)):
        image, memory = x[i : i + 1].detach().clone(), 0
        for _ in range(steps):
            image.requires_grad_(True)
            image.grad = None
            F.cross_entropy(model(image), y[i : i + 1]).backward(inputs=[image])
            memory = decay * memory + (image.grad / image.grad.abs().mean()).nan_to_num(0.0)
            image = (image.detach() + torch.sign(memory) * (eps / steps)).clamp(0, 1)
        finished.append(image)
    return torch.cat(finished)


@right("momentum_fgsm")
def momentum_in_numpy(model, x, y, eps, steps, decay):
    momentum, adv = np.zeros(x.shape), x.detach().clone()
    for _ in range(steps):
        g = loss_gradient(model, adv, y).cpu().numpy().astype(np.float64)
        for i, part in enumerate(g):
            average = np.abs(part).mean()
            momentum[i] = decay * momentum[i] + (part / average if average > 0 else 0)
        adv.add_(torch.from_numpy(np.sign(momentum)).to(adv), alpha=eps / steps).clamp_(0, 1)
    return adv


@right("momentum_fgsm")
def paper_with_the_sum(model, x, y, eps, steps, decay):
    delta, momentum = torch.zeros_like(x), torch.zeros_like(x)
    for _ in range(steps):
        point = (x + delta).detach()
        slope = torch.autograd.functional.jacobian(lambda p: -model(p).log_softmax(1)[range(len(y)), y].sum(), point)
        momentum = momentum.mul_(decay) + F.normalize(slope.flatten(1), p=1, eps=1e-37).view_as(x)
        delta = (point + eps / steps * momentum.sign()).clamp(0, 1) - x
    return (x + delta).detach().clamp(0, 1)


wrong("momentum_fgsm", "the mean is taken over the whole batch", "You divide by one number for the whole batch.")(
    lambda model, x, y, eps, steps, decay: walk(
        model, x, y, eps / steps, steps, decay, lambda g: g.abs().mean().clamp_min(1e-37)
    )
)

wrong(
    "momentum_fgsm",
    "every step has the size eps, so the result goes farther",
    "Every step has the size eps / steps, so that",
)(lambda model, x, y, eps, steps, decay: walk(model, x, y, eps, steps, decay))

wrong(
    "momentum_fgsm",
    "the new gradient has the weight 1 - decay, so with decay = 1 nothing moves",
    "That is a moving average. Here the new",
)(lambda model, x, y, eps, steps, decay: walk(model, x, y, eps / steps, steps, decay, share=1 - decay))

wrong("momentum_fgsm", "it clips only at the end", "You clip to [0, 1] only after the last step.")(
    lambda model, x, y, eps, steps, decay: walk(model, x, y, eps / steps, steps, decay, clip=False)
)

wrong("momentum_fgsm", "the gradient is divided by its Euclidean length", "You divide by the Euclidean length. Divide")(
    lambda model, x, y, eps, steps, decay: walk(
        model, x, y, eps / steps, steps, decay, lambda g: g.flatten(1).norm(dim=1).clamp_min(1e-37).view(-1, 1, 1, 1)
    )
)

wrong("momentum_fgsm", "an image with a zero gradient becomes NaN", "Where the gradient is 0, 0/0 makes the")(
    lambda model, x, y, eps, steps, decay: walk(
        model, x, y, eps / steps, steps, decay, lambda g: g.abs().mean(dim=(1, 2, 3), keepdim=True)
    )
)

wrong(
    "momentum_fgsm",
    "1e-6 is added to the mean, so small gradients count less than large ones",
    "Guard the division by something tiny only",
)(
    lambda model, x, y, eps, steps, decay: walk(
        model, x, y, eps / steps, steps, decay, lambda g: g.abs().mean(dim=(1, 2, 3), keepdim=True) + 1e-6
    )
)


@wrong(
    "momentum_fgsm",
    "the momentum is set to zero inside the loop, so nothing is remembered",
    "There is no momentum in it: each step forgets",
)
def forgets_in_every_step(model, x, y, eps, steps, decay):
    adv = x.clone()
    for _ in range(steps):
        momentum = torch.zeros_like(x)
        gradient = loss_gradient(model, adv, y)
        momentum = decay * momentum + gradient / size(gradient)
        adv = (adv + eps / steps * momentum.sign()).clamp(0, 1)
    return adv


@wrong(
    "momentum_fgsm",
    "each step follows the momentum of the step before, so the first one goes nowhere",
    "You take the step before you update the",
)
def one_step_late(model, x, y, eps, steps, decay):
    adv, momentum = x.clone(), torch.zeros_like(x)
    for _ in range(steps):
        gradient = loss_gradient(model, adv, y)
        adv = (adv + eps / steps * momentum.sign()).clamp(0, 1)
        momentum = decay * momentum + gradient / size(gradient)
    return adv


@wrong("momentum_fgsm", "it stops as soon as all images fool the model", "You end the loop as soon as the model is")
def stops_when_all_are_fooled(model, x, y, eps, steps, decay):
    adv, momentum = x.clone(), torch.zeros_like(x)
    for _ in range(steps):
        if (model(adv).argmax(1) != y).all():
            break
        gradient = loss_gradient(model, adv, y)
        momentum = decay * momentum + gradient / size(gradient)
        adv = (adv + eps / steps * momentum.sign()).clamp(0, 1)
    return adv
