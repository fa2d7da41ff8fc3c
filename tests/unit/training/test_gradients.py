"""Gradients of a batch: as they come, with weights halved, with batches of few shapes, drawn ahead."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tunesmith.families._half import HalfLinear, HalfNorm, halve
from tunesmith.families.musicgen import tiny
from tunesmith.families.musicgen.loss import MusicgenLoss
from tunesmith.methods import lora
from tunesmith.training import gradients as module
from tunesmith.training.ahead import Ahead
from tunesmith.training.gradients import Gradients, RecordedGradients, gradients_of
from tunesmith.training.measure import forward
from tunesmith.types import Batch, Example

LENGTHS = (30, 39, 48, 70)


@pytest.fixture
def bundle() -> Any:
    made = tiny(0)
    adapter = lora.attach(made, lora.Config(rank=4))
    draw = torch.Generator().manual_seed(0)
    for parameter in adapter.parameters().values():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=draw)
    made.set_dropout(0.0)
    made.names = adapter.parameters()
    made.module.train()
    return made


def batch_of(bundle: Any, drop: float = 0.0, lengths: Any = LENGTHS) -> Batch:
    draw = torch.Generator().manual_seed(len(lengths))
    texts = bundle.encode_text(["slow blues", "a very much longer text"])
    codes = bundle.module.model.decoder.config.vocab_size
    clips = [
        Example(str(n), torch.randint(0, codes, (4, size), generator=draw).short(), texts[n % 2])
        for n, size in enumerate(lengths)
    ]
    return bundle.collate(clips, range(len(clips)), drop)


def counts_of(bundle: Any, batch: Batch) -> dict[str, float]:
    return {name: float(one.sum()) for name, one in bundle.module.count(batch).items()}


def grads(bundle: Any) -> dict[str, Any]:
    return {name: p.grad.clone() for name, p in bundle.names.items() if p.grad is not None}


def plain(bundle: Any, batch: Batch, dtype: Any = torch.float32) -> tuple[float, dict[str, Any]]:
    one = Gradients(bundle, bundle.names, dtype, bundle.module)
    one.clear()
    loss = one.add(batch, counts_of(bundle, batch), 1.0, 1.0)
    return float(loss), grads(bundle)


def close(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("drop", [0.0, 0.6, 1.0])
def test_one_pass_is_the_librarys(bundle: Any, drop: float, monkeypatch: pytest.MonkeyPatch):
    """Bit for bit, dropout included, whether rows have their text, some of them or none."""
    bundle.set_dropout(0.1)
    batch = batch_of(bundle, drop)
    dropped = (batch.text["mask"].sum(dim=1) == 0).sum()
    assert dropped == {0.0: 0, 0.6: dropped, 1.0: 4}[drop]
    torch.manual_seed(0)
    ours = plain(bundle, batch)

    def librarys(decoder: Any, tokens: Any, states: Any, seen: Any) -> Any:
        return decoder(
            input_ids=tokens.flatten(0, 1),
            encoder_hidden_states=states,
            encoder_attention_mask=seen.long(),
            use_cache=False,
        ).last_hidden_state

    monkeypatch.setattr(MusicgenLoss, "_one_pass", staticmethod(librarys))
    torch.manual_seed(0)
    theirs = plain(bundle, batch)
    assert ours[0] == theirs[0]
    assert all(torch.equal(ours[1][name], theirs[1][name]) for name in theirs[1])


def test_a_batch_of_a_common_shape_gives_the_same(bundle: Any):
    batch = batch_of(bundle, 0.5)
    fixed = bundle.module.static(batch)
    assert fixed.codes.shape[-1] == 128
    assert {value.shape[1] % 16 for value in fixed.text.values()} == {0}
    (loss, found), (wanted, these) = plain(bundle, fixed), plain(bundle, batch)
    assert loss == pytest.approx(wanted, abs=1e-5)
    close(found, these)


def test_layer_drop_and_checkpointing_are_not_recorded(bundle: Any):
    bundle.checkpoint_activations(True)
    assert bundle.module.static(batch_of(bundle)) is None
    bundle.checkpoint_activations(False)
    assert bundle.module.static(batch_of(bundle)) is not None
    bundle.module.model.decoder.model.decoder.layerdrop = 0.1
    assert bundle.module.static(batch_of(bundle)) is None


def test_halved_weights_change_no_bit_under_autocast(bundle: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(MusicgenLoss, "norms", lambda self: ())
    batch = batch_of(bundle)
    before, these = plain(bundle, batch, torch.bfloat16)
    assert (
        halve(bundle, torch.bfloat16) == len(bundle.module.model.decoder.model.decoder.layers) * 10
    )
    after, found = plain(bundle, batch, torch.bfloat16)
    assert after == before
    assert all(torch.equal(found[name], these[name]) for name in these)
    assert all(p.dtype == torch.float32 for p in bundle.names.values())


def test_norms_rounded_once_give_the_loss_to_the_bit(bundle: Any):
    """Gradients of q, k and v meet in half precision then: close, no more."""
    batch = batch_of(bundle)
    before, these = plain(bundle, batch, torch.bfloat16)
    wide = plain(bundle, batch)[1]
    halve(bundle, torch.bfloat16)
    after, found = plain(bundle, batch, torch.bfloat16)
    assert after == before
    norm = bundle.module.norms()[0]
    assert type(norm) is HalfNorm
    assert norm(torch.ones(1, norm.normalized_shape[0])).dtype == torch.float32

    def off(some: dict[str, Any]) -> float:
        return max(float((some[name] - one).norm() / one.norm()) for name, one in wide.items())

    assert off(found) < 1.5 * off(these)


def test_halved_weights_generate_outside_of_autocast(bundle: Any):
    halve(bundle, torch.bfloat16)
    for loss, _ in forward(bundle, batch_of(bundle), torch.float32).values():
        assert loss.dtype == torch.float32
    (codes,) = bundle.generate_codes(["blues"], 0.5, [0], bundle.sampling)
    assert codes.shape[0] == 4


def test_what_trains_is_not_halved():
    bundle = tiny(0)
    layer: Any = bundle.module.model.decoder.model.decoder.layers[0]
    layer.fc1 = nn.Linear(3, 3)
    halve(bundle, torch.bfloat16)
    assert layer.fc1.weight.dtype == torch.float32
    assert type(layer.fc2) is HalfLinear


class Again:
    """A graph that computes anew what it is to have recorded, from where a recording reads."""

    def __init__(self, gradients: Gradients, batch: Batch, terms: list[str], numbers: Any) -> None:
        self.what: Any = (gradients, batch, terms, numbers)
        self.loss, self.runs = torch.zeros(()), 0

    def replay(self) -> None:
        gradients, *given = self.what
        self.loss.copy_(gradients._plain(*given))
        self.runs += 1


def test_the_second_of_a_shape_is_recorded(bundle: Any, monkeypatch: pytest.MonkeyPatch):
    made: list[Again] = []

    def record(one: Any, key: Any, batch: Batch, terms: list[str], numbers: Any) -> Any:
        clone = Batch(
            batch.codes.clone(),
            batch.frames.clone(),
            {name: value.clone() for name, value in batch.text.items()},
            batch.seeds,
        )
        made.append(Again(one, clone, terms, numbers.clone()))
        graph: Any = made[-1]
        one._tapes[key] = module._Tape(graph, clone, graph.what[3], graph.loss)
        return one._tapes[key]

    monkeypatch.setattr(RecordedGradients, "_record", record)
    monkeypatch.setattr(RecordedGradients, "_make_room", lambda self, size: None)
    ours = RecordedGradients(bundle, bundle.names, torch.float32, bundle.module)
    ours.clear()
    places = {name: p.grad.data_ptr() for name, p in bundle.names.items()}
    for lengths, weight, factor in (
        (LENGTHS, 1.0, 1.0),
        ((31, 50), 1.0, 0.5),
        ((70, 10, 20, 90), 1.0, 2.0),
        ((90, 80, 20, 10), 0.0, 1.0),
        ((66, 66, 66, 66), 1.0, 0.3),
    ):
        batch = batch_of(bundle, 0.5, lengths)
        loss, wanted = plain(bundle, batch)
        for parameter in bundle.names.values():
            parameter.grad = None
        ours.clear()
        found = ours.add(batch, counts_of(bundle, batch), weight, factor)
        assert float(found) == pytest.approx(weight * loss, abs=1e-5)
        close(grads(bundle), {name: weight * factor * one for name, one in wanted.items()})
    assert [one.runs for one in made] == [3]  # the first of each shape is computed as it comes
    kept = {name: p.grad.data_ptr() for name, p in bundle.names.items()}
    ours.clear()
    assert {name: p.grad.data_ptr() for name, p in bundle.names.items()} == kept
    assert len(places) == len(kept)
    assert not any(p.grad.any() for p in bundle.names.values())


def test_nothing_is_recorded_on_a_cpu(bundle: Any):
    one = gradients_of(bundle, bundle.names, torch.float32, bundle.module, record=True)
    assert type(one) is Gradients


def test_steps_drawn_ahead_are_the_same():
    asked: list[int] = []

    def draw(step: int) -> list[Any]:
        asked.append(step)
        return [step]

    ahead = Ahead(draw, torch.device("cuda"))
    assert [ahead.step(number) for number in (4, 5, 6, 2, 3)] == [[4], [5], [6], [2], [3]]
    ahead.close()
    assert sorted(asked) == [2, 3, 4, 4, 5, 6, 7]


def test_a_cpu_draws_nothing_ahead():
    asked: list[int] = []
    ahead = Ahead(lambda step: asked.append(step) or [], torch.device("cpu"))
    ahead.step(0)
    assert asked == [0]
