"""Run an OpenVINO graph of one row on many rows: one row per thread, so that no thread waits for another."""

from __future__ import annotations

from collections import deque
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from xplain.core.types import Precision

OPTIONS = {
    "EXECUTION_MODE_HINT": "ACCURACY",
    "ENABLE_CPU_PINNING": False,  # other processes use the same cores
}
HINTS = {"fp32": "f32", "bf16": "bf16"}  # precisions in the words of OpenVINO


class RowGraph:
    """A graph whose inputs and outputs have one row, compiled for many rows and for single rows when they are first run.

    Both give the same numbers, which do not depend on the number of rows or threads.
    precision: fp32, or bf16 for the operations that OpenVINO has in bf16. Inputs and outputs are float32.
    """

    def __init__(self, openvino: Any, core: Any, graph: Any, threads: int, precision: Precision = "fp32") -> None:
        self._openvino = openvino
        self._core = core
        self._graph = graph
        self._threads = threads
        self._hint = HINTS[precision]
        self._shapes = [tuple(output.shape) for output in graph.outputs]

    @cached_property
    def _single(self) -> Any:
        """A request that uses all threads for one row."""
        return self._compile(streams=1).create_infer_request()

    @cached_property
    def _parallel(self) -> list[Any]:
        """Requests of one thread each, two per thread so that none is idle."""
        compiled = self._compile(streams=self._threads)
        return [compiled.create_infer_request() for _ in range(2 * self._threads)]

    def _compile(self, streams: int) -> Any:
        options = OPTIONS | {
            "INFERENCE_PRECISION_HINT": self._hint,
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": self._threads,
        }
        return self._core.compile_model(self._graph, "CPU", options)

    def run(self, *inputs: Tensor) -> list[Tensor]:
        """Return the outputs (rows, ...) for inputs (rows, ...) in float32."""
        arrays = [tensor.detach().contiguous().numpy() for tensor in inputs]
        rows = len(arrays[0])
        outputs = [torch.empty(rows, *shape[1:]) for shape in self._shapes]
        if rows == 1 or self._threads == 1:
            requests, start = [self._single], self._single.infer
        else:
            requests, start = self._parallel, None
        running: deque[Any] = deque()
        try:
            for row in range(rows):
                if len(running) == len(requests):
                    running.popleft().wait()
                request = requests[row % len(requests)]
                self._bind(request, arrays, outputs, row)
                if start is not None:
                    start()
                else:
                    request.start_async()
                    running.append(request)
        finally:
            for request in running:  # which write to the outputs
                request.wait()
        return outputs

    def _bind(self, request: Any, arrays: list[Any], outputs: list[Tensor], row: int) -> None:
        """Let a request read row ``row`` of the arrays and write that of the outputs."""
        tensor, rows = self._openvino.Tensor, slice(row, row + 1)
        for index, array in enumerate(arrays):
            request.set_input_tensor(index, tensor(array[rows], shared_memory=True))
        for index, output in enumerate(outputs):
            request.set_output_tensor(index, tensor(output.numpy()[rows], shared_memory=True))
