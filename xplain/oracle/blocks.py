"""Former home of ``Block``, to be deleted."""

from xplain.oracle.batching import Block as Block
