"""Tests of xplain.core.rng: dependence on seed, image and sample, and distributions."""

from __future__ import annotations

import hashlib
from itertools import islice, product

import pytest
import torch
from scipy import stats

from xplain.core.rng import Streams

MASK = 2**64 - 1


def splitmix64(state: int):
    """Yield the numbers of the SplitMix64 generator as published, with Python integers."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        yield z ^ (z >> 31)


def to_signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def make_images(count: int = 6, seed: int = 0) -> torch.Tensor:
    """Return float64 images with 8-bit levels."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 4, 5), generator=generator).double() / 255


def samples(count: int) -> torch.Tensor:
    return torch.arange(count)


def test_reference_matches_published_values():
    assert list(islice(splitmix64(1234567), 5)) == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@pytest.mark.parametrize("key", [0, 1, 1234567, 2**63 - 1, 2**63, MASK])
def test_draws_match_splitmix64(key):
    streams = Streams(torch.tensor([to_signed(key)]))
    for sample, base in enumerate(islice(splitmix64(key), 3)):
        bits = list(islice(splitmix64(base), 4))
        index = torch.tensor([sample])
        assert streams.uniform(index, (2, 2), torch.float64).flatten().tolist() == [
            ((z >> 12) + 0.5) / 2**52 for z in bits
        ]
        assert streams.uniform(index, (4,), torch.float32).flatten().tolist() == [
            ((z >> 41) + 0.5) / 2**23 for z in bits
        ]
        assert streams.signs(index, (4,), torch.float64).flatten().tolist() == [1 if z >> 63 else -1 for z in bits]
        assert streams.integers(index, (4,), 10).flatten().tolist() == [
            int(((z >> 12) + 0.5) / 2**52 * 10) for z in bits
        ]


def test_key_hashes_seed_purpose_and_content():
    levels = [0, 1, 127, 128, 254, 255]
    image = torch.tensor(levels, dtype=torch.float32).reshape(1, 1, 2, 3) / 255
    content = b"".join(level.to_bytes(2, "little") for level in levels)
    digest = hashlib.blake2b(b"7\x00agi\x00" + content, digest_size=8).digest()
    assert Streams.of(image, 7, "agi").keys.tolist() == [int.from_bytes(digest, "little", signed=True)]


def test_keys_do_not_depend_on_order():
    images = make_images()
    keys = Streams.of(images, 3, "neflag").keys
    order = torch.tensor([4, 1, 5, 0, 2, 3])
    assert torch.equal(Streams.of(images[order], 3, "neflag").keys, keys[order])
    assert torch.equal(Streams.of(images[2:3], 3, "neflag").keys, keys[2:3])
    assert len(set(keys.tolist())) == 6


def test_draws_do_not_depend_on_batch():
    images = make_images()
    together = Streams.of(images, 0, "m").normal(samples(4), (3, 2), torch.float64)
    for index in range(len(images)):
        alone = Streams.of(images[index : index + 1], 0, "m").normal(samples(4), (3, 2), torch.float64)
        assert torch.equal(together[index], alone[0])


def test_draws_do_not_depend_on_chunk():
    streams = Streams.of(make_images(2), 0, "m")
    whole = streams.uniform(samples(7), (5,), torch.float32)
    parts = [streams.uniform(torch.arange(a, b), (5,), torch.float32) for a, b in ((0, 3), (3, 4), (4, 7))]
    assert torch.equal(whole, torch.cat(parts, dim=1))
    assert torch.equal(whole[:, [6, 0]], streams.uniform(torch.tensor([6, 0]), (5,), torch.float32))


def test_take_selects_streams():
    streams = Streams.of(make_images(5), 0, "m")
    whole = streams.signs(samples(2), (6,), torch.float64)
    assert torch.equal(streams.take(slice(1, 3)).signs(samples(2), (6,), torch.float64), whole[1:3])
    assert torch.equal(streams.take(torch.tensor([4, 0])).signs(samples(2), (6,), torch.float64), whole[[4, 0]])


def test_key_is_equal_for_float_types():
    levels = torch.arange(256).reshape(256, 1, 1, 1)
    single, double = levels.float() / 255, levels.double() / 255
    assert torch.equal(Streams.of(single, 0, "m").keys, Streams.of(double, 0, "m").keys)
    assert torch.equal(Streams.of(double.float(), 0, "m").keys, Streams.of(single.double(), 0, "m").keys)


def test_key_changes_with_one_pixel():
    image = make_images(1)
    other = image.clone()
    other[0, 2, 3, 4] = (other[0, 2, 3, 4] * 255 + 1) / 255 if other[0, 2, 3, 4] < 1 else 0
    assert Streams.of(image, 0, "m").keys.item() != Streams.of(other, 0, "m").keys.item()


def test_seed_purpose_and_child_separate_streams():
    images = make_images(4)
    keys = []
    for seed, purpose in product((0, 1, 10, 100, -1), ("agi", "neflag", "a", "")):
        streams = Streams.of(images, seed, purpose)
        keys += [*streams.keys.tolist(), *streams.child("alpha").keys.tolist(), *streams.child("beta").keys.tolist()]
    assert len(set(keys)) == len(keys) == 5 * 4 * 4 * 3


def test_equal_images_have_equal_keys():
    image = make_images(1)
    keys = Streams.of(image.repeat(2, 1, 1, 1), 0, "m").keys
    assert keys[0] == keys[1]


