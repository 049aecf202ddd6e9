"""torchvision, importable beside any build of torch. The only module that imports it; others import it from here.

A CPU build of torch beside a torchvision wheel built for CUDA cannot load torchvision's compiled operators, and
`import torchvision` fails on the first one it registers. Declaring the two that it names lets the rest (data
sets, networks, transforms: all plain Python) load; the operators themselves (box suppression) stay unusable.
"""

import sys

import torch

_operators = None  # a Library undeclares its operators when it is collected


def _declare_missing_operators() -> None:
    global _operators
    for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    _operators = torch.library.Library("torchvision", "DEF")
    _operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


try:
    import torchvision
except RuntimeError as error:
    if "torchvision::nms" not in str(error):
        raise
    _declare_missing_operators()
    import torchvision

__all__ = ["torchvision"]
