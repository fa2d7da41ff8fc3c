"""Train the text-to-speech model of ``pocket-voice``; final weights: ``WORK/tts.safetensors``.

Everything lies on the device: mels of all clips, letters, speakers' vectors. On a GPU each shape of batch
is captured once as a CUDA graph of the whole step, optimizer and averages included, for a model this
small would spend most of its time on launching. If that fails the process starts itself anew without.
A clip is spoken as the mean of a few x-vectors of its speaker's clips, as an adapter will be.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pretrain import checkpoint
from pretrain.common import append_jsonl, fast_dtype, log, parser, set_up
from pretrain.voice import export, tts_align, tts_check, tts_model
from pretrain.voice.tts_align import Lessons
from pretrain.voice.tts_data import Bucket, Data, buckets_of

TERMS = ("before", "after", "stop", "attention", "aligned", "spelt")
ATTENTION_WEIGHT = 3.0  # times the config's scale: minutes, not days, to find the diagonal
LAST_RATE = 0.02
SHOW_EVERY = 100


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay, and nothing else does."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


class Trainer:
    """A model, its optimizer, and one step of training for each shape of batch."""

    def __init__(
        self,
        model: Any,
        data: Data,
        buckets: list[Bucket],
        device: str,
        lessons: Lessons,
        most: float,
    ) -> None:
        self.model, self.data, self.buckets, self.device = model, data, buckets, device
        self.lessons = lessons
        self.weights = torch.tensor(
            [1, lessons.refine, 1, ATTENTION_WEIGHT, lessons.aligned, lessons.spelt], device=device
        )
        cuda = torch.device(device).type == "cuda"
        # A graph keeps its numbers: what is to change in it lies in tensors.
        self.rate = torch.zeros((), device=device)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, 0.01),
            lr=self.rate,
            betas=(0.9, 0.98),
            eps=1e-8,
            fused=True,
            capturable=cuda,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate  # itself: a copy would stay as it is
        self.average = tts_model.Average(model, most)
        self.seen = torch.zeros(len(TERMS) + 1, device=device)
        self.rows = [torch.zeros(b.batch, dtype=torch.long, device=device) for b in buckets]
        self.graphs: list[Any] = [None] * len(buckets)
        self._cast = fast_dtype(device) == torch.bfloat16

    def cast(self) -> torch.autocast:
        """As :func:`pretrain.common.autocast`, without its cache of weights, which a graph must not use."""
        kind = torch.device(self.device).type
        return torch.autocast(kind, torch.bfloat16, enabled=self._cast, cache_enabled=False)

    def step(self, number: int) -> None:
        """One step with what lies in ``rows`` of a bucket."""
        bucket = self.buckets[number]
        batch = self.data.batch(self.rows[number], bucket, vary=True)
        ask, reduction = self.lessons, self.model.config.reduction_factor
        history = tts_model.heard(batch.mels, reduction, corrupt=True)
        with self.cast():
            if ask.own:
                history = tts_align.own_words(self.model, batch, history, ask.own)
            if ask.withheld:
                history = tts_align.withheld(history, ask.withheld, self.data.mean)
            found = tts_model.predict(self.model, batch, history, ask.refine)
        terms = self.terms(found, batch)
        (terms * self.weights).sum().backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, foreach=True)
        self.optimizer.step()
        self.average.update()
        self.seen.lerp_(torch.cat([terms.detach(), norm.detach()[None]]), 0.02)

    def terms(self, found: tts_model.Predicted, batch: tts_model.Batch) -> Tensor:
        """``[6]``: the losses of the library, then those of the lessons."""
        ask, reduction = self.lessons, self.model.config.reduction_factor
        made = [*tts_model.losses(self.model, found, batch)]
        made += [torch.zeros_like(made[0])] * 2
        if ask.aligned:
            made[4] = tts_align.looking(found, batch, ask.heads, ask.sigma, reduction)
        if ask.spelt:
            made[5] = tts_align.spelling(self.model, found.states, batch)
        return torch.stack(made)

    def eager(self, number: int) -> None:
        """The same without a graph."""
        self.optimizer.zero_grad(set_to_none=True)
        self.step(number)

    def capture(self) -> None:
        """Make a graph of each bucket's step. Warming up trains, at the present rate."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for number in list(range(len(self.buckets))) * 2:
                self.eager(number)
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        pool = torch.cuda.graph_pool_handle()
        for number in range(len(self.buckets)):
            self.optimizer.zero_grad(set_to_none=True)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                self.step(number)
            self.graphs[number] = graph

    def run(self, number: int, rows: Tensor) -> None:
        """Train on these rows of the data."""
        self.rows[number].copy_(rows, non_blocking=True)
        if self.graphs[number] is None:
            self.eager(number)
        else:
            self.graphs[number].replay()

    @torch.no_grad()
    def validate(self, buckets: list[Bucket], most: int = 4) -> dict[str, float]:
        """Mean terms of other clips, teacher forced, without dropout but the prenet's."""
        self.model.eval()
        sums = torch.zeros(len(TERMS) + 1, device=self.device)
        for bucket in buckets[:most]:
            rows = bucket.rows[: bucket.batch].to(self.device)
            batch = self.data.batch(rows, bucket, vary=False)
            with self.cast():
                found = tts_model.predict(self.model, batch)
                other = replace(batch, ids=batch.ids.roll(1, 0), letters=batch.letters.roll(1))
                wrong = tts_model.predict(self.model, other)
            terms = self.terms(found, batch)
            worse = tts_model.losses(self.model, wrong, batch)[0] - terms[0]
            sums += torch.cat([terms, worse[None]])
        self.model.train()
        means = (sums / len(buckets[:most])).tolist()
        names = (*TERMS, "text")  # the last: what it would lose with the text of another clip
        return {f"valid_{k}": round(v, 4) for k, v in zip(names, means, strict=True)}


