"""Processes that torchrun started together: the shard of each, and the barrier at the end."""

from __future__ import annotations

import os
from datetime import timedelta

from xplain.core.config import parse_shard


def shard_from_env() -> tuple[int, int]:
    """Return the shard of this process: RANK of WORLD_SIZE, as torchrun sets them; (0, 1) without torchrun. Raises UsageError."""
    return parse_shard(f"{os.environ.get('RANK', '0')}/{os.environ.get('WORLD_SIZE', '1')}")


def wait_for_ranks(shard: tuple[int, int]) -> bool:
    """Wait until all processes have arrived. Returns True on rank 0, which then writes the summary."""
    rank, world = shard
    if world > 1:
        import torch.distributed as dist

        dist.init_process_group("gloo", timeout=timedelta(days=7))
        dist.barrier()
        dist.destroy_process_group()
    return rank == 0
