import pytest
import torch

from pretrain.codec_model import CODEBOOK_SIZE, LATENT, Quantiser, build_codec

BATCH = 600


@pytest.fixture(scope="module")
def codec():
    return build_codec(0)


@pytest.fixture
def quantiser(codec):
    made = Quantiser(codec)
    made.fit(points(0, 3000), 0, BATCH, rounds=3)
    return made


def points(seed, count, shift=0.0):
    draw = torch.Generator().manual_seed(seed)
    mix = torch.randn(LATENT, LATENT, generator=torch.Generator().manual_seed(99)) / 8
    return torch.randn(count, LATENT, generator=draw) @ mix + shift


def latents(seed, shift=0.0):
    return points(seed, BATCH, shift).T[None]


def error(quantiser, wave):
    return float((quantiser(wave) - wave).pow(2).mean() / wave.pow(2).mean())


def test_every_codebook_leaves_less(codec):
    left = Quantiser(codec).fit(points(0, 3000), 0, BATCH, rounds=3)
    assert left == sorted(left, reverse=True) and left[-1] < 0.5 * left[0]


def test_gradients_pass_straight_on_and_values_are_quantised(quantiser):
    wave = latents(1).requires_grad_()
    before = quantiser(wave.detach())
    passed, commitment = quantiser.learn(wave, 0)
    assert torch.allclose(passed, before, atol=1e-5)
    (given,) = torch.autograd.grad(passed.sum(), wave, retain_graph=True)
    assert torch.equal(given, torch.ones_like(wave))
    (pull,) = torch.autograd.grad(commitment, wave)
    # Towards what it is quantised to: along the difference.
    assert float((pull * (wave - passed).detach()).sum()) > 0


def test_codebooks_follow_when_the_latents_move(quantiser):
    moved = latents(5, shift=1.0)
    before = error(quantiser, moved)
    for step in range(150):
        quantiser.learn(latents(10 + step, shift=1.0), step)
    assert error(quantiser, moved) < 0.7 * before


def test_dead_entries_come_back(quantiser):
    book = quantiser.books[0]
    book.embed[: CODEBOOK_SIZE // 2] += 1e3
    book.embed_avg[: CODEBOOK_SIZE // 2] = 1e3
    for step in range(600):
        quantiser.learn(latents(10 + step), step)
    assert float(book.embed.abs().max()) < 100


def test_the_same_seed_learns_the_same(codec):
    ends = []
    for _ in range(2):
        made = Quantiser(codec)
        made.fit(points(0, 3000), 0, BATCH, rounds=3)
        for step in range(5):
            made.learn(latents(step), step)
        ends.append([book.embed.clone() for book in made.books])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
