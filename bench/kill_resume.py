"""SIGKILL at random moments, then resume: bit for bit what an uninterrupted run gives.

    python -m bench.kill_resume [--kills 25] [--seed 0] [--quick]

Each victim prepares, encodes and trains in folders and caches of its own, through the command
line, is killed once, and goes on as its user would: the same `prepare`, then `train --resume`. Five
of 25 are killed inside a checkpoint write; the others while preparing, encoding, validating,
sampling previews, training or saving, step 0 included. `lora` (with dropout and averaged weights)
and `full` in turn. The base is tiny, with dropout and layer drop, which draw from Python's and
torch's generators.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from bench._results import Row, parser, record
from bench._victim import STAGES

# The precision is given: what `auto` takes is measured at the start, and may differ under load.
METHODS = {
    "lora": [
        "train.ema=0.9",
        "method.dropout=0.1",
        "method.rank=4",
        "train.lr=1e-3",
        "base.dtype=bfloat16",
    ],
    "full": ["train.lr=1e-4", "base.dtype=float32"],
}
SETTINGS = [
    "train.steps=18",
    "train.batch_size=4",
    "train.accumulate=2",
    "train.eval_every=5",
    "train.checkpoint_every=3",
    "preview.every=7",
    "preview.seconds=1",
    "seed=7",
]
CLOCK = {"time", "seconds", "clips_per_s"}  # in metrics.jsonl
ACTIVITIES = {
    "prepare": 2,
    "load": 1,
    "encode": 3,
    "validate": 3,
    "preview": 3,
    "step": 6,
    "finish": 1,
    "report": 1,
}


def make_base(folder: Path) -> None:
    """A tiny MusicGen on the disk, with dropout and layer drop."""
    import torch
    from transformers import MusicgenForConditionalGeneration

    from tunesmith.families.musicgen._tiny import byte_tokenizer, tiny_config

    config = tiny_config()
    # Four layers: with two, a step in which layer drop takes both would come by now and then.
    config.decoder.num_hidden_layers = 4
    config.decoder.dropout, config.decoder.layerdrop = 0.1, 0.1
    torch.manual_seed(0)
    model = MusicgenForConditionalGeneration(config)
    for name, buffer in model.audio_encoder.named_buffers():
        if name.endswith("codebook.embed"):
            torch.nn.init.normal_(buffer, std=0.3)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    (folder / "tunesmith.json").write_text('{"max_s": 4.0, "licence": "Apache-2.0"}')


def make_recordings(folder: Path, count: int = 12, seconds: int = 16) -> None:
    """Noisy tones, each with a caption beside it."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    time_s = np.arange(seconds * 1600) / 1600
    for number in range(count):
        sound = 0.4 * np.sin(2 * np.pi * rng.uniform(80, 600) * time_s)
        sound += 0.05 * rng.standard_normal(len(sound))
        soundfile.write(folder / f"{number:02d}.wav", sound, 1600)
        (folder / f"{number:02d}.txt").write_text(f"tone number {number}")


@dataclass
class Victim:
    """One run in a folder of its own."""

    folder: Path
    base: Path
    recordings: Path
    method: str
    prepared: bool = False

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def _environment(self) -> dict[str, str]:
        return os.environ | {
            "TUNESMITH_CACHE": str(self.folder / "cache"),
            "OMP_NUM_THREADS": "1",
        }

    def command(self, verb: str, *before: str) -> list[str]:
        words = [str(self.recordings), str(self.folder / "data"), "--base", str(self.base)]
        words += ["--min-seconds", "2", "--max-seconds", "4"]
        if verb == "train":
            words = ["--base", str(self.base), "--method", self.method, "--out", str(self.run)]
            words += ["--data", str(self.folder / "data"), *SETTINGS, *METHODS[self.method]]
            if (self.run / "config.yaml").is_file():
                words = ["--resume", str(self.run)]
        victim = [sys.executable, "-m", "bench._victim", str(self.folder / "notes")]
        return [*victim, *before, "--", verb, *words]

    def start(self, verb: str, *before: str) -> subprocess.Popen[Any]:
        return subprocess.Popen(
            self.command(verb, *before),
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "log").open("ab"),
        )

    def activity(self) -> str:
        """What it is, or was last, doing."""
        notes = self.folder / "notes"
        return notes.read_text().strip() if notes.is_file() else ""

    def finish(self) -> None:
        """Prepare, if that was not over, and train, from wherever it stands, to the end."""
        verbs = ("train",) if self.prepared else ("prepare", "train")
        for verb in verbs:
            if self.start(verb).wait() != 0:
                raise RuntimeError((self.folder / "log").read_text()[-2000:])

    def kill_at(self, moment: str, share: float, typical_s: float) -> str:
        """Kill it ``share`` of the typical duration into an activity; what was going on then."""
        for verb in ("prepare", "train"):
            process = self.start(verb)
            while process.poll() is None and self.activity() != moment:
                time.sleep(0.0005)
            if process.poll() is None:
                time.sleep(share * typical_s)
            process.kill()
            if process.wait() == -9:
                return self.activity()
            self.prepared = True
        return ""

    def kill_in_write(self, stage: str, count: int) -> str:
        self.start("prepare").wait()
        self.prepared = True
        code = self.start("train", "--die", f"{stage}:{count}").wait()
        return f"write: {stage}" if code == -9 else ""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def next_batch(victim: Victim, step: int) -> str:
    """Hash of the batch that a further step would train on."""
    import yaml

    from tunesmith.data.encode import encode
    from tunesmith.data.load import load_dataset
    from tunesmith.families import find_base, load
    from tunesmith.training.sampler import Sampler, stable_seed

    config = yaml.safe_load((victim.run / "config.yaml").read_text())
    train, seed = config["train"], config["seed"]
    os.environ["TUNESMITH_CACHE"] = str(victim.folder / "cache")
    bundle = load(find_base(str(victim.base)))
    clips = [c for c in load_dataset(victim.folder / "data") if c.split == "train"]
    data = encode(clips, bundle)
    sampler = Sampler(data.lengths, train["batch_size"], seed, train["bucket"])
    epoch, indices = sampler.batch(step * train["accumulate"])
    examples = [data[index] for index in indices]
    seeds = [stable_seed(seed, example.clip_id, epoch) for example in examples]
    batch = bundle.collate(examples, seeds, train["caption_dropout"])
    parts = [batch.codes, batch.frames, *batch.text.values()]
    return sha256(b"".join(part.numpy().tobytes() for part in parts) + repr(seeds).encode())


