"""Sliders. Each demo is a pure function from a state to a frame, a picture that updates in place, and a thin shell.

Displayed in a front end with widgets a demo is live; everywhere else its static picture is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import ipywidgets as widgets
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from .attacks import bim, fgsm, frozen, input_gradient, pgd
from .evaluation import accuracy, correct, predict, worst_case
from .photos import preprocess, read_photo
from .plotting import COLOURS, class_bars, figure, line, show_image, to_png
from .projection import check_latents, latent_size, project_to_range
from .victims import craft

EPS_STEPS = 100


@dataclass(frozen=True)
class Demo:
    """A slider demo: `frame(**state)` computes, `draw(figure, frame)` paints, `alt(frame)` says it in words.

    In a notebook, end a cell with it. `demo.render(**state)` returns the picture of one state as a PNG.
    """

    title: str
    controls: Mapping[str, widgets.Widget]
    frame: Callable[..., Any]
    draw: Callable[[Figure, Any], None]
    alt: Callable[[Any], str]
    size: Mapping[str, Any]  # arguments of plotting.figure
    static: Mapping[str, Any]  # the state that readers without a kernel see

    def render(self, **state: Any) -> bytes:
        """Return the PNG of the state; what is not given keeps the control's value."""
        return self._picture(self._frame(state))

    def describe(self, **state: Any) -> str:
        """Return the state in words, as a reader hears it who cannot see the picture."""
        return self.alt(self._frame(state))

    def widget(self) -> widgets.VBox:
        """Return the live shell: the controls, a picture of fixed size, and a line that says what it shows."""
        picture = widgets.Image(format="png", layout=widgets.Layout(max_width="100%"))
        message = widgets.HTML()

        def update(_: object = None) -> None:
            try:
                frame = self._frame({})
                picture.value = self._picture(frame)
                message.value = f"<span role='status'>{escape(self.alt(frame))}</span>"
            except (ValueError, TypeError) as error:
                message.value = f"<strong role='alert'>{escape(str(error))}</strong>"

        for control in self.controls.values():
            control.observe(update, names="value")
        update()
        heading = widgets.HTML(f"<strong>{escape(self.title)}</strong>")
        row = widgets.Layout(flex_flow="row wrap")
        return widgets.VBox([heading, widgets.Box(list(self.controls.values()), layout=row), picture, message])

    def _frame(self, state: Mapping[str, Any]) -> Any:
        return self.frame(**{name: control.value for name, control in self.controls.items()} | dict(state))

    def _picture(self, frame: Any) -> bytes:
        fig, _ = figure(**self.size)
        self.draw(fig, frame)
        return to_png(fig)

    def _ipython_display_(self) -> None:
        from IPython.display import display

        alt = f"{self.title} (static picture of the slider). {self.describe(**self.static)}"
        # One bundle: front ends with widgets take the live shell, pages and print take the picture.
        bundle = self.widget()._repr_mimebundle_() | {"image/png": self.render(**self.static), "text/plain": alt}
        display(bundle, metadata={"image/png": {"alt": alt}}, raw=True)


def eps_slider(*, largest: float = 0.3, value: float = 0.0) -> widgets.FloatSlider:
    """Return the slider every demo uses for eps, in pixel units."""
    return widgets.FloatSlider(
        value, min=0, max=largest, step=largest / EPS_STEPS, description="ε", readout_format=".3f"
    )


