import torch

from pretrain.codec_model import LATENT, N_CODEBOOKS, Quantiser, build_codec


def points(seed, count):
    draw = torch.Generator().manual_seed(seed)
    mix = torch.randn(LATENT, LATENT, generator=torch.Generator().manual_seed(99)) / 8
    return torch.randn(count, LATENT, generator=draw) @ mix


def test_every_codebook_leaves_less_and_what_is_left_is_what_is_said():
    quantiser = Quantiser(build_codec(0))
    seen = points(0, 3000)
    left = quantiser.fit(seen, 0, rounds=3)
    assert len(left) == N_CODEBOOKS
    assert left == sorted(left, reverse=True) and left[-1] < 0.5 * left[0]
    error = quantiser(seen.T[None])[0].T - seen
    power = (seen - seen.mean(0)).pow(2).sum(1).mean()
    assert abs(float(error.pow(2).sum(1).mean() / power) - left[-1]) < 1e-5


def test_the_same_seed_fits_the_same():
    ends = []
    for _ in range(2):
        made = Quantiser(build_codec(0))
        made.fit(points(0, 3000), 0, rounds=3)
        ends.append([book.embed.clone() for book in made.books])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
