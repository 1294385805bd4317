"""An emulated CUDA device, which finds device errors and counts costs on a machine without a GPU.

    with emulate_cuda() as log:
        classifier = xplain.load_classifier(device="cuda")

A tensor on ``cuda:0`` is an ``EmulatedTensor``, a wrapper of a CPU tensor. Each operation is checked as CUDA checks it (all tensors on one
device, except for CPU tensors without dimensions and CPU indices), runs on the CPU, and its results are wrapped again. The log counts what
waits for the device, what is copied to it, what may differ between runs and what may be rounded to TF32.

PyTorch's C++ code sees a wrapper as a "meta" tensor with the dispatch keys of the CPU, so that autograd and hooks run as usual.

Not emulated: the numbers and missing types of CUDA kernels, the choices of cuDNN, asynchrony, streams, memory except for a limit on rows,
several devices, autocast for keyword arguments, fused attention, TorchScript, the identity of parameters after ``module.to``, and gradients
through a copy between devices.
"""

from tests.helpers.emulated_cuda.device import emulate_cuda
from tests.helpers.emulated_cuda.log import DeviceLog
from tests.helpers.emulated_cuda.tensor import EmulatedTensor

__all__ = ["DeviceLog", "EmulatedTensor", "emulate_cuda"]
