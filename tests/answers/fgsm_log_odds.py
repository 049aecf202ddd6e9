"""Answers to `log_odds` by a reader who had not seen the check."""

import torch
import torch.nn.functional as F

from answers import right, wrong
from course_utils.attacks.gradients import adversarial_loss


@wrong("log_odds", "the best wrong logit in place of the logarithm of the sum", "That is the margin")
def margin(logits, y):
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.amax(1) - logits.gather(1, y[:, None]).squeeze(1)


@wrong("log_odds", "the sum runs over y too: that is the cross-entropy", "That is the cross-entropy L")
def cross_entropy(logits, y):
    return logits.logsumexp(1) - logits.gather(1, y[:, None]).squeeze(1)


@wrong("log_odds", "the definition in probabilities: 1 − p rounds to 0", "A probability has rounded")
def probabilities(logits, y):
    p = logits.softmax(1).gather(1, y[:, None]).squeeze(1)
    return torch.log((1 - p) / p)


@wrong("log_odds", "the odds for y, not against it", "Your sign is turned round")
def sign(logits, y):
    others = logits.scatter(1, y[:, None], -torch.inf)
    return logits.gather(1, y[:, None]).squeeze(1) - others.logsumexp(1)


@wrong("log_odds", "mean of the exponentials in place of their sum", "You take the mean of the exponentials")
def log_mean_exp(logits, y):
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.exp().mean(1).log() - logits.gather(1, y[:, None]).squeeze(1)


@wrong("log_odds", "L = log(1 + exp(m)) in place of m", "without log(1 + …) around it")
def softplus(logits, y):
    others = logits.scatter(1, y[:, None], -torch.inf)
    return F.softplus(others.logsumexp(1) - logits.gather(1, y[:, None]).squeeze(1))


@wrong("log_odds", "exponentials without logsumexp: they overflow", "torch.logsumexp takes care")
def naive_exp(logits, y):
    e = logits.exp()
    own = e.gather(1, y[:, None]).squeeze(1)
    return (e.scatter(1, y[:, None], 0.0).sum(1)).log() - own.log()


@wrong("log_odds", "log(total − own): the difference cancels for a sure model", "torch.logsumexp takes care")
def total_minus_own(logits, y):
    z = logits - logits.amax(1, keepdim=True)
    own = z.gather(1, y[:, None]).squeeze(1)
    return (z.exp().sum(1) - own.exp()).log() - own


@wrong("log_odds", "adds the other logits, without exponentials", "You add up the other logits")
def sum_of_logits(logits, y):
    own = logits.gather(1, y[:, None]).squeeze(1)
    return logits.sum(1) - own - own


@wrong("log_odds", "y is set to 0 in place of −∞: exp(0) = 1 stays in the sum", "The logit of y still counts")
def scatter_zero(logits, y):
    return logits.scatter(1, y[:, None], 0.0).logsumexp(1) - logits.gather(1, y[:, None]).squeeze(1)


@wrong(
    "log_odds",
    "subtracts 100 from y's logit: too little for a very sure model",
    "The logit of y still counts",
)
def minus_hundred(logits, y):
    out = 100 * F.one_hot(y, logits.shape[1])
    return (logits - out).logsumexp(1) - logits.gather(1, y[:, None]).squeeze(1)


@wrong("log_odds", "scatter_ overwrites the caller's logits", "changed in place")
def in_place(logits, y):
    own = logits.gather(1, y[:, None]).squeeze(1)
    with torch.no_grad():
        logits.scatter_(1, y[:, None], -torch.inf)
    return logits.logsumexp(1) - own


@wrong("log_odds", "ten classes written into the code", "A mask has the shape")
def ten_classes(logits, y):
    mask = torch.arange(10) != y[:, None]
    return logits[mask].view(-1, 9).logsumexp(1) - logits.gather(1, y[:, None]).squeeze(1)


@wrong("log_odds", "the model's answer in place of y", "model's own prediction")
def own_prediction(logits, y):
    top = logits.argmax(1)
    return logits.scatter(1, top[:, None], -torch.inf).logsumexp(1) - logits.gather(1, top[:, None]).squeeze(1)


@wrong("log_odds", "one number for the batch", "one number for each image")
def batch_mean(logits, y):
    others = logits.scatter(1, y[:, None], -torch.inf)
    return (others.logsumexp(1) - logits.gather(1, y[:, None]).squeeze(1)).mean()