def outcome(victim: Victim) -> dict[str, str]:
    """Hashes of all that has to be the same."""
    run = victim.run
    found = {
        str(file.relative_to(run)): sha256(file.read_bytes())
        for folder in ("adapter", "previews", "checkpoints")
        for file in sorted((run / folder).rglob("*"))
        if file.is_file() and file.name not in ("state.json", "manifest.json")
    }
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    state = json.loads((newest / "state.json").read_text())
    found["state"] = json.dumps(
        {k: v for k, v in state.items() if k not in ("train_s", "log_offset")}
    )
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in line.items() if k not in CLOCK} for line in lines]
    found["metrics.jsonl"] = sha256(json.dumps(kept).encode())
    found["lines"] = str(len(lines))
    found["next batch"] = next_batch(victim, state["step"])
    return found


def durations(victim: Victim) -> tuple[dict[str, list[str]], dict[str, float]]:
    """An uninterrupted run: which moments there are, and how long each kind takes."""
    seen: list[tuple[float, str]] = []
    for verb in ("prepare", "train"):
        process = victim.start(verb)
        while process.poll() is None:
            now = victim.activity()
            if not seen or seen[-1][1] != now:
                seen.append((time.perf_counter(), now))
            time.sleep(0.0005)
        seen.append((time.perf_counter(), "end"))
        if process.returncode:
            raise RuntimeError((victim.folder / "log").read_text()[-2000:])
    moments: dict[str, list[str]] = {}
    lengths: dict[str, list[float]] = {}
    for (begin, name), (end, _) in itertools.pairwise(seen):
        kind = name.partition(":")[0]
        if kind in ACTIVITIES and name not in moments.get(kind, []):
            moments.setdefault(kind, []).append(name)
            lengths.setdefault(kind, []).append(end - begin)
    return moments, {kind: sum(some) / len(some) for kind, some in lengths.items()}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--kills", type=int, default=25)
    options.add_argument("--seed", type=int, default=0)
    args = options.parse_args()
    kills = 4 if args.quick else args.kills
    draw = random.Random(args.seed)
    in_write = max(1, kills // 5)
    kinds = [kind for kind, count in ACTIVITIES.items() for _ in range(count)]
    draw.shuffle(kinds)
    plan = ["write"] * in_write + [kinds[i % len(kinds)] for i in range(kills - in_write)]
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        make_base(top / "base")
        make_recordings(top / "recordings")
        expected, moments, typical = {}, {}, {}
        for method in METHODS:
            reference = Victim(
                top / f"reference-{method}", top / "base", top / "recordings", method
            )
            reference.folder.mkdir()
            moments[method], typical[method] = durations(reference)
            expected[method] = outcome(reference)
            kept = expected[method]
            print(f"{method}: {kept['lines']} log lines, {len(kept)} things compared", flush=True)
        same, where = 0, Counter()
        for number, kind in enumerate(plan):
            method = list(METHODS)[number % 2]
            victim = Victim(top / f"victim{number}", top / "base", top / "recordings", method)
            killed = ""
            while not killed:
                shutil.rmtree(victim.folder, ignore_errors=True)
                victim.folder.mkdir()
                victim.prepared = False
                if kind == "write":
                    killed = victim.kill_in_write(STAGES[number % len(STAGES)], draw.randint(1, 9))
                else:
                    moment = draw.choice(moments[method][kind])
                    killed = victim.kill_at(moment, draw.random(), typical[method][kind])
            victim.finish()
            found = outcome(victim)
            differing = sorted(
                key
                for key in found.keys() | expected[method].keys()
                if found.get(key) != expected[method].get(key)
            )
            same += not differing
            where[re.sub(r":\d+$", "", killed).partition(": ")[0]] += 1
            verdict = f"differs in {differing}" if differing else "bit-identical"
            print(f"{number + 1:2d} {method} killed in '{killed}': {verdict}", flush=True)
            if not differing:
                shutil.rmtree(victim.folder)
    told = ", ".join(f"{kind} {count}" for kind, count in sorted(where.items()))
    row = Row(
        f"SIGKILL at {kills} random moments, {in_write} inside a checkpoint write, then resume",
        f"{kills} of {kills} bit-identical",
        f"{same} of {kills} (killed in: {told})",
        same == kills,
    )
    print(row)
    if not args.quick:
        record(
            "kill_resume",
            "Killed and resumed",
            [row],
            notes="Compared: adapter, every checkpoint's weights, optimizer and averages, previews, "
            "metrics.jsonl without its times, the state, the next batch. "
            f"Seed {args.seed}, one thread, tiny base; full (float32) and lora (bfloat16) in turn.",
        )


if __name__ == "__main__":
    main()