def margin_bar(w: Tensor, b: Tensor, x: Tensor, y: Tensor) -> Demo:
    """Show how the margin of one digit falls under the worst signs, beside its prediction (chapter 01).

    Args:
        w, b: the linear model, (n,) and scalar. x: images (N, 1, H, W). y: labels (N,), −1 or +1.
    """
    _check_images(x, y)
    noise = torch.sign(torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).to(x)

    def frame(image: int, eps: float, signs: str, clip: bool) -> dict[str, Any]:
        step = -y[image] * w.sign().view(x[image].shape) if signs == "worst" else noise[image]
        adv = x[image] + eps * step
        boxed = adv.clamp(0, 1)
        clean, free, clipped = (float(y[image] * (p.flatten() @ w + b)) for p in (x[image], adv, boxed))
        worst = clean - eps * float(w.abs().sum())
        return {
            "adv": boxed,
            "eps": eps,
            "clean": clean,
            "measured": clipped if clip else free,
            "predicted": worst if signs == "worst" else None,
            "saved": clipped - free,
        }

    def draw(fig: Figure, f: dict[str, Any]) -> None:
        left, right = fig.axes
        show_image(left, f["adv"], f"ε = {f['eps']:.3f} (shown clipped)")
        right.set_axis_on()
        right.barh([0, 1], [f["clean"], f["measured"]], color=[COLOURS[4], COLOURS[0]])
        right.axvline(0, color="black", linewidth=1)
        if f["predicted"] is not None:
            right.axvline(f["predicted"], color=COLOURS[1], linestyle="--")
        right.set_title("dashed: clean − ε‖w‖₁", fontsize=9)
        right.set_yticks([0, 1], [f"clean\n{f['clean']:.1f}", f"changed\n{f['measured']:.1f}"])
        # The scale belongs to the image, not to ε: the clean bar stays as it is while the handle moves.
        span = 1.5 * max(8.0, abs(f["clean"]))
        right.set(xlim=(-span, span), ylim=(1.6, -0.6), xlabel="margin (left of 0: wrong)")

    def alt(f: dict[str, Any]) -> str:
        verdict = "right" if f["measured"] > 0 else "wrong"
        words = f"Margin {f['clean']:.1f} clean, {f['measured']:.1f} changed ({verdict})"
        if f["predicted"] is not None:
            words += f"; the formula says {f['predicted']:.1f}"
        return f"{words}. Clipping makes a difference of {f['saved']:+.1f}."

    controls = {
        "image": widgets.IntSlider(0, min=0, max=len(x) - 1, description="image"),
        "eps": eps_slider(),
        "signs": widgets.Dropdown(options=["worst", "random"], description="signs"),
        "clip": widgets.Checkbox(False, description="clip to [0, 1]"),
    }
    size = {"rows": 1, "columns": 2, "width": 3.4, "height": 2.4, "gridspec_kw": {"width_ratios": [1, 1.6]}}
    return Demo("The margin bar", controls, frame, draw, alt, size, {"eps": 0.06})


def fgsm_slider(models: Mapping[str, nn.Module], x: Tensor, y: Tensor, *, names: Sequence[str] | None = None) -> Demo:
    """Show one image under FGSM: the image, the magnified change, the most likely classes (chapter 02).

    The sign of the gradient does not depend on eps: it is computed once for each image and model.

    Args:
        models: by the name shown. x: images (N, C, H, W) in [0, 1]. y: labels (N,). names: of the classes.
    """
    _check_images(x, y)
    signs: dict[tuple[str, int], Tensor] = {}

    def frame(model: str, image: int, eps: float) -> dict[str, Any]:
        one, label = x[image : image + 1], y[image : image + 1]
        if (model, image) not in signs:
            signs[model, image] = input_gradient(models[model], one, label).sign()
        adv = (one + eps * signs[model, image]).clamp(0, 1)
        with frozen(models[model]), torch.no_grad():
            probabilities = models[model](adv).softmax(1)[0]
        return {"adv": adv[0], "change": (adv - one)[0], "probabilities": probabilities, "true": int(label), "eps": eps}

    def draw(fig: Figure, f: dict[str, Any]) -> None:
        left, middle, right = fig.axes
        show_image(left, f["adv"], f"ε = {f['eps']:.3f}")
        show_image(middle, f["change"].mean(0), "change, magnified", signed=True)
        right.set_axis_on()
        class_bars(right, f["probabilities"], true=f["true"], names=names, top=5)
        right.set_title("hatched: the true class", fontsize=9)

    def alt(f: dict[str, Any]) -> str:
        best = int(f["probabilities"].argmax())
        said = str(best) if names is None else names[best]
        true = str(f["true"]) if names is None else names[f["true"]]
        return (
            f"At ε = {f['eps']:.3f} the model says {said} with {100 * f['probabilities'][best]:.0f} %; true is {true}."
        )

    controls = {
        "model": widgets.Dropdown(options=list(models), description="model"),
        "image": widgets.IntSlider(0, min=0, max=len(x) - 1, description="image"),
        "eps": eps_slider(),
    }
    size = {"rows": 1, "columns": 3, "width": 2.5, "height": 2.5}
    return Demo("FGSM on one image", controls, frame, draw, alt, size, {"eps": 0.1})


