"""What the tests of the compiled engine need."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

# not ``importorskip``: an import by the test would load OpenVINO's telemetry
needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