@wrong("log_odds", "(N, 1) in place of (N,)", "one number for each image")
def column(logits, y):
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.logsumexp(1, keepdim=True) - logits.gather(1, y[:, None])


@wrong("log_odds", "(N,) minus (N, 1) becomes (N, N)", "one number for each image")
def broadcast(logits, y):
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.logsumexp(1) - logits.gather(1, y[:, None])


@wrong("log_odds", "right numbers, no gradient", "An attack differentiates it")
def detached(logits, y):
    logits = logits.detach()
    return logits.scatter(1, y[:, None], -torch.inf).logsumexp(1) - logits.gather(1, y[:, None]).squeeze(1)


@wrong("log_odds", "the gradient of z_y is cut off", "a part of the gradient is cut off")
def own_detached(logits, y):
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.logsumexp(1) - logits.gather(1, y[:, None]).squeeze(1).detach()


@wrong("log_odds", "clamped against infinite values: no gradient where the model is sure", "You clamp the result")
def clamped(logits, y):
    others = logits.scatter(1, y[:, None], -torch.inf)
    return (others.logsumexp(1) - logits.gather(1, y[:, None]).squeeze(1)).clamp(-50, 50)


@wrong("log_odds", "probabilities with a guard of 1e-12: fades all the same", "these round to 0 or 1")
def guarded_probability(logits, y):
    p = logits.softmax(1).gather(1, y[:, None]).squeeze(1)
    return (1 - p).clamp_min(1e-12).log() - p.clamp_min(1e-12).log()


@wrong(
    "log_odds", "log(exp(cross-entropy) − 1): the cross-entropy has rounded to 0 already", "A probability has rounded"
)
def expm1(logits, y):
    return F.cross_entropy(logits, y, reduction="none").expm1().log()


@wrong(
    "log_odds",
    "subtracts the largest logit of the whole batch",
    "You subtract the largest of too many",
)
def batch_maximum(logits, y):
    z = logits - logits.max()
    own = z.gather(1, y[:, None]).squeeze(1)
    return z.exp().scatter(1, y[:, None], 0.0).sum(1).log() - own


@wrong(
    "log_odds",
    "subtracts the largest logit, which is y's",
    "You subtract the largest of too many",
)
def wrong_maximum(logits, y):
    z = logits - logits.amax(1, keepdim=True)
    own = z.gather(1, y[:, None]).squeeze(1)
    return z.exp().scatter(1, y[:, None], 0.0).sum(1).log() - own


@wrong("log_odds", "logsumexp over images, not over classes", "You add up over the images")
def over_the_batch(logits, y):
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.logsumexp(0)[y] - logits.gather(1, y[:, None]).squeeze(1)


@wrong("log_odds", "logits[:, y] is (N, N)", "one number for each image")
def column_y(logits, y):
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.logsumexp(1) - logits[:, y]


@wrong("log_odds", "leaves out the largest logit, not y's", "You leave out the largest logit")
def drop_largest(logits, y):
    rest = logits.sort(1, descending=True).values[:, 1:]
    return rest.logsumexp(1) - logits.gather(1, y[:, None]).squeeze(1)


@wrong("log_odds", "only the three largest others count", "the largest few exponentials")
def top_three(logits, y):
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.topk(min(3, logits.shape[1])).values.logsumexp(1) - logits.gather(1, y[:, None]).squeeze(1)


@wrong("log_odds", "logarithm to the base 2", "to another base")
def log2(logits, y):
    others = logits.scatter(1, y[:, None], -torch.inf)
    return (others.logsumexp(1) - logits.gather(1, y[:, None]).squeeze(1)) / torch.log(torch.tensor(2.0))


@wrong("log_odds", "exponentials in float64: better, and overflows later", "an exponential has become infinite")
def double_exp(logits, y):
    z = logits.double()
    e = z.exp().scatter(1, y[:, None], 0.0).sum(1).log()
    return (e - z.gather(1, y[:, None]).squeeze(1)).float()


@wrong("log_odds", "1e-12 inside the logarithm, after subtracting the maximum of all", "Stay with the logits")
def guard_in_log(logits, y):
    z = logits - logits.amax(1, keepdim=True)
    e = z.exp().scatter(1, y[:, None], 0.0).sum(1)
    return (e + 1e-12).log() - z.gather(1, y[:, None]).squeeze(1)


@wrong("log_odds", "the library's own loss: not written by hand", "Write the steps yourself")
def library(logits, y):
    return adversarial_loss(logits, y, "ce")


