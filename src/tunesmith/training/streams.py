"""Which clips a step sees: those to be learned, and beside them those that hold the model in place.

Every stream is sampled from a seed of its own, so adding one changes nothing in the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunesmith.training.sampler import Sampler, stable_seed, with_drawn_caption
from tunesmith.types import Batch, Example

if TYPE_CHECKING:
    from tunesmith.families._bundle import Bundle

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
        batches: one for each accumulated slice.
        clips: how many clips these are.
        epoch: of the last one.
    """

    stream: Stream
    batches: Sequence[Batch]
    clips: int
    epoch: int


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
        self, step: int, accumulate: int, bundle: Bundle, caption_dropout: float
    ) -> Iterator[Drawn]:
        """The batches of one step, stream by stream: a pure function of seed and step."""
        for stream, seed, sampler in self._samplers:
            batches, clips, epoch = [], 0, 0
            for part in range(accumulate):
                epoch, indices = sampler.batch(step * accumulate + part)
                examples = [stream.examples[index] for index in indices]
                seeds = [stable_seed(seed, example.clip_id, epoch) for example in examples]
                told = list(map(with_drawn_caption, examples, seeds))
                batches.append(bundle.collate(told, seeds, caption_dropout))
                clips += len(examples)
            yield Drawn(stream, batches, clips, epoch)
