"""One contestant of ``bench.train_speed``, in a process of its own so that its peak memory is its own.

It reports in JSON lines and takes each timed turn only when told to, so that contestants take turns.
A turn lasts from the word to the moment the next step could begin: fetching and collating count.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from bench._turns import (
    DEVICE,
    GEOMETRIES,
    LEARNING_RATE,
    RANK,
    Turns,
    block,
    build,
    chosen,
    clips,
    lora_flops,
    padding,
    total_steps,
)
from tunesmith.families.musicgen.delay import apply_delay, delays


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
    total = total_steps(args.steps, args.rounds)
    train = TrainConfig(  # type: ignore[call-arg]
        lr=LEARNING_RATE, batch_size=batch, steps=total, record=not args.plain
    )
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
            flops=sum(lora_flops(model.config, rows, one) for one in some[1 : 1 + args.steps]),
        )
        loop.run()
        told = {name: getattr(loop.gradients, name, None) for name in ("record_s", "refused")}
    turns.finish(**told)


def trainer_data(rows: list[dict[str, Any]], grouped: int) -> tuple[Any, Any]:
    """What the Trainer is given, and a sampler where it cannot find the lengths by itself.

    Args:
        rows: the clips.
        grouped: clips a batch whose lengths are to be alike; 0 for any.
    """
    try:
        import datasets
    except ImportError:  # a list will do, but the Trainer would measure the captions
        from transformers.trainer_pt_utils import LengthGroupedSampler

        lengths = [row["length"] for row in rows]
        return rows, LengthGroupedSampler(grouped, lengths=lengths) if grouped else None
    datasets.disable_progress_bars()
    plain = [{key: v if key == "length" else v.tolist() for key, v in row.items()} for row in rows]
    return datasets.Dataset.from_list(plain).with_format("torch"), None


def run_trainer(args: argparse.Namespace, turns: Turns) -> None:
    """``transformers.Trainer`` and PEFT as they come, with what it takes to train at all.

    That is: a collator that pads, lays out the delay pattern and marks padding with -100, and the
    decoder start token that the configuration lacks.
    """
    from peft import LoraConfig, get_peft_model
    from torch.utils.data import Sampler
    from transformers import Trainer, TrainerCallback, TrainingArguments

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
            own = Chosen(sampler or super()._get_train_sampler(*args, **kwargs))
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
    data, sampler = trainer_data(rows, batch if args.grouped else 0)
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
    strategy = {"train_sampling_strategy": "group_by_length" if args.grouped else "random"}
    if "train_sampling_strategy" not in {one.name for one in fields(TrainingArguments)}:
        strategy = {"group_by_length": args.grouped}  # what it was called before
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=batch,
            max_steps=total_steps(args.steps, args.rounds),
            learning_rate=LEARNING_RATE,
            **strategy,
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
    options.add_argument("--plain", action="store_true", help="ours: nothing recorded")
    options.add_argument("--clips", type=int, required=True)
    options.add_argument("--steps", type=int, required=True)
    options.add_argument("--rounds", type=int, required=True)
    args = options.parse_args()
    warnings.simplefilter("ignore")
    turns = Turns(block(args.steps))
    (run_tunesmith if args.who == "tunesmith" else run_trainer)(args, turns)


if __name__ == "__main__":
    main()