@wrong("log_odds", "a loop with .item(): no gradient", "An attack differentiates it")
def numbers(logits, y):
    out = []
    for z, k in zip(logits, y, strict=True):
        rest = torch.cat([z[:k], z[k + 1 :]])
        out.append((rest.logsumexp(0) - z[k]).item())
    return torch.tensor(out)


@wrong("log_odds", "divided by the number of images", "You divide by the number of images")
def divided_by_n(logits, y):
    others = logits.scatter(1, y[:, None], -torch.inf)
    return (others.logsumexp(1) - logits.gather(1, y[:, None]).squeeze(1)) / len(y)


@wrong(
    "log_odds",
    "right numbers, the gradient of the margin",
    "your gradient is the margin's",
)
def max_gradient(logits, y):
    others = logits.scatter(1, y[:, None], -torch.inf)
    own = logits.gather(1, y[:, None]).squeeze(1)
    top = others.amax(1)
    return (others.logsumexp(1) - top).detach() + top - own


@right("log_odds")
def minus_ten_thousand(logits, y):
    # scatters −1e4 in place of −∞: right unless other logits are lower
    return logits.scatter(1, y[:, None], -1e4).logsumexp(1) - logits.gather(1, y[:, None]).squeeze(1)


@wrong("log_odds", "scatters −50 in place of −∞: visible only where the others are lower", "no number of your own")
def minus_fifty(logits, y):
    return logits.scatter(1, y[:, None], -50.0).logsumexp(1) - logits.gather(1, y[:, None]).squeeze(1)


@right("log_odds")
def returns_float64(logits, y):
    # returns float64
    z = logits.double()
    return z.scatter(1, y[:, None], -torch.inf).logsumexp(1) - z.gather(1, y[:, None]).squeeze(1)


@right("log_odds")
def scatter(logits, y):
    # as the hint
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.logsumexp(1) - logits.gather(1, y[:, None]).squeeze(1)


@right("log_odds")
def boolean_mask(logits, y):
    # the others as (N, K − 1)
    n, k = logits.shape
    keep = torch.arange(k, device=logits.device) != y[:, None]
    return logits[keep].view(n, k - 1).logsumexp(1) - logits[torch.arange(n), y]


@right("log_odds")
def difference_first(logits, y):
    # subtract z_y first, then leave y out
    d = logits - logits.gather(1, y[:, None])
    return d.masked_fill(F.one_hot(y, logits.shape[1]).bool(), -torch.inf).logsumexp(1)


@right("log_odds")
def by_hand(logits, y):
    # the largest other logit is taken out by hand
    others = logits.scatter(1, y[:, None], -torch.inf)
    top = others.amax(1, keepdim=True).detach()
    return (others - top).exp().sum(1).log() + top.squeeze(1) - logits.gather(1, y[:, None]).squeeze(1)


@right("log_odds")
def log_softmax(logits, y):
    # logarithms of probabilities do not round as probabilities do
    lp = logits.log_softmax(1)
    return lp.scatter(1, y[:, None], -torch.inf).logsumexp(1) - lp.gather(1, y[:, None]).squeeze(1)


@right("log_odds")
def loop(logits, y):
    # image by image
    rows = []
    for z, k in zip(logits, y.tolist(), strict=True):
        rows.append(torch.cat([z[:k], z[k + 1 :]]).logsumexp(0) - z[k])
    return torch.stack(rows)


@right("log_odds")
def huge_number(logits, y):
    # finfo.min in place of −∞
    low = torch.finfo(logits.dtype).min
    return logits.scatter(1, y[:, None], low).logsumexp(1) - logits.gather(1, y[:, None]).squeeze(1)


@right("log_odds")
def clone_and_index(logits, y):
    # an own copy may be overwritten
    rows = torch.arange(len(y))
    others = logits.clone()
    others[rows, y] = -torch.inf
    return torch.logsumexp(others, dim=1) - logits[rows, y]


@right("log_odds")
def index_of_the_others(logits, y):
    # gathers the K − 1 others by their indices
    j = torch.arange(logits.shape[1] - 1).expand(len(y), -1)
    j = j + (j >= y[:, None]).long()
    return logits.gather(1, j).logsumexp(1) - logits.gather(1, y[:, None])[:, 0]


@right("log_odds")
def float64_inside(logits, y):
    # computed in float64, given back in the dtype of the logits
    z = logits.double()
    z = z.masked_fill(F.one_hot(y, z.shape[1]).bool(), -torch.inf)
    return (z.logsumexp(1) - logits.double().gather(1, y[:, None])[:, 0]).to(logits.dtype)
