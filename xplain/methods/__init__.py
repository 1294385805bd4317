"""The attribution methods, one module per method.

To add a method, add a line with its module and the names that the module registers. ``xplain list methods`` uses this order.
"""

import sys
from types import ModuleType

from xplain.core.reference import InfoList, MethodInfo, list_methods
from xplain.core.registry import METHODS

METHODS.declare("xplain.methods.saliency", "saliency")
METHODS.declare("xplain.methods.input_x_gradient", "input-x-gradient")
METHODS.declare("xplain.methods.smoothgrad", "smoothgrad")
METHODS.declare("xplain.methods.smooth", "smooth")
METHODS.declare("xplain.methods.integrated_gradients", "integrated-gradients")
METHODS.declare("xplain.methods.left_ig", "left-ig")
METHODS.declare("xplain.methods.expected_gradients", "expected-gradients")
METHODS.declare("xplain.methods.guided_ig", "guided-ig")
METHODS.declare("xplain.methods.blur_ig", "blur-ig")
METHODS.declare("xplain.methods.spectral_ig", "spectral-ig")
METHODS.declare("xplain.methods.idg", "idg")
METHODS.declare("xplain.methods.samp", "samp")
METHODS.declare("xplain.methods.lpi", "lpi")
METHODS.declare("xplain.methods.ig2", "ig2")
METHODS.declare("xplain.methods.xrai", "xrai")
METHODS.declare("xplain.methods.boundary_ig", "boundary-ig")
METHODS.declare("xplain.methods.occlusion", "occlusion")
METHODS.declare("xplain.methods.rise", "rise")
METHODS.declare("xplain.methods.lime", "lime")
METHODS.declare("xplain.methods.kernel_shap", "kernel-shap")
METHODS.declare("xplain.methods.agi", "agi")
METHODS.declare("xplain.methods.la", "la")
METHODS.declare("xplain.methods.neflag", "neflag")
METHODS.declare("xplain.methods.mfaba", "mfaba")
METHODS.declare("xplain.methods.attexplore", "attexplore")
METHODS.declare("xplain.methods.isa", "isa")
METHODS.declare("xplain.methods.dga", "dga")
METHODS.declare("xplain.methods.uniform_fullgrad", "uniform-fullgrad")
METHODS.declare("xplain.methods.grad_cam", "grad-cam")
METHODS.declare("xplain.methods.grad_cam_plus_plus", "grad-cam-plus-plus")
METHODS.declare("xplain.methods.layer_cam", "layer-cam")
METHODS.declare("xplain.methods.hires_cam", "hires-cam")
METHODS.declare("xplain.methods.xgrad_cam", "xgrad-cam")
METHODS.declare("xplain.methods.score_cam", "score-cam")
METHODS.declare("xplain.methods.ablation_cam", "ablation-cam")
METHODS.declare("xplain.methods.attention_rollout", "attention-rollout")
METHODS.declare("xplain.methods.attention_relevance", "attention-relevance")
METHODS.declare("xplain.methods.legrad", "legrad")
METHODS.declare("xplain.methods.grad_eclip", "grad-eclip")
METHODS.declare("xplain.methods.guided_backprop", "guided-backprop")
METHODS.declare("xplain.methods.deconvnet", "deconvnet")
METHODS.declare("xplain.methods.deeplift", "deeplift")
METHODS.declare("xplain.methods.fullgrad", "fullgrad")
METHODS.declare("xplain.methods.lrp", "lrp")
METHODS.declare("xplain.methods.deep_taylor", "deep-taylor")
METHODS.declare("xplain.methods.guided_grad_cam", "guided-grad-cam")
METHODS.declare("xplain.methods.eigen_cam", "eigen-cam")
METHODS.declare("xplain.methods.controls", "random", "sobel", "center")
METHODS.hints["shap"] = "use kernel-shap, gradient-shap or deep-shap"
METHODS.hints["cam"] = (
    "use grad-cam, grad-cam-plus-plus, layer-cam, hires-cam, score-cam or another CAM of xplain list methods"
)


class CallablePackage(ModuleType):
    """The type of this package, which ``xplain.methods()`` calls."""

    def __call__(self) -> InfoList[MethodInfo]:
        """Return all methods, with what they compute and their parameters."""
        return list_methods()


sys.modules[__name__].__class__ = CallablePackage