def test_global_generator_is_not_used():
    before = torch.random.get_rng_state()
    Streams.of(make_images(1), 0, "m").normal(samples(3), (2,), torch.float32)
    assert torch.equal(torch.random.get_rng_state(), before)


def draws(kind: str, dtype: torch.dtype = torch.float64, count: int = 40, side: int = 64) -> torch.Tensor:
    """Return (4 images, count samples, side * side): 655 360 draws of images that differ in a single level."""
    images = torch.full((4, 3, 2, 2), 100 / 255, dtype=torch.float64)
    images[:, 0, 0, 0] += torch.arange(4) / 255
    return getattr(Streams.of(images, 5, "m"), kind)(samples(count), (side * side,), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_draws_are_uniform(dtype):
    u = draws("uniform", dtype).double().flatten()
    n = u.numel()
    assert n == 655_360
    assert abs(u.mean() - 0.5) < 4 * (1 / 12 / n) ** 0.5
    assert abs(u.var() - 1 / 12) < 4 * (1 / 180 / n) ** 0.5
    assert stats.kstest(u.numpy(), "uniform").pvalue > 0.01
    counts = torch.bincount((u * 256).long(), minlength=256).numpy()
    assert stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normal_draws_are_standard_normal(dtype):
    z = draws("normal", dtype).double().flatten()
    n = z.numel()
    assert abs(z.mean()) < 4 / n**0.5
    assert abs(z.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs((z**3).mean()) < 4 * (15 / n) ** 0.5
    assert abs((z**4).mean() - 3) < 4 * (96 / n) ** 0.5
    assert stats.kstest(z.numpy(), "norm").pvalue > 0.01


def test_normal_inverts_the_distribution_function():
    expected = stats.norm.ppf(draws("uniform", count=2).numpy())
    assert abs(draws("normal", count=2).numpy() - expected).max() < 1e-9


def test_neighboring_draws_are_uncorrelated():
    u = draws("uniform") - 0.5
    neighbors = {
        "images": (u[1:], u[:-1]),
        "samples": (u[:, 1:], u[:, :-1]),
        "positions": (u[:, :, 1:], u[:, :, :-1]),
        "rows": (u[:, :, 64:], u[:, :, :-64]),
        "samples and positions": (u[:, 1:, 1:], u[:, :-1, :-1]),
    }
    for name, (a, b) in neighbors.items():
        correlation = (a * b).mean() * 12
        assert abs(correlation) < 4 / a.numel() ** 0.5, name


def test_separate_streams_are_uncorrelated():
    images = make_images(4)
    streams = [Streams.of(images, 0, "m"), Streams.of(images, 1, "m"), Streams.of(images, 0, "n")]
    streams.append(streams[0].child("alpha"))
    z = torch.stack([stream.normal(samples(10), (2500,), torch.float64).flatten() for stream in streams])
    correlations = torch.corrcoef(z) - torch.eye(4)
    assert correlations.abs().max() < 4 / z.shape[1] ** 0.5


def test_signs_are_balanced():
    signs = draws("signs").flatten()
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert abs(signs.mean()) < 4 / signs.numel() ** 0.5
    assert abs((signs[1:] * signs[:-1]).mean()) < 4 / signs.numel() ** 0.5


@pytest.mark.parametrize("below", [1, 2, 7, 1000])
def test_integers_cover_their_range_evenly(below):
    images = make_images(4)
    integers = Streams.of(images, 0, "m").integers(samples(30), (1000,), below).flatten()
    counts = torch.bincount(integers, minlength=below)
    assert integers.dtype == torch.int64
    assert len(counts) == below
    assert counts.min() > 0
    assert below == 1 or stats.chisquare(counts.numpy()).pvalue > 0.01


def invert_mix(z: int) -> int:
    """Return the state whose SplitMix64 output is ``z``."""
    z ^= (z >> 31) ^ (z >> 62)
    z = (z * pow(0x94D049BB133111EB, -1, 2**64)) & MASK
    z ^= (z >> 27) ^ (z >> 54)
    z = (z * pow(0xBF58476D1CE4E5B9, -1, 2**64)) & MASK
    return z ^ (z >> 30) ^ (z >> 60)


def key_of_first_bits(bits: int) -> int:
    """Return the key whose sample 0 begins with the random word ``bits``."""
    base = (invert_mix(bits) - 0x9E3779B97F4A7C15) & MASK
    return (invert_mix(base) - 0x9E3779B97F4A7C15) & MASK


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bits", [0, MASK])
def test_extreme_draws_lie_in_open_interval(bits, dtype):
    streams = Streams(torch.tensor([to_signed(key_of_first_bits(bits))]))
    assert streams.signs(samples(1), (1,), torch.float32).item() == (1 if bits else -1)
    assert 0 < streams.uniform(samples(1), (1,), dtype).item() < 1
    assert streams.normal(samples(1), (1,), dtype).isfinite().all()
    assert streams.integers(samples(1), (1,), 10).item() == (9 if bits else 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_draws_lie_in_open_interval(dtype):
    u, z = draws("uniform", dtype), draws("normal", dtype)
    assert u.dtype == z.dtype == dtype
    assert u.min() > 0
    assert u.max() < 1
    assert z.isfinite().all()
