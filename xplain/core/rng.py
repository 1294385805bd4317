"""Counter-based random streams: one per seed, image, method and sample.

A number is a pure function of the stream's key and the element's position: the SplitMix64 finalizer of Steele, Lea and Flood
(OOPSLA 2014), applied to key + position. Tensor operations compute it on the tensors' device. Numbers therefore do not depend
on batch size, order, chunking, rank or device, and one call draws from thousands of streams.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

_GAMMA = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift(z: Tensor, bits: int) -> Tensor:
    """Apply a logical right shift to int64 values (the torch operator is arithmetic)."""
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mix(z: Tensor, bits: int = 64) -> Tensor:
    """Apply the finalizer. Steps after the first work in place, because one call draws millions of numbers.

    bits: number of highest bits that are used. The last step does not change the highest 31 bits and is skipped if no others are.
    """
    z = (z ^ _shift(z, 30)).mul_(_MIX_1)
    z.bitwise_xor_(_shift(z, 27)).mul_(_MIX_2)
    return z if bits <= 31 else z.bitwise_xor_(_shift(z, 31))


def _key(*parts: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(b"\x00".join(parts), digest_size=8).digest(), "little", signed=True)


def seed_of(*parts: object) -> int:
    """Return a seed for torch's generators that depends on every part."""
    return _key(*(str(part).encode() for part in parts))


@dataclass
class DrawLog:
    """Whether streams, or streams derived from them, drew a number."""

    used: bool = False


@dataclass(frozen=True)
class Streams:
    """Random streams of a batch of images. keys: int64 (B,) on the images' device. log: shared with derived streams.

    The methods that draw take the sample indices ``samples`` (K,) and return (B, K, *shape).
    """

    keys: Tensor
    log: DrawLog = field(default_factory=DrawLog, compare=False)

    @classmethod
    def of(cls, images: Tensor, seed: int, purpose: str, device: torch.device | None = None) -> Streams:
        """Return streams that depend on the seed, the purpose (a method's name) and each image's 8-bit content.

        device: of the streams; defaults to that of the images, which are copied to the CPU.
        """
        content = (images.detach() * 255).round().clamp(-32768, 32767).to(torch.int16).cpu().numpy()
        keys = [_key(str(seed).encode(), purpose.encode(), image.tobytes()) for image in content]
        return cls(torch.tensor(keys, dtype=torch.int64, device=device or images.device))

    def child(self, purpose: str) -> Streams:
        """Return independent streams for another purpose of the same method."""
        return Streams(_mix(self.keys ^ _key(purpose.encode())), self.log)

    def take(self, images: slice | Tensor) -> Streams:
        """Return the streams of the images at an index."""
        return Streams(self.keys[images], self.log)

    def _bits(self, samples: Tensor, shape: tuple[int, ...], bits: int) -> Tensor:
        """Return 64-bit integers whose highest ``bits`` bits are random."""
        self.log.used = True
        base = _mix(self.keys[:, None] + (samples[None, :].to(torch.int64) + 1) * _GAMMA)
        count = int(torch.Size(shape).numel())
        positions = torch.arange(1, count + 1, device=self.keys.device) * _GAMMA
        return _mix(base[..., None] + positions, bits).reshape(*base.shape, *shape)

    def uniform(self, samples: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Draw uniformly from the open interval (0, 1), on a grid of 2^-23 (2^-52 in float64)."""
        wide, bits = (torch.float64, 52) if dtype == torch.float64 else (torch.float32, 23)
        drawn = _shift(self._bits(samples, shape, bits), 64 - bits).to(wide).add_(0.5).mul_(2.0**-bits)
        if dtype == wide:
            return drawn
        return drawn.to(dtype).clamp_(max=1 - torch.finfo(dtype).eps / 2)  # half precision could round up to 1

    def normal(self, samples: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Sample from the standard normal distribution by inverse transform sampling."""
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        return self.uniform(samples, shape, wide).mul_(2).sub_(1).erfinv_().mul_(2**0.5).to(dtype)

    def signs(self, samples: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Draw -1 or +1 with equal probability."""
        return torch.where(self._bits(samples, shape, 1) < 0, 1.0, -1.0).to(dtype)

    def integers(self, samples: Tensor, shape: tuple[int, ...], below: int) -> Tensor:
        """Draw integers from 0 .. below - 1 (bias below ``below`` / 2^52)."""
        return (self.uniform(samples, shape, torch.float64) * below).long()


def random_state() -> tuple[object, ...]:
    """Return the states of the global random generators of torch, NumPy and Python, which can be compared."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    tensors = [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]
    arrays = np.random.get_state()
    numpy_state = tuple(part.tobytes() if isinstance(part, np.ndarray) else part for part in arrays)
    return (*(tensor.numpy().tobytes() for tensor in tensors), numpy_state, random.getstate())


@contextmanager
def preserve_random_state() -> Iterator[None]:
    """Restore the global random generators of torch, NumPy and Python after the block, which may run a user's network."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
