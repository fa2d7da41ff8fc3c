"""One contestant of ``bench.train_speed``, in a process of its own so that its peak memory is its own.

It reports in JSON lines and takes each timed step only when told to, so that contestants take turns.
A turn lasts from the word to the moment the next step could begin: fetching and collating count.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    EncodecConfig,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    T5Config,
)

from tunesmith.families.musicgen._tiny import byte_tokenizer
from tunesmith.families.musicgen.delay import apply_delay, delays

RANK, LEARNING_RATE = 16, 1e-4
FRAME_RATE_HZ = 50
GEOMETRIES: dict[str, dict[str, Any]] = {
    "small": {"layers": 8, "seconds": (10.0, 30.0), "batch": 4},
    "pocket": {"layers": 0, "seconds": (2.0, 10.0), "batch": 8},
    "micro": {"layers": 0, "seconds": (1.0, 3.0), "batch": 4},  # for a smoke run
}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def small_model(layers: int) -> MusicgenForConditionalGeneration:
    """musicgen-small with fewer layers and random weights; its codec is a stub, nobody uses it."""
    decoder = MusicgenDecoderConfig(num_hidden_layers=layers)  # the rest are musicgen-small's own
    text = T5Config(
        vocab_size=32128,
        d_model=768,
        d_kv=64,
        d_ff=3072,
        num_layers=12,
        num_heads=12,
    )
    codec = EncodecConfig(num_filters=2, hidden_size=8, num_lstm_layers=1)
    torch.manual_seed(0)
    return MusicgenForConditionalGeneration(
        MusicgenConfig(text_encoder=text, audio_encoder=codec, decoder=decoder)
    )


def build(geometry: str) -> tuple[MusicgenForConditionalGeneration, Any]:
    """The model and a tokenizer."""
    if geometry == "pocket":
        from transformers import AutoTokenizer

        from tunesmith.families import EMBEDDED

        folder = EMBEDDED["pocket"]
        return (
            MusicgenForConditionalGeneration.from_pretrained(folder),
            AutoTokenizer.from_pretrained(folder),
        )
    if geometry == "micro":
        from tunesmith.families.musicgen._tiny import tiny_model

        return tiny_model(0), byte_tokenizer()
    return small_model(GEOMETRIES[geometry]["layers"]), byte_tokenizer()


def clips(geometry: str, count: int, vocabulary: int, text_size: int) -> list[dict[str, Any]]:
    """Cached codes of uniformly spread lengths, and token ids of one of twelve captions."""
    low, high = GEOMETRIES[geometry]["seconds"]
    draw = random.Random(1)
    generator = torch.Generator().manual_seed(1)
    captions = [
        torch.randint(3, min(text_size, 250), (draw.randint(8, 24),), generator=generator)
        for _ in range(12)
    ]
    made = []
    for number in range(count):
        frames = round(draw.uniform(low, high) * FRAME_RATE_HZ)
        codes = torch.randint(vocabulary, (4, frames), generator=generator, dtype=torch.int16)
        ids = captions[number % len(captions)]
        made.append({"codes": codes, "input_ids": ids, "length": frames})
    return made


def chosen(
    batches: Sequence[Sequence[int]], lengths: Sequence[int], steps: int, rounds: int
) -> list[list[int]]:
    """Two batches to warm up, ``rounds`` times the same ``steps`` batches of an epoch, one to end.

    An epoch of hundreds of clips takes too long; batches at even ranks of padded length stand for
    it with less chance than its first few would.
    """
    whole = [list(batch) for batch in batches if len(batch) == len(batches[0])]
    ranked = sorted(whole, key=lambda batch: max(lengths[i] for i in batch))
    spread = [ranked[int((k + 0.5) * len(ranked) / steps)] for k in range(steps)]
    # One more step untimed: what waited through the others' warm-up has gone cold.
    # And one at the end, so that nobody's farewell falls into the last timed turns.
    return [ranked[-1], spread[0], *(spread * rounds), spread[0]]


def padding(batches: Sequence[Sequence[int]], lengths: Sequence[int]) -> float:
    """Share of an epoch's positions that is padding."""
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    return 1 - sum(lengths[i] for batch in batches for i in batch) / padded