def pgd_scrubber(
    models: Mapping[str, nn.Module],
    x: Tensor,
    y: Tensor,
    *,
    eps: float = 0.1,
    steps: int = 40,
    names: Sequence[str] | None = None,
) -> Demo:
    """Show PGD on one image step by step: image, magnified change, the loss so far, class bars (chapter 03).

    A path is computed once for each model, image and start; the handle then only looks into it.

    Args:
        models: by the name shown. x: images (N, C, H, W) in [0, 1]. y: labels (N,).
        eps: radius, pixel units. steps: of PGD. names: of the classes.
    """
    _check_images(x, y)
    paths: dict[tuple[str, int, bool], tuple[Tensor, Tensor, Tensor]] = {}

    def path(model: str, image: int, start: bool) -> tuple[Tensor, Tensor, Tensor]:
        if (model, image, start) not in paths:
            points, losses = [], []

            def keep(restart: int, step: int, adv: Tensor, loss: Tensor) -> None:
                points.append(adv[0])
                losses.append(loss[0])

            one, label = x[image : image + 1], y[image : image + 1]
            generator = torch.Generator(x.device).manual_seed(0)
            pgd(models[model], one, label, eps, steps=steps, random_start=start, generator=generator, callback=keep)
            points = torch.stack(points)
            paths[model, image, start] = points, torch.stack(losses), predict(models[model], points).softmax(1)
        return paths[model, image, start]

    def frame(model: str, image: int, start: bool, step: int) -> dict[str, Any]:
        points, losses, probabilities = path(model, image, start)
        return {
            "adv": points[step],
            "change": points[step] - x[image],
            "losses": losses.tolist(),
            "probabilities": probabilities[step],
            "true": int(y[image]),
            "step": step,
        }

    def draw(fig: Figure, f: dict[str, Any]) -> None:
        left, middle, curve, right = fig.axes
        show_image(left, f["adv"], f"step {f['step']} of {steps}, ε = {eps:g}")
        show_image(middle, f["change"].mean(0), "change (full colour: ε)", signed=True, limit=eps)
        curve.plot(range(steps + 1), f["losses"], color="0.7", marker="", linestyle="-")
        curve.plot(range(f["step"] + 1), f["losses"][: f["step"] + 1], color=COLOURS[0], marker="", linestyle="-")
        curve.plot(f["step"], f["losses"][f["step"]], color=COLOURS[1], marker="o")
        curve.set(xlabel="step")
        curve.set_title("loss", fontsize=9)
        class_bars(right, f["probabilities"], true=f["true"], names=names, top=5)
        right.set_title("hatched: the true class", fontsize=9)

    def alt(f: dict[str, Any]) -> str:
        best = int(f["probabilities"].argmax())
        said, true = (str(k) if names is None else names[k] for k in (best, f["true"]))
        return (
            f"After step {f['step']} the loss is {f['losses'][f['step']]:.2f} and the model says {said} with "
            f"{100 * f['probabilities'][best]:.0f} %; true is {true}."
        )

    controls = {
        "model": widgets.Dropdown(options=list(models), description="model"),
        "image": widgets.IntSlider(0, min=0, max=len(x) - 1, description="image"),
        "start": widgets.Checkbox(True, description="random start"),
        "step": widgets.IntSlider(0, min=0, max=steps, description="step"),
    }
    size = {"rows": 1, "columns": 4, "width": 2.3, "height": 2.3}
    return Demo("PGD step by step", controls, frame, draw, alt, size, {"step": steps // 4})


def transfer_picker(
    models: Mapping[str, nn.Module],
    x: Tensor,
    y: Tensor,
    *,
    largest: float = 0.3,
    names: Sequence[str] | None = None,
) -> Demo:
    """Show one cell of the transfer matrix, source × victim × eps, and one of its images (chapter 04).

    What a source makes and a victim answers is kept, so that a handle that comes back costs nothing.

    Args:
        models: networks and ClassicalVictims by the name shown.
        x: images (N, C, H, W) in [0, 1]. y: labels (N,). Those that all models classify correctly are used.
        largest: eps of the slider's right end, pixel units. names: of the classes.

    Raises:
        ValueError: wrong images, or none that all models classify correctly.
    """
    _check_images(x, y)
    common = worst_case(*(correct(model, x, y) for model in models.values()))
    if not common.any():
        raise ValueError(f"none of the {len(x)} images is classified correctly by all of {', '.join(models)}.")
    x, y = x[common], y[common]
    made: dict[tuple[str, float], Tensor] = {}
    said: dict[tuple[str, str, float], Tensor] = {}

    def answers(source: str, victim: str, eps: float) -> Tensor:
        if (source, eps) not in made:
            made[source, eps] = craft(models[source], x, y, eps)
        if (source, victim, eps) not in said:
            said[source, victim, eps] = predict(models[victim], made[source, eps]).argmax(1)
        return said[source, victim, eps]

    def frame(source: str, victim: str, image: int, eps: float) -> dict[str, Any]:
        answer = {role: answers(source, model, eps) for role, model in (("source", source), ("victim", victim))}
        return {
            "clean": x[image],
            "adv": made[source, eps][image],
            "true": int(y[image]),
            "said": {role: int(labels[image]) for role, labels in answer.items()},
            "fooled": {role: float((labels != y).float().mean()) for role, labels in answer.items()},
            "pair": f"{source} → {victim}",
            "eps": eps,
        }

    def name(label: int) -> str:
        return str(label) if names is None else names[label]

    def draw(fig: Figure, f: dict[str, Any]) -> None:
        left, middle, right = fig.axes
        show_image(left, f["clean"], f"true: {name(f['true'])}")
        show_image(middle, f["adv"], f"ε = {f['eps']:.3f}; victim: {name(f['said']['victim'])}")
        right.barh([0, 1], f["fooled"].values(), color=[COLOURS[4], COLOURS[0]])
        right.set_yticks([0, 1], [f"{role}\n{100 * share:.0f} %" for role, share in f["fooled"].items()])
        right.set(xlim=(0, 1), ylim=(1.6, -0.6), xlabel=f"fooled, n = {len(x)}")
        right.set_title(f["pair"], fontsize=9)

    def alt(f: dict[str, Any]) -> str:
        source, victim = f["fooled"].values()
        return (
            f"{f['pair']} at ε = {f['eps']:.3f}: the source is fooled on {100 * source:.0f} %, the victim on "
            f"{100 * victim:.0f} % of {len(x)} images. This {name(f['true'])}: the source says "
            f"{name(f['said']['source'])}, the victim {name(f['said']['victim'])}."
        )

    first, second = [*models, *models][:2]
    slider = eps_slider(largest=largest, value=0.0)
    slider.step = largest / 15  # each position costs an answer of the victim
    controls = {
        "source": widgets.Dropdown(options=list(models), value=first, description="source"),
        "victim": widgets.Dropdown(options=list(models), value=second, description="victim"),
        "image": widgets.IntSlider(0, min=0, max=len(x) - 1, description="image"),
        "eps": slider,
    }
    size = {"rows": 1, "columns": 3, "width": 2.5, "height": 2.5}
    return Demo("One cell of the transfer matrix", controls, frame, draw, alt, size, {"eps": largest * 2 / 3})


ATTACK_STEPS = (1, 2, 3, 5, 10, 20, 40)


def accuracy_curves(models: Mapping[str, nn.Module], x: Tensor, y: Tensor, *, largest: float = 0.3) -> Demo:
    """Show accuracy against eps for several models; the handle sets how many steps the attack takes (chapter 05).

    One step is FGSM, more are PGD from a random start. What an attack leaves is kept for the next visit.

    Args:
        models: by the name shown. x: images (N, C, H, W) in [0, 1]. y: labels (N,).
        largest: eps at the right end, pixel units.
    """
    _check_images(x, y)
    radii = [largest * i / 5 for i in range(6)]
    known: dict[int, dict[str, list[float]]] = {}

    def left(model: nn.Module, eps: float, steps: int) -> float:
        if steps == 1:
            return accuracy(model, fgsm(model, x, y, eps), y)
        generator = torch.Generator(x.device).manual_seed(0)
        return accuracy(model, pgd(model, x, y, eps, steps=steps, generator=generator), y)

    def frame(steps: int) -> dict[str, Any]:
        if steps not in known:
            known[steps] = {name: [left(model, eps, steps) for eps in radii] for name, model in models.items()}
        return {"steps": steps, "curves": known[steps]}

    def draw(fig: Figure, f: dict[str, Any]) -> None:
        (ax,) = fig.axes
        for name, shares in f["curves"].items():
            line(ax, radii, shares, name)
        ax.set(xlabel="ε", ylabel=f"accuracy, n = {len(x)}", ylim=(-0.02, 1.02))
        ax.set_title("FGSM" if f["steps"] == 1 else f"PGD, {f['steps']} steps", fontsize=9)
        ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))

    def alt(f: dict[str, Any]) -> str:
        attack = "FGSM" if f["steps"] == 1 else f"{f['steps']} steps of PGD"
        rows = (
            f"{name} {100 * shares[0]:.0f} % → {100 * shares[3]:.0f} % → {100 * shares[-1]:.0f} %"
            for name, shares in f["curves"].items()
        )
        return f"Accuracy under {attack} at ε = 0, {radii[3]:g} and {radii[-1]:g}: {'; '.join(rows)}."

    controls = {"steps": widgets.SelectionSlider(options=ATTACK_STEPS, description="steps")}
    size = {"rows": 1, "columns": 1, "width": 6.2, "height": 3.2}
    return Demo("Accuracy against ε", controls, frame, draw, alt, size, {"steps": 10})


