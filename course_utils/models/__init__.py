"""Models: images in [0, 1] in, logits (N, K) out; normalisation is a layer inside.

- `networks`: the course's classifiers of digits; `layers`: what they are made of; `ensemble`: several as one
- `linear`: what the worst change does to a linear classifier, by formula
- `pretrained`: classifiers of photographs, trained on ImageNet
- `generative`: a VAE, a GAN, and the deep image prior
- `sklearn_models`: scikit-learn's classifiers behind the same interface, and their differentiable surrogates
- `inference`: prediction that leaves the model unchanged, checks of logits; `weights`: files of weights

They are trained in the room `training`.
"""

from . import linear
from .ensemble import ensemble_logits
from .generative import GAN, VAE, decoder, deep_image_prior, sample, sample_quality
from .inference import predict
from .layers import BRANCHES, DualBatchNorm1d, DualBatchNorm2d, HalvingConv2d, Normalize, branch, dual_batch_norm
from .networks import RBFNetwork, class_means, independent_loss, mlp, small_cnn, softmax_regression
from .pretrained import available_classifiers, imagenet_index, imagenet_labels, load_classifier, top5
from .sklearn_models import SklearnClassifier, fit_sklearn, surrogate
from .weights import load_state, load_weights, save_weights

__all__ = [
    "BRANCHES",
    "GAN",
    "VAE",
    "DualBatchNorm1d",
    "DualBatchNorm2d",
    "HalvingConv2d",
    "Normalize",
    "RBFNetwork",
    "SklearnClassifier",
    "available_classifiers",
    "branch",
    "class_means",
    "decoder",
    "deep_image_prior",
    "dual_batch_norm",
    "ensemble_logits",
    "fit_sklearn",
    "imagenet_index",
    "imagenet_labels",
    "independent_loss",
    "linear",
    "load_classifier",
    "load_state",
    "load_weights",
    "mlp",
    "predict",
    "sample",
    "sample_quality",
    "save_weights",
    "small_cnn",
    "softmax_regression",
    "surrogate",
    "top5",
]
