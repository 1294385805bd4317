"""A log of the emulated device, which exists during the test."""

import pytest

from tests.helpers.emulated_cuda import emulate_cuda


@pytest.fixture
def log():
    with emulate_cuda() as log:
        yield log
