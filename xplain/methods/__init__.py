"""The attribution methods, one module each. Importing a module registers its method; this is the only list of them."""

# isort: off
from xplain.methods import saliency as saliency
from xplain.methods import input_x_gradient as input_x_gradient
from xplain.methods import smoothgrad as smoothgrad
from xplain.methods import integrated_gradients as integrated_gradients
from xplain.methods import expected_gradients as expected_gradients
from xplain.methods import guided_ig as guided_ig
from xplain.methods import blur_ig as blur_ig
from xplain.methods import xrai as xrai
from xplain.methods import boundary_ig as boundary_ig
from xplain.methods import occlusion as occlusion
from xplain.methods import rise as rise
from xplain.methods import lime as lime
from xplain.methods import kernel_shap as kernel_shap
from xplain.methods import agi as agi
from xplain.methods import la as la
from xplain.methods import neflag as neflag
from xplain.methods import mfaba as mfaba
from xplain.methods import attexplore as attexplore
from xplain.methods import isa as isa
from xplain.methods import dga as dga
from xplain.methods import uniform_fullgrad as uniform_fullgrad
from xplain.methods import grad_cam as grad_cam
from xplain.methods import grad_cam_plus_plus as grad_cam_plus_plus
from xplain.methods import layer_cam as layer_cam
from xplain.methods import score_cam as score_cam
from xplain.methods import attention_rollout as attention_rollout
from xplain.methods import attention_relevance as attention_relevance
from xplain.methods import guided_backprop as guided_backprop
from xplain.methods import deconvnet as deconvnet
from xplain.methods import deeplift as deeplift
from xplain.methods import fullgrad as fullgrad
from xplain.methods import lrp as lrp
from xplain.methods import deep_taylor as deep_taylor
from xplain.methods import guided_grad_cam as guided_grad_cam
from xplain.methods import controls as controls
