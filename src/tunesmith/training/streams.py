"""Which clips a step sees: those to be learned, and beside them those that hold the model in place.

Every stream is sampled from a seed of its own, so adding one changes nothing in the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunesmith.objectives.mixture import sum_counts
from tunesmith.training.parallel import ALONE, Parallel
from tunesmith.training.sampler import Sampler, stable_seed, with_drawn_caption
from tunesmith.types import Batch, Example

if TYPE_CHECKING:
    from tunesmith.families._bundle import Bundle, LossModule

MAIN = "train"


@dataclass(frozen=True, slots=True)
class Stream:
    """Clips that are trained on.

    Attributes:
        name: of its loss: ``train``, ``prior``, ``replay``.
        examples: its encoded clips.
        lengths: frames of each.
        batch_size: clips a forward pass.
        weight: λ of its loss in the total.
    """

    name: str
    examples: Sequence[Example]
    lengths: Sequence[int]
    batch_size: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a stream gives to one optimizer step.

    Attributes:
        stream: whose it is.
        batches: one for each accumulated slice: this process's share of it.
        weights: of each; 0 for a stand-in, where a slice has fewer clips than there are processes.
        clips: how many clips the slices hold, over all processes.
        epoch: of the last one.
    """

    stream: Stream
    batches: Sequence[Batch]
    weights: Sequence[float]
    clips: int
    epoch: int

    def counts(self, module: LossModule) -> dict[str, float]:
        """What each term of this share's loss is a sum over."""
        found = sum_counts(
            {name: weight * count for name, count in module.count(batch).items()}
            for batch, weight in zip(self.batches, self.weights, strict=True)
        )
        return {name: float(count) for name, count in found.items()}


class Streams:
    """All streams of a run, the main one first.

    Args:
        streams: the first is what the run is about; its progress is the run's epoch.
        seed: the run's seed.
        bucket: batches of clips of similar length.
    """

    def __init__(self, streams: Sequence[Stream], seed: int, bucket: bool) -> None:
        self.streams = tuple(streams)
        seeds = [seed if i == 0 else stable_seed(seed, s.name) for i, s in enumerate(self.streams)]
        self._samplers = [
            (stream, one, Sampler(stream.lengths, stream.batch_size, one, bucket))
            for stream, one in zip(self.streams, seeds, strict=True)
        ]

    @property
    def main_sampler(self) -> Sampler:
        """The sampler of what the run is about."""
        return self._samplers[0][2]

    def draw(
        self,
        step: int,
        accumulate: int,
        bundle: Bundle,
        caption_dropout: float,
        parallel: Parallel = ALONE,
    ) -> Iterator[Drawn]:
        """The batches of one step, stream by stream: a pure function of seed and step.

        Every process draws the same slices and takes its share of each. A share may be empty: then a
        clip of another one stands in, so that all processes do the same work.
        """
        for stream, seed, sampler in self._samplers:
            batches, weights, clips, epoch = [], [], 0, 0
            for part in range(accumulate):
                epoch, indices = sampler.batch(step * accumulate + part)
                mine = parallel.share(indices)
                examples = [stream.examples[index] for index in mine or indices[:1]]
                seeds = [stable_seed(seed, example.clip_id, epoch) for example in examples]
                told = list(map(with_drawn_caption, examples, seeds))
                batches.append(bundle.collate(told, seeds, caption_dropout))
                weights.append(1.0 if mine else 0.0)
                clips += len(indices)
            yield Drawn(stream, batches, weights, clips, epoch)