def projection_slider(
    classifier: nn.Module,
    generator: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    steps: int = 100,
    restarts: int = 6,
    names: Sequence[str] | None = None,
) -> Demo:
    """Show the projection of one attacked image after so many steps from so many random starts (chapter 06).

    The starts of an image are drawn once: with one restart more, the earlier ones stay as they were.

    Args:
        classifier: maps images to logits. generator: maps z to images; has an attribute `latent`.
        x: attacked images (N, C, H, W) in [0, 1]. y: their true labels (N,).
        steps, restarts: the ends of the handles. names: of the classes.
    """
    _check_images(x, y)
    stream = torch.Generator().manual_seed(0)
    starts = torch.randn(restarts, len(x), latent_size(generator), generator=stream).to(x)

    def frame(image: int, restarts: int, steps: int) -> dict[str, Any]:
        one = slice(image, image + 1)
        init = starts[:restarts, one]
        _, x_star = project_to_range(generator, x[one], steps=steps, restarts=restarts, init=init)
        logits = predict(classifier, torch.cat([x[one], x_star]))
        return {
            "x": x[image],
            "x_star": x_star[0],
            "error": float((x_star - x[one]).square().sum()),
            "before": int(logits[0].argmax()),
            "probabilities": logits[1].softmax(0),
            "true": int(y[image]),
            "effort": f"{steps} steps, {restarts} restart{'s' * (restarts > 1)}",
        }

    def name(label: int) -> str:
        return str(label) if names is None else names[label]

    def draw(fig: Figure, f: dict[str, Any]) -> None:
        left, middle, right = fig.axes
        show_image(left, f["x"], f"attacked; classified as {name(f['before'])}")
        show_image(middle, f["x_star"], f"{f['effort']}\nsquared distance {f['error']:.1f}")
        right.set_axis_on()
        class_bars(right, f["probabilities"], true=f["true"], names=names, top=5)
        right.set_title("hatched: the true class", fontsize=9)

    def alt(f: dict[str, Any]) -> str:
        said = name(int(f["probabilities"].argmax()))
        return (
            f"After {f['effort']} the squared distance is {f['error']:.1f} and the projection is classified as {said}; "
            f"true is {name(f['true'])}, and the attacked image is classified as {name(f['before'])}."
        )

    controls = {
        "image": widgets.IntSlider(0, min=0, max=len(x) - 1, description="image"),
        "restarts": widgets.IntSlider(1, min=1, max=restarts, description="restarts"),
        "steps": widgets.IntSlider(1, min=1, max=steps, description="steps"),
    }
    size = {"rows": 1, "columns": 3, "width": 2.5, "height": 2.6}
    return Demo("The projection", controls, frame, draw, alt, size, {"restarts": min(2, restarts), "steps": steps})