def plan(buckets: list[Bucket], seed: int, epoch: int, device: str) -> list[tuple[int, Tensor]]:
    """An epoch: ``(bucket, rows)`` in random order; a function of seed and epoch."""
    draw = torch.Generator().manual_seed(seed * 100_003 + epoch)
    made = []
    for number, bucket in enumerate(buckets):
        order = bucket.rows[torch.randperm(len(bucket.rows), generator=draw)]
        if len(order) < bucket.batch:
            order = order.repeat(-(-bucket.batch // len(order)))
        order = order.to(device)
        for at in range(0, len(order) - bucket.batch + 1, bucket.batch):
            made.append((number, order[at : at + bucket.batch]))
    random.Random(seed * 100_003 + epoch).shuffle(made)
    return made


def rate_at(step: int, progress: float, peak: float, warm_up: int) -> float:
    """Warm-up by steps, then a cosine over the time."""
    fall = LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return peak * min(1.0, (step + 1) / warm_up) * fall


def restart(*further: str) -> None:
    """This process anew, from its last checkpoint, with further options (the last of a kind counts)."""
    log(f"tts: starts anew with {' '.join(further)}")
    module = ["-m", "pretrain.voice.tts"]
    os.execv(sys.executable, [sys.executable, *module, *sys.argv[1:], *further])


def trained(path: Path) -> bool:
    """Whether a listener's weights are there, and those of the end of its training."""
    if not path.exists():
        return False
    with safe_open(str(path), framework="pt") as file:
        return "training" in json.loads((file.metadata() or {}).get("config", "{}"))


def wait_for(path: Path, minutes: float) -> None:
    """Until a listener is trained; it also leaves weights on its way, which would be of no use."""
    end = time.monotonic() + 60 * minutes
    while not trained(path):
        if time.monotonic() > end:
            raise FileNotFoundError(f"{path} has not come within {minutes} minutes")
        time.sleep(0.5)


def minutes_left(minutes: float, deadline: float) -> float:
    """The budget, or what is left until a deadline (seconds since 1970), if that is less."""
    return min(minutes, (deadline - time.time()) / 60) if deadline else minutes


def write_weights(path: Path, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
    """Final weights in float16, atomically; notes become metadata, as JSON."""
    kept = {
        k: (v.half() if v.is_floating_point() else v).detach().cpu().contiguous()
        for k, v in tts_align.without_head(tensors).items()
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    save_file(kept, temporary, metadata={k: json.dumps(v) for k, v in notes.items()})
    os.replace(temporary, path)


def train(args: argparse.Namespace) -> None:
    """Train for the time that is given, check by speaking, write the weights."""
    work, device = args.work, args.device
    folder, curve = work / "tts", work / "logs" / "tts.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    sound, rows, count = Data.read(work, args.max_s, args.languages.split(","))
    letters = tts_model.letters_of(row["text"] for row in rows)
    begin, known = {}, {}
    if args.begin:
        begin, known = export.read_weights(args.begin)
        letters = known["letters"]
    config = tts_model.make_config(letters, **json.loads(args.geometry))
    tokenizer = tts_model.make_tokenizer(letters)
    inventory = sorted({phone for row in rows[:count] for phone in row.get("phones", ())})
    data = Data(sound, rows, count, tokenizer, device, inventory)
    log(f"tts: {count} + {len(rows) - count} clips, {len(data.mels) / 225_000:.2f} h of mels")
    model = tts_model.make_model(config, args.seed, data.mean.cpu())
    lessons = Lessons(**json.loads(args.lessons))
    if lessons.spelt:
        tts_align.add_head(model, len(inventory))
    model.load_state_dict(begin, strict=False)
    model.to(device).train()
    size = sum(p.numel() for p in model.parameters())
    buckets = buckets_of(data, range(count), args.batch, args.buckets)
    others = buckets_of(data, range(count, len(rows)), min(args.batch, 48), 4)
    log(f"tts: {size / 1e6:.2f} M parameters, {[(b.batch, b.frames, b.letters) for b in buckets]}")
    trainer = Trainer(model, data, buckets, device, lessons, args.average)
    counters = {"step": 0.0, "trained_s": 0.0, "epoch": 0.0}
    last = folder / "checkpoint.safetensors"
    if last.exists():
        counters, averages = checkpoint.load(last, model, trainer.optimizer)
        trainer.average.load(averages)
        trainer.average.steps.fill_(counters["step"])
        for state in trainer.optimizer.state.values():
            state["step"] = state["step"].to(device)
        log(f"tts: resumed at step {counters['step']:.0f}")
    step = int(counters["step"])
    trainer.rate.fill_(rate_at(step, 0.0, args.rate, args.warm_up))
    if torch.device(device).type == "cuda" and not args.no_graphs:
        try:
            trainer.capture()
            log(f"tts: {len(buckets)} graphs")
        except Exception as error:  # whatever it is, without graphs it is not
            log(f"tts: no graphs ({str(error)[:200]})")
            restart("--no-graphs")
    vectors = args.xvector or work / "weights" / "xvector.safetensors"
    wait_for(vectors, args.wait_minutes)
    data.hear_speakers(vectors, device)
    log(f"tts: speakers of {vectors}")
    budget_s = 60 * minutes_left(args.minutes, args.deadline)
    budget_s += counters["trained_s"] if args.deadline else 0.0
    began = saved = time.monotonic()
    speaker, vector = data.middle_voice()
    notes = {
        "speaker": speaker,
        "voice": vector,
        "config": config.to_diff_dict(),
        "letters": letters,
        "xvector": hashlib.sha256(vectors.read_bytes()).hexdigest(),
        "clips": count,
    }
    final = work / "tts.safetensors"
    epoch, earlier_s, done = int(counters["epoch"]), counters["trained_s"], False

    def spent_s() -> float:
        return earlier_s + time.monotonic() - began

    while not done:
        for number, chosen in plan(buckets, args.seed, epoch, device):
            progress = spent_s() / max(1e-9, budget_s)
            trainer.rate.fill_(rate_at(step, progress, args.rate, args.warm_up))
            trainer.run(number, chosen)
            step += 1
            done = spent_s() >= budget_s or step >= args.steps
            if step % SHOW_EVERY == 0 or done:
                terms = trainer.seen.tolist()  # also keeps this side from running ahead
                if not all(map(math.isfinite, terms)):
                    restart("--rate", str(args.rate / 2))
                row = {"step": step, "s": round(spent_s(), 1), "epoch": epoch}
                row |= {k: round(v, 4) for k, v in zip((*TERMS, "norm"), terms, strict=True)}
                if time.monotonic() - saved > args.save_s or done:
                    row |= trainer.validate(others)
                    counters = {"step": step, "trained_s": spent_s(), "epoch": epoch}
                    kept = trainer.average.kept
                    checkpoint.save(last, model, trainer.optimizer, counters, kept)
                    # Also what it would be if it had to end here.
                    ended = {**notes, "counters": counters, "figures": row}
                    write_weights(final, {**model.state_dict(), **kept}, ended)
                    saved = time.monotonic()
                    log(f"tts: {row}")
                append_jsonl(curve, row)
            if done:
                break
        epoch += 1
    model.load_state_dict(trainer.average.kept, strict=False)
    figures = trainer.validate(others)
    notes, tensors = {**notes, "counters": counters}, model.state_dict()
    write_weights(final, tensors, {**notes, "figures": figures})
    log(f"tts: averaged {figures}")
    figures |= tts_check.speaks(model.eval(), data, range(count, len(rows)), args.check)
    write_weights(final, tensors, {**notes, "figures": figures})
    log(f"tts: done, {figures}")


def main() -> None:
    """Command line."""
    p = parser(__doc__)
    p.set_defaults(work=Path("build/voice"))
    p.add_argument("--minutes", type=float, default=5.5)
    p.add_argument("--deadline", type=float, default=0.0, help="end by this time (s since 1970)")
    p.add_argument("--steps", type=int, default=10**9, help="the most")
    p.add_argument("--batch", type=int, default=96, help="clips of middling length")
    p.add_argument("--buckets", type=int, default=6)
    p.add_argument("--rate", type=float, default=1e-3)
    p.add_argument("--max-s", type=float, default=7.0, help="longer clips are left out")
    p.add_argument("--xvector", type=Path, help="by default WORK/weights/xvector.safetensors")
    p.add_argument("--wait-minutes", type=float, default=8.0, help="for that file")
    p.add_argument("--no-graphs", action="store_true")
    p.add_argument("--check", type=int, default=24, help="clips to speak at the end")
    p.add_argument("--begin", type=Path, help="weights of an earlier training to go on from")
    p.add_argument("--languages", default="", help="beginnings of their names, with commas")
    p.add_argument("--lessons", default="{}", help="JSON: changes of tts_align.Lessons")
    p.add_argument("--average", type=float, default=0.999, help="share that a step keeps, at most")
    p.add_argument("--warm-up", type=int, default=400, help="steps")
    p.add_argument("--save-s", type=float, default=60.0, help="seconds between checkpoints")
    p.add_argument("--geometry", default="{}", help="JSON: changes of the config, for tests")
    args = p.parse_args()
    set_up(args)
    if torch.device(args.device).type == "cuda":
        torch.set_float32_matmul_precision("high")
    train(args)


if __name__ == "__main__":
    main()