class Turns:
    """Talks with the parent: announces, waits for the word, times the turn."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)  # what libraries print is no answer
        self._begin: float | None = None
        self.steps = 0

    def say(self, **values: Any) -> None:
        self._out.write(json.dumps(values) + "\n")

    def between_steps(self) -> None:
        """End the turn that was running, and wait for the word to begin another."""
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.steps += 1
        if self._begin is not None:
            self.say(seconds=now - self._begin)
        else:
            self.say(ready=True)
        sys.stdin.readline()
        self._begin = time.perf_counter()

    def finish(self, **values: Any) -> None:
        from tunesmith.training.hardware import peak_memory_bytes

        self.say(peak_bytes=peak_memory_bytes(DEVICE), **values)


def run_tunesmith(args: argparse.Namespace, turns: Turns) -> None:
    """The loop as ``train/run.py`` uses it."""
    from tunesmith.config import TrainConfig
    from tunesmith.families.musicgen.bundle import MusicgenBundle
    from tunesmith.methods import lora
    from tunesmith.training.checkpoint import Checkpoints
    from tunesmith.training.hardware import choose_dtype
    from tunesmith.training.log import MetricLog
    from tunesmith.training.loop import Intervals, Loop, Sets
    from tunesmith.training.measure import forward, mean_loss
    from tunesmith.training.streams import MAIN, Stream
    from tunesmith.types import Example

    model, tokenizer = build(args.geometry)
    text_size = model.config.text_encoder.vocab_size
    rows = clips(args.geometry, args.clips, model.config.decoder.vocab_size, text_size)
    bundle = MusicgenBundle(
        model.to(DEVICE).requires_grad_(False),
        tokenizer,
        lambda: None,  # type: ignore[arg-type, return-value]
        name=args.geometry,
        base_hash="",
        codec_hash="",
        text_hash="",
        licence="",
        max_s=30.0,
    )
    bundle.release_codec()
    begin = time.perf_counter()
    encoder = bundle.module.model.text_encoder.eval()
    states: dict[int, Any] = {}  # cached per caption, as ``data/encode.py`` does
    examples = []
    with torch.no_grad():
        for number, row in enumerate(rows):
            ids = row["input_ids"]
            if id(ids) not in states:
                hidden = encoder(input_ids=ids[None].to(DEVICE)).last_hidden_state[0]
                states[id(ids)] = hidden.float().cpu()
            text = {"ids": ids, "states": states[id(ids)]}
            examples.append(Example(str(number), row["codes"], text))
    text_s = (time.perf_counter() - begin) / len(states)
    dtype = choose_dtype(args.dtype, DEVICE)
    adapter = lora.attach(bundle, lora.Config(rank=RANK), 0)

    lengths = [row["length"] for row in rows]
    batch = GEOMETRIES[args.geometry]["batch"]
    total = 3 + args.steps * args.rounds
    train = TrainConfig(lr=LEARNING_RATE, batch_size=batch, steps=total)  # type: ignore[call-arg]
    never = 10**9

    def on_event(kind: str, values: Any) -> None:
        if kind == "train" and values["step"] < total:
            turns.between_steps()
        elif kind == "train":
            turns.say(seconds=time.perf_counter() - turns._begin)  # type: ignore[operator]

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        loop = Loop(
            bundle,
            adapter,
            Sets([Stream(MAIN, examples, lengths, batch)], [], []),
            train,
            Intervals(total, never, never, 0),
            seed=0,
            dtype=dtype,
            checkpoints=Checkpoints(place / "checkpoints"),
            best=Checkpoints(place / "best", keep=1),
            log=MetricLog(place / "metrics.jsonl"),
            on_event=on_event,
        )
        loss = mean_loss(bundle, examples[:batch], batch, lambda one: forward(bundle, one, dtype))
        sampler = loop.streams.main_sampler
        epoch = sampler.epoch(0)
        some = chosen(epoch, lengths, args.steps, args.rounds)
        sampler.batch = lambda number: (0, tuple(some[number]))  # type: ignore[method-assign]
        turns.say(
            loss=loss["loss"],
            padding=padding(epoch, lengths),
            dtype=str(dtype).removeprefix("torch."),
            text_s=text_s,
            threads=torch.get_num_threads(),
        )
        loop.run()
    turns.finish()


def run_trainer(args: argparse.Namespace, turns: Turns) -> None:
    """``transformers.Trainer`` and PEFT as they come, with what it takes to train at all.

    That is: a collator that pads, lays out the delay pattern and marks padding with -100, and the
    decoder start token that the configuration lacks.
    """
    import datasets
    from peft import LoraConfig, get_peft_model
    from torch.utils.data import Sampler
    from transformers import Trainer, TrainerCallback, TrainingArguments

    datasets.disable_progress_bars()
    model, tokenizer = build(args.geometry)
    decoder = model.config.decoder
    decoder.decoder_start_token_id = decoder.pad_token_id
    rows = clips(
        args.geometry, args.clips, decoder.vocab_size, model.config.text_encoder.vocab_size
    )
    lengths = [row["length"] for row in rows]
    batch = GEOMETRIES[args.geometry]["batch"]
    shifts = delays(decoder.num_codebooks, decoder.audio_channels)

    def collate(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        sequence = torch.nn.utils.rnn.pad_sequence
        codes = [torch.as_tensor(e["codes"]).long().T for e in examples]  # each [T, K]
        ids = [torch.as_tensor(e["input_ids"]) for e in examples]
        frames = torch.tensor([len(one) for one in codes])
        padded = sequence(codes, batch_first=True).transpose(1, 2)
        tokens, mask = apply_delay(padded, frames, shifts, decoder.pad_token_id)
        labels = tokens[..., 1:].masked_fill(~mask[..., 1:], -100).transpose(1, 2)
        return {
            "input_ids": sequence(ids, batch_first=True, padding_value=tokenizer.pad_token_id or 0),
            "attention_mask": sequence([torch.ones_like(one) for one in ids], batch_first=True),
            "labels": labels.contiguous(),
        }

    class Chosen(Sampler):
        """Some batches of the epoch that the trainer's own sampler has drawn."""

        def __init__(self, own: Any) -> None:
            order = [int(i) for i in own]
            self.epoch = [order[i : i + batch] for i in range(0, len(order), batch)]
            self.some = chosen(self.epoch, lengths, args.steps, args.rounds)

        def __len__(self) -> int:
            return sum(map(len, self.some))

        def __iter__(self) -> Any:
            return (index for one in self.some for index in one)

    class Timed(Trainer):
        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            own = Chosen(super()._get_train_sampler(*args, **kwargs))
            turns.say(
                loss=loss,
                padding=padding(own.epoch, lengths),
                dtype="bfloat16" if arguments.bf16 else "float32",
                text_s=text_s,
                threads=torch.get_num_threads(),
            )
            return own

    class Signals(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            if turns.steps or started:
                turns.between_steps()
            started.append(1)

        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            turns.say(seconds=time.perf_counter() - turns._begin)  # type: ignore[operator]

    started: list[int] = []
    data = datasets.Dataset.from_list(
        [{key: v if key == "length" else v.tolist() for key, v in row.items()} for row in rows]
    ).with_format("torch")
    peft_model = get_peft_model(
        model, LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["q_proj", "k_proj", "v_proj"])
    )
    peft_model.to(DEVICE).eval()
    first = {key: v.to(DEVICE) for key, v in collate([data[i] for i in range(batch)]).items()}
    with torch.no_grad():
        loss = float(peft_model(**first).loss)
        for _ in range(2):  # the first call is a warm-up
            begin = time.perf_counter()
            model.text_encoder(input_ids=first["input_ids"], attention_mask=first["attention_mask"])
            text_s = (time.perf_counter() - begin) / batch
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=batch,
            max_steps=3 + args.steps * args.rounds,
            learning_rate=LEARNING_RATE,
            train_sampling_strategy="group_by_length" if args.grouped else "random",
            bf16=args.dtype == "bfloat16",
            use_cpu=DEVICE.type == "cpu",
            remove_unused_columns=False,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        Timed(
            peft_model,
            arguments,
            data_collator=collate,
            train_dataset=data,
            callbacks=[Signals()],
        ).train()
    turns.finish()


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("who", choices=["tunesmith", "trainer"])
    options.add_argument("--geometry", choices=list(GEOMETRIES), required=True)
    options.add_argument("--dtype", default="float32")
    options.add_argument("--grouped", action="store_true")
    options.add_argument("--clips", type=int, required=True)
    options.add_argument("--steps", type=int, required=True)
    options.add_argument("--rounds", type=int, required=True)
    args = options.parse_args()
    warnings.simplefilter("ignore")
    turns = Turns()
    (run_tunesmith if args.who == "tunesmith" else run_trainer)(args, turns)


if __name__ == "__main__":
    main()