def latent_walk(
    classifier: nn.Module, generator: nn.Module, z: Tensor, z_prime: Tensor, *, names: Sequence[str] | None = None
) -> Demo:
    """Walk on the straight line from z to z' and see what is drawn there, and how it is classified (chapter 06).

    Args:
        classifier: maps images to logits. generator: maps z to images; has an attribute `latent`.
        z, z_prime: the ends of the walks, (N, latent) each. names: of the classes.

    Raises:
        ValueError: ends that do not match, or no walk at all.
    """
    if not len(z):
        raise ValueError("expected at least one walk, got none.")
    for end in (z, z_prime):
        check_latents(end, len(z), latent_size(generator))

    def frame(pair: int, way: float) -> dict[str, Any]:
        ends = torch.stack([z[pair], torch.lerp(z[pair], z_prime[pair], way)])
        with frozen(generator), torch.no_grad():
            start, here = generator(ends)
        logits = predict(classifier, torch.stack([start, here]))
        return {
            "start": start,
            "here": here,
            "first": int(logits[0].argmax()),
            "probabilities": logits[1].softmax(0),
            "distance": float((here - start).norm()),
            "way": way,
        }

    def name(label: int) -> str:
        return str(label) if names is None else names[label]

    def draw(fig: Figure, f: dict[str, Any]) -> None:
        left, middle, right = fig.axes
        show_image(left, f["start"], f"start: {name(f['first'])}")
        show_image(middle, f["here"], f"{f['way']:.0%} of the way\nL2 distance {f['distance']:.2f}")
        right.set_axis_on()
        class_bars(right, f["probabilities"], true=f["first"], names=names, top=5)
        right.set_title("hatched: the class of the start", fontsize=9)

    def alt(f: dict[str, Any]) -> str:
        best = int(f["probabilities"].argmax())
        return (
            f"After {f['way']:.0%} of the way the image is {f['distance']:.2f} from the start in L2 and classified as "
            f"{name(best)} with {100 * f['probabilities'][best]:.0f} %; the start is classified as {name(f['first'])}."
        )

    controls = {
        "pair": widgets.IntSlider(0, min=0, max=len(z) - 1, description="pair"),
        "way": widgets.FloatSlider(0, min=0, max=1, step=0.02, description="way", readout_format=".2f"),
    }
    size = {"rows": 1, "columns": 3, "width": 2.5, "height": 2.6}
    return Demo("A walk in the latent space", controls, frame, draw, alt, size, {"way": 0.5})


