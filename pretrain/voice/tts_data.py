"""Clips as the text-to-speech model learns from them, all of them on the device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pretrain.voice import mel, times, tts_align
from pretrain.voice.tts_model import SPEAKER, Batch
from tunesmith.analysis import speech_nets as nets

REDUCTION = 2
SPLITS = ("train", "valid")
MEANS = 4  # at most so many clips tell whose voice it is
OWN_CHANCE = 0.2
SHAKE = 0.2  # length of the noise on a vector of length 1, at most
_EMBED_FRAMES = 250  # of a clip, for its speaker's vector
_EMBED_CLIPS = 64


@dataclass(frozen=True, slots=True)
class Bucket:
    """Clips of about one length.

    Attributes:
        rows: of the data, on the CPU.
        frames, letters: what they are filled up to.
        batch: clips a step.
    """

    rows: Tensor
    frames: int
    letters: int
    batch: int


class Data:
    """Mels, letters and speakers of clips.

    Args:
        sound: int16 samples of all clips.
        rows: of the corpus.
        count: the first so many train; the rest are of speakers who are among those, or not.
        tokenizer: letters to ids.
        device: where everything goes.
        inventory: phones, for those of the rows; those that are not among them are left out.
    """

    def __init__(
        self,
        sound: Tensor,
        rows: list[dict[str, Any]],
        count: int,
        tokenizer: Any,
        device: str,
        inventory: Sequence[str] = (),
    ) -> None:
        self.rows, self.count, self.device = rows, count, device
        starts, lengths = mel.places(rows)
        self.mels, offsets = mel.corpus_mels(sound.to(device), starts, lengths)
        self.mean = self.mels[::7].float().mean(0)
        self.all_frames = offsets.diff()
        self.frames_cpu = self.all_frames - self.all_frames % REDUCTION
        ids = tokenizer([row["text"] for row in rows]).input_ids
        self.letters_cpu = torch.tensor([len(one) for one in ids])
        self.ids = torch.full((len(rows), int(self.letters_cpu.max())), tokenizer.pad_token_id)
        for row, one in zip(self.ids, ids, strict=True):
            row[: len(one)] = torch.tensor(one)
        self.unknown = int((self.ids == tokenizer.unk_token_id).sum())
        self.ids, self.offsets = self.ids.to(device), offsets[:-1].to(device)
        self.frames, self.letters = self.frames_cpu.to(device), self.letters_cpu.to(device)
        self._place(inventory)
        self._group()
        self.vectors = torch.zeros(len(rows), SPEAKER, device=device)

    def _place(self, inventory: Sequence[str]) -> None:
        """When letters sound, and which phones."""
        steps = int(self.frames_cpu.max()) // REDUCTION
        places = np.full((len(self.rows), steps), -1, np.float32)
        for place, row in zip(places, self.rows, strict=True):
            if row.get("times", {}).get("letters"):
                place[:] = tts_align.letter_places(row["times"], steps, REDUCTION * mel.HOP)
        numbers = {phone: number for number, phone in enumerate(inventory, 1)}
        said = [[numbers[p] for p in row.get("phones", ()) if p in numbers] for row in self.rows]
        self.phone_counts = torch.tensor([len(one) for one in said], device=self.device)
        phones = torch.zeros(len(said), max(1, *map(len, said)), dtype=torch.long)
        for row, one in zip(phones, said, strict=True):
            row[: len(one)] = torch.tensor(one, dtype=torch.long)
        self.places, self.phones = torch.from_numpy(places).to(self.device), phones.to(self.device)

    def _group(self) -> None:
        """For each row the clips of its speaker that train; of a speaker without any, its own."""
        members: dict[str, list[int]] = {}
        for number, row in enumerate(self.rows):
            if number < self.count or row["speaker"] not in members:
                members.setdefault(row["speaker"], []).append(number)
        firsts, flat = {}, []
        for name, numbers in members.items():
            firsts[name] = (len(flat), len(numbers))
            flat += numbers
        of = torch.tensor([firsts[row["speaker"]] for row in self.rows])
        self.members = torch.tensor(flat, device=self.device)
        self.first, self.size = of[:, 0].to(self.device), of[:, 1].to(self.device)

    @staticmethod
    def read(
        work: Path, max_s: float, languages: Sequence[str] = ("",)
    ) -> tuple[Tensor, list[dict[str, Any]], int]:
        """Sound, rows, and how many of them train, of splits train and valid; empty texts are left out.

        Args:
            work: folder of the corpus.
            max_s: longer clips are left out too.
            languages: how the names of languages may begin.
        """
        (sound, rows), (other, others) = (mel.read_split(work, split) for split in SPLITS)
        others = [{**row, "start": row["start"] + len(sound)} for row in others]
        rows, others = (
            [{**row, "times": one} for row, one in zip(part, told, strict=True)] if told else part
            for part, told in (
                (rows, times.load(work, SPLITS[0])),
                (others, times.load(work, SPLITS[1])),
            )
        )

        def fits(row: dict[str, Any]) -> bool:
            within = 0.25 <= row["length"] / mel.SAMPLE_RATE_HZ <= max_s
            spoken = str(row.get("language", "")).startswith(tuple(languages))
            return within and spoken and len(row["text"].strip()) > 1

        rows, others = list(filter(fits, rows)), list(filter(fits, others))
        return torch.cat([sound, other]), rows + others, len(rows)

    @torch.no_grad()
    def hear_speakers(self, path: Path, device: str) -> None:
        """Compute each clip's x-vector with these weights; in place, for graphs hold the tensor itself."""
        encoder = nets.load(path)[0].to(device)
        sizes = self.all_frames.clamp_max(_EMBED_FRAMES)
        order = sizes.argsort()
        for at in range(0, len(order), _EMBED_CLIPS):
            rows = order[at : at + _EMBED_CLIPS]
            shortest = int(sizes[rows].min())  # all are cut to that, from their middle: near enough
            skip = (self.all_frames[rows] - shortest) // 2
            begin = self.offsets[rows.to(device)] + skip.to(device)
            index = begin[:, None] + torch.arange(shortest, device=device)
            sizes_here = torch.full((len(rows),), shortest, device=device)
            made = encoder(self.mels[index].float(), sizes_here)
            self.vectors[rows.to(device)] = F.normalize(made.float())

    def middle_voice(self, language: str = "en") -> tuple[str, list[float]]:
        """The training speaker, of a language if there is one, next to the middle of them; its vector."""
        numbers: dict[str, list[int]] = {}
        for number, row in enumerate(self.rows[: self.count]):
            numbers.setdefault(row["speaker"], []).append(number)
        spoken = {row["speaker"]: str(row.get("language", "")) for row in self.rows}
        names = [name for name in numbers if spoken[name].startswith(language)] or list(numbers)
        means = F.normalize(
            torch.stack(
                [self.vectors[torch.tensor(numbers[n], device=self.device)].mean(0) for n in names]
            )
        )
        best = int((means @ means.mean(0)).argmax())
        return names[best], [round(value, 5) for value in means[best].tolist()]

    def speakers(self, rows: Tensor, vary: bool) -> Tensor:
        """``[B, E]``: means of the vectors of clips of the same speaker, and a little noise.

        Args:
            rows: ``[B]``.
            vary: one to four clips, drawn, now and then the clip itself; else four, evenly chosen.
        """
        device, size = rows.device, len(rows)
        share = torch.arange(MEANS, device=device)[None].expand(size, -1) / MEANS
        if vary:
            share = torch.rand(size, MEANS, device=device)
        chosen = (share * self.size[rows][:, None]).long()
        chosen = self.members[
            self.first[rows][:, None] + torch.minimum(chosen, self.size[rows][:, None] - 1)
        ]
        if not vary:
            return F.normalize(self.vectors[chosen].mean(1))
        own = torch.rand(size, device=device) < OWN_CHANCE
        chosen = torch.cat([torch.where(own, rows, chosen[:, 0])[:, None], chosen[:, 1:]], 1)
        counts = 1 + (MEANS * torch.rand(size, 1, device=device)).long()
        used = torch.arange(MEANS, device=device) < counts
        mean = F.normalize((self.vectors[chosen] * used[..., None]).sum(1))
        noise = torch.randn_like(mean) * (SHAKE / SPEAKER**0.5)
        return mean + noise * torch.rand(size, 1, device=device)

    def batch(self, rows: Tensor, bucket: Bucket, vary: bool) -> Batch:
        """Clips, filled up to the lengths of a bucket; no step of it waits for the device."""
        frames = self.frames[rows]
        place = torch.arange(bucket.frames, device=rows.device)
        index = (self.offsets[rows][:, None] + place).clamp_max(len(self.mels) - 1)
        mels = self.mels[index].float() * (place < frames[:, None])[..., None]
        return Batch(
            self.ids[rows][:, : bucket.letters],
            self.letters[rows],
            mels,
            frames,
            self.speakers(rows, vary),
            self.places[rows][:, : bucket.frames // REDUCTION],
            self.phones[rows],
            self.phone_counts[rows],
        )


def buckets_of(data: Data, rows: Iterable[int], batch: int, count: int) -> list[Bucket]:
    """Rows, sorted by length, in about equal parts; a step has about the same number of frames in each."""
    chosen = torch.tensor(list(rows))
    chosen = chosen[data.frames_cpu[chosen].argsort()]
    middle = float(data.frames_cpu[chosen].float().mean())
    made = []
    for part in chosen.chunk(min(count, len(chosen))):
        frames = -(-int(data.frames_cpu[part].max()) // 8) * 8
        letters = min(-(-int(data.letters_cpu[part].max()) // 8) * 8, data.ids.shape[1])
        size = max(1, round(batch * middle / frames / 8)) * 8 if batch >= 8 else batch
        made.append(Bucket(part, frames, letters, size))
    return made
