"""Helpers for torchrun: the shard of each process and the final barrier."""

from __future__ import annotations

import os
from datetime import timedelta

from xplain.core.option_values import parse_shard


def shard_from_env() -> tuple[int, int]:
    """Return the shard (RANK, WORLD_SIZE) of this process as set by torchrun, or (0, 1) without torchrun.

    Raises UsageError if they are not integers with 0 <= RANK < WORLD_SIZE.
    """
    return parse_shard(f"{os.environ.get('RANK', '0')}/{os.environ.get('WORLD_SIZE', '1')}")


def wait_for_ranks(shard: tuple[int, int]) -> bool:
    """Wait for all processes. Return True on rank 0, which writes the summary."""
    rank, world = shard
    if world > 1:
        import torch.distributed as dist

        dist.init_process_group("gloo", timeout=timedelta(days=7))
        dist.barrier()
        dist.destroy_process_group()
    return rank == 0