PHOTO_LEVELS = (0, 0.25, 0.5, 1, 2, 4, 8)
PHOTO_ATTACKS = ("FGSM", "PGD", "targeted PGD")
UPLOADED = "your upload"
MAGNIFIED = 16  # how much larger the change is shown than it is


def photo_lab(
    model: nn.Module,
    photos: Mapping[str, Tensor],
    *,
    names: Sequence[str],
    targets: Sequence[str],
    steps: int = 10,
) -> Demo:
    """Show a photo under attack: the picture, the magnified change, the five likeliest classes (chapter 07).

    The label is what the model says on the clean photo. A photo can be dropped in; it is cut to the size of the others.
    What an attack makes is kept: FGSM asks for one gradient of each photo, PGD for `steps` at each position.

    Args:
        model: maps images to logits. photos: by name, (3, H, W) each, all of one size.
        names: of the classes. targets: some of them, for the targeted attack. steps: of PGD.

    Raises:
        ValueError: no photos, or a target that is no class.
    """
    if not photos:
        raise ValueError("expected at least one photo, got none.")
    if unknown := [name for name in targets if name not in names]:
        raise ValueError(f"{unknown[0]!r} is no name of a class.")
    size = next(iter(photos.values())).shape[-1]
    made: dict[tuple[Any, ...], Tensor] = {}

    def opened(photo: str, upload: Sequence[Mapping[str, Any]]) -> tuple[Any, Tensor]:
        """Return a photo (1, 3, H, W), and what tells it from the others."""
        if photo != UPLOADED:
            return photo, photos[photo][None]
        if not upload:
            raise ValueError("choose a photo of your own with the button first.")
        content = bytes(upload[-1]["content"])
        return content, preprocess(read_photo(content), size).to(next(iter(photos.values())))

    def attacked(key: Any, x: Tensor, y: Tensor, attack: str, target: str, level: float) -> Tensor:
        eps = level / 255
        if attack == "FGSM":
            if (key, attack) not in made:
                made[key, attack] = input_gradient(model, x, y).sign()
            return (x + eps * made[key, attack]).clamp(0, 1)
        aimed = attack != "PGD"
        place = (key, attack, target if aimed else None, level)
        if place not in made:
            goal = torch.full_like(y, names.index(target)) if aimed else y
            made[place] = bim(model, x, goal, eps, steps=steps, targeted=aimed)
        return made[place]

    def frame(photo: str, upload: Sequence[Mapping[str, Any]], attack: str, target: str, level: float) -> dict:
        key, x = opened(photo, upload)
        if key not in made:
            made[key] = predict(model, x).argmax(1)
        adv = attacked(key, x, made[key], attack, target, level)
        return {
            "adv": adv[0],
            "change": (adv - x)[0],
            "probabilities": predict(model, adv).softmax(1)[0],
            "true": int(made[key]),
            "title": f"{attack}, ε = {level:g}/255",
        }

    def draw(fig: Figure, f: dict[str, Any]) -> None:
        left, middle, right = fig.axes
        show_image(left, f["adv"], f["title"])
        show_image(middle, 0.5 + MAGNIFIED * f["change"], f"change × {MAGNIFIED}")
        right.set_axis_on()
        class_bars(right, f["probabilities"], true=f["true"], names=names, top=5)
        right.set_title("hatched: the answer without attack", fontsize=9)

    def alt(f: dict[str, Any]) -> str:
        best = int(f["probabilities"].argmax())
        return (
            f"{f['title']}: the model says {names[best]} with {100 * f['probabilities'][best]:.0f} %; "
            f"without attack it says {names[f['true']]}."
        )

    choice = widgets.Dropdown(options=[*photos, UPLOADED], description="photo")
    upload = widgets.FileUpload(accept="image/*", description="your photo")
    upload.observe(lambda _: setattr(choice, "value", UPLOADED), names="value")
    controls = {
        "photo": choice,
        "upload": upload,
        "attack": widgets.Dropdown(options=PHOTO_ATTACKS, description="attack"),
        "target": widgets.Dropdown(options=targets, description="target"),
        "level": widgets.SelectionSlider(options=PHOTO_LEVELS, description="ε in 1/255", continuous_update=False),
    }
    size_of_figure = {"rows": 1, "columns": 3, "width": 2.3, "height": 2.2}
    return Demo("The photo lab", controls, frame, draw, alt, size_of_figure, {"attack": PHOTO_ATTACKS[-1], "level": 2})


def _check_images(x: Tensor, y: Tensor) -> None:
    if x.ndim != 4 or len(x) == 0 or len(y) != len(x):
        raise ValueError(
            f"expected images (N, C, H, W) with one label each and N >= 1, got {tuple(x.shape)} and {tuple(y.shape)}."
        )
