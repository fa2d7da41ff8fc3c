"""Every technique on the embedded base: the same recordings, the same number of clips seen.

python -m bench.methods [--quick] [--only NAME,NAME] [--base pocket] [--work DIR [--done]]

Measured as the demo measures: an unheard style, three seeds each, 128 held-out clips, 128 takes a
model, gap closed by the tagger's embedding. With --work what is done is kept, and a second call
goes on. Rows of what was not asked for keep the figures that they had.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench._methods import train_one
from bench._results import Row, parser, record
from bench._techniques import (
    FEWER,
    LONG,
    MORE,
    NO_VALIDATION,
    RATES,
    SHORTER,
    TECHNIQUES,
    Technique,
)
from tunesmith.data import prepare
from tunesmith.data.load import load_dataset
from tunesmith.demo import CLIPS
from tunesmith.errors import UserError
from tunesmith.evaluation.hearing import embed
from tunesmith.families import base_limits, find_base
from tunesmith.metrics import gap as gaps
from tunesmith.metrics.gap import Gap
from tunesmith.training.signals import StopFlag
from tunesmith.training.workers import Job, run_jobs

SEEDS = (0, 1, 2)
STEPS, BATCH = 80, 8
TAKES, FEW_TAKES = 128, 64
TAKE_SEED, SECONDS = 10_000, 5.0


@dataclass(frozen=True, slots=True)
class Found:
    """What a technique gave.

    Attributes:
        closed: gap closed by each seed; None where there is no clear gap.
        p_value: of the mean drop in KAD.
        general: change of the general loss of the weights that were kept, per seed.
        parameters: that trained.
        peak_bytes: highest resident memory of a training process.
        train_s: seconds in training steps, a process alone with one thread beside another one.
        loss: validation loss of base and adapted, per seed.
        steps, takes: how many of each.
    """

    closed: list[float | None]
    p_value: float
    general: list[float]
    parameters: int
    peak_bytes: int
    train_s: list[float]
    loss: list[tuple[float, float]] = field(default_factory=list)
    steps: int = 0
    takes: int = 0

    @property
    def median(self) -> float | None:
        known = [one for one in self.closed if one is not None]
        return statistics.median(known) if known else None


class Bench:
    """Data sets, the base's takes and the reference, made once.

    Args:
        work: folder for all of it.
        quick: few of everything.
        base: name of the embedded base.
    """

    def __init__(self, work: Path, quick: bool, base: str = "pocket") -> None:
        self.work, self.quick, self.base = work, quick, base
        self.seeds = SEEDS[:2] if quick else SEEDS
        self.silent = {"stop": StopFlag(), "on_event": lambda kind, values: None}
        self._data()
        self.held_out = sorted((CLIPS / "held-out").glob("*.ogg"))[: 6 if quick else TAKES]
        self.captions = [
            file.with_suffix(".txt").read_text(encoding="utf-8").strip() for file in self.held_out
        ]

    def _data(self) -> None:
        rate, channels, longest = base_limits(self.base)
        for name, share in (("style", 0.25), ("general", 0.5), (f"style{NO_VALIDATION}", 0.0)):
            prepare(
                CLIPS / name.removesuffix(str(NO_VALIDATION)), self.work / "data" / name,
                sample_rate_hz=rate, channels=channels,
                min_s=2.0, max_s=SECONDS, base_max_s=longest, valid_share=share,
                rights="composed for this package",
            )  # fmt: skip
        for clips in sorted({one.clips for one in TECHNIQUES if one.clips > 0}):
            self._part(clips)

    def _part(self, clips: int) -> None:
        """The same validation side, and only the first of the training side."""
        target = self.work / "data" / f"style-{clips}"
        if target.is_dir():
            return
        counts = {"train": clips, "valid": 10**6}
        for clip in load_dataset(self.work / "data" / "style"):
            counts[clip.split] -= 1
            if counts[clip.split] >= 0:
                place = target / clip.split / clip.path.name
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(clip.path, place)
                place.with_suffix(".txt").write_text(clip.caption, encoding="utf-8")

    def _settings(self, technique: Technique, seed: int) -> dict[str, Any]:
        kinds = {0: "style", NO_VALIDATION: f"style{NO_VALIDATION}"}
        name = kinds.get(technique.clips, f"style-{technique.clips}")
        return {
            "base": self.base,
            "data": str(self.work / "data" / name),
            "data.general": str(self.work / "data" / "general"),
            "out": str(self.run(technique, seed)),
            "seed": seed,
            "train.batch_size": BATCH,
            "preview.every": 0,
            "train.steps": STEPS,
            **SHORTER.get(self.base, {}),
            **technique.settings,
            **RATES.get(self.base, {}).get(technique.name, {}),
            **({"train.steps": 4, "train.eval_every": 2} if self.quick else {}),
        }

    def takes(self, technique: Technique) -> int:
        """Takes a model: fewer where only the order of rows among themselves matters."""
        few = technique.group in ("ranks", "amounts")
        most = FEW_TAKES if few else FEWER.get(self.base, TAKES)
        more = MORE.get(self.base, {}).get(technique.name, most)
        return min(len(self.captions), max(most, more))

    def steps(self, technique: Technique) -> int:
        """Of its trainings."""
        return int(self._settings(technique, 0)["train.steps"])

    def run(self, technique: Technique, seed: int) -> Path:
        return self.work / "runs" / f"{technique.name}-{seed}"

    def done(self, technique: Technique) -> bool:
        """Whether nothing of it is left to do but to measure."""
        runs = [self.run(technique, seed) for seed in self.seeds]
        takes = [len([*(self.work / "takes" / run.name).glob("*.flac")]) for run in runs]
        return all((run / "bench.json").is_file() for run in runs) and all(
            count == self.takes(technique) for count in takes
        )

    def jobs(self, techniques: Sequence[Technique]) -> list[Job]:
        """Base and codec first, then each technique's trainings and takes."""
        sing = "tunesmith.evaluation.takes:make_takes"
        common = {"base": self.base, "seed": TAKE_SEED, "duration_s": SECONDS}
        takes = self.work / "takes"
        found = [
            Job("base", sing, common | {"out": str(takes / "base"), "run": None,
                "prompts": self.captions[: max(map(self.takes, techniques), default=0)]}),
            Job("codec", "tunesmith.evaluation.takes:through_codec",
                {"out": str(takes / "codec"), "base": self.base, "files": list(map(str, self.held_out))}),
        ]  # fmt: skip
        for one in techniques:
            prompts = [
                one.prompt.format(caption=caption) for caption in self.captions[: self.takes(one)]
            ]
            for seed in self.seeds:
                run = self.run(one, seed)
                found.append(
                    Job(
                        run.name,
                        "bench._methods:train_one",
                        {"settings": self._settings(one, seed)},
                    )
                )
                found.append(
                    Job(
                        f"takes of {run.name}",
                        sing,
                        common
                        | {"out": str(takes / run.name), "run": str(run), "prompts": prompts},
                        after=(run.name,),
                    )
                )
        return found

    def measure(self, techniques: Sequence[Technique], workers: int) -> dict[str, Found]:
        """Run what is not done, and compare."""
        made = run_jobs(
            self.jobs(techniques), workers=workers, stop=self.silent["stop"], on_event=_tell
        )
        reference, ceiling, base = (
            embed(files) for files in (self.held_out, made["codec"], made["base"])
        )
        found = {}
        for one in techniques:
            names = [self.run(one, seed).name for seed in self.seeds]
            adapted = [embed(made[f"takes of {name}"]) for name in names]
            gap = gaps.compute(reference, ceiling, base[: self.takes(one)], adapted, seed=0)
            found[one.name] = _found(
                gap, [made[name] for name in names], self.steps(one), self.takes(one)
            )
            print(one.says, asdict(found[one.name]), flush=True)
        return found


def _tell(kind: str, values: Mapping[str, Any]) -> None:
    if kind == "takes" and values["done"] == values["total"]:
        print(values["of"], flush=True)


def _found(gap: Gap, told: Sequence[Mapping[str, Any]], steps: int, takes: int) -> Found:
    return Found(
        closed=list(gap.closed),
        p_value=gap.p_value,
        general=[one["general_after"] / one["general_before"] - 1 for one in told],
        parameters=told[0]["parameters"],
        peak_bytes=max(one["peak_bytes"] for one in told),
        train_s=[one["train_s"] for one in told],
        loss=[(one["loss_before"], one["loss_after"]) for one in told],
        steps=steps,
        takes=takes,
    )


def rows_of(
    techniques: Sequence[Technique], found: Mapping[str, Found], base: str = "pocket"
) -> list[Row]:
    """The table, and the claims that stand on it."""
    rows = []
    for one in techniques:
        if one.group == "prior":
            continue
        got = found.get(one.name)
        what = {"methods": "", "ranks": "rank: ", "amounts": "amount of data: "}[
            one.group
        ] + one.says
        bar = "p < 0.05, gap closed > 0" if one.group == "methods" else ""
        if one.name == "textual_inversion":
            bar = "gap closed >= 20 %, p < 0.05"
        if got is None:
            rows.append(Row(what, bar, None, missing="not measured"))
            continue
        each = ", ".join("no clear gap" if x is None else f"{x:.0%}" for x in got.closed)
        losses = ", ".join(f"{after:.3f}" for _, after in got.loss)
        figure = (
            f"gap closed {got.median:.0%} ({each}), p = {got.p_value:.3g}; general loss "
            f"{statistics.median(got.general):+.1%}; validation loss {got.loss[0][0]:.3f} -> {losses}; "
            f"{got.parameters:,} parameters; peak {got.peak_bytes / 2**20:.0f} MiB; "
            f"{statistics.median(got.train_s):.0f} s{_unlike(one, got, base)}"
            if got.median is not None
            else "no clear gap"
        )
        passed = None
        if bar:
            least = 0.2 if one.name == "textual_inversion" else 0.0
            passed = got.median is not None and got.median > least and got.p_value < 0.05
        rows.append(Row(what, bar, figure, passed))
    return [*rows, *_prior_rows(found), *_qlora_rows(found)]


def _unlike(technique: Technique, got: Found, base: str) -> str:
    """Steps and takes, where they are not what the table's notes say."""
    usual = _usual_steps(base), FEWER.get(base, TAKES)
    if technique.group != "methods" or (got.steps, got.takes) == usual:
        return ""
    return f"; {got.steps} steps, {got.takes} takes"


def _usual_steps(base: str) -> int:
    return SHORTER.get(base, {}).get("train.steps", STEPS)


def _prior_rows(found: Mapping[str, Found]) -> list[Row]:
    what = "DreamBooth at too high a rate, no early stopping: prior weight 1 against 0"
    bar = (
        "without: general loss >= +10 %; with: forgetting at least halved, gap closed >= 0.9 times"
    )
    without, with_it = found.get("prior-0"), found.get("prior-1")
    if not without or not with_it or without.median is None or with_it.median is None:
        return [Row(what, bar, None, missing="not measured")]
    before, after = statistics.median(without.general), statistics.median(with_it.general)
    kept = with_it.median / without.median
    passed = before >= 0.10 and after <= before / 2 and kept >= 0.9
    figure = (
        f"general loss {before:+.1%} without, {after:+.1%} with; gap closed {without.median:.0%} "
        f"without, {with_it.median:.0%} with ({kept:.2f} times)"
    )
    return [Row(what, bar, figure, passed)]


def _qlora_rows(found: Mapping[str, Found]) -> list[Row]:
    what, bar = "QLoRA's final validation loss against LoRA's, medians of three seeds", "within 3 %"
    plain, packed = found.get("lora"), found.get("qlora")
    if not plain or not packed:
        return [Row(what, bar, None, missing="not measured")]
    left, right = (statistics.median(after for _, after in one.loss) for one in (plain, packed))
    figure = f"{right:.4f} against {left:.4f}: {right / left - 1:+.2%}"
    return [Row(what, bar, figure, abs(right / left - 1) <= 0.03)]


def notes_of(base: str) -> str:
    """The conditions of a table."""
    unlike = ", where a row says no other numbers" if base in MORE else ""
    of_takes = f"{FEWER.get(base, TAKES)} takes a model{unlike}, {TAKES} held-out clips. "
    where = _ON_CUDA if torch.cuda.is_available() else _ON_CPU
    steps = f"{_usual_steps(base)} steps of {BATCH} clips for every technique"
    more = {"pocket": _PRIORS, "pocket-diffusion": _LONGER}.get(base, "")
    return f"{steps}, {of_takes}{_NOTES}{where}{more}"


_NOTES = (
    "Learning rates: the base's own for LoRA, for "
    "the others one to three tried on one seed by validation loss; DreamBooth took over those of full "
    "and LoRA. 45 clips of calypso with steel drums (34 to train with), which the base never "
    "heard; the general clips are trained on by none. Gap closed: median of three seeds (each), "
    "p: one permutation test over the three (docs/metrics.md). Peak: resident memory of the training "
    "process, torch and transformers included."
)
_ON_CPU = (
    " Seconds: of the training steps, one thread a process, two processes at a time, on a machine with "
    "other work."
)
_ON_CUDA = " Seconds: of the training steps, several processes on one GPU, beside other work."
_LONGER = (
    " QLoRA and both prefixes have more steps and takes since a first time gave p = 0.063, 0.35 and 0.54 "
    "with those of the others; prefixes then also started with most of their vectors equal, and stayed "
    "so. Of prefixes in the layers four settings were tried with 80 steps on one seed (two rates, both kinds of "
    "attention, 64 vectors). At the conditioning there are 64 vectors; tried before: 16 of them with 80 steps, three "
    "seeds, -13 % to 33 %; with 200, two seeds, 9 % and 17 %; guidance that led away from a side without them, three "
    "seeds, -28 % to -45 %, for it brought them out too much (on pocket -8 % instead of 35 %)."
)
_PRIORS = (
    " LoRA of rank 16 and the whole data stand in the first rows. Ranks and amounts of data: "
    f"{FEW_TAKES} takes a model. Prior weight 1 against 0: {LONG} steps each, the last weights."
)


def is_there(base: str) -> bool:
    """Whether a base can be measured at all; an embedded one may not be made yet."""
    try:
        find_base(base)
    except UserError:
        return False
    return True


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--base", default="pocket", help="pocket or pocket-diffusion")
    options.add_argument("--only", default="", help="names of techniques or groups, by commas")
    options.add_argument("--work", type=Path, help="keep what is made here, and go on from it")
    options.add_argument("--done", action="store_true", help="only what is finished in --work")
    options.add_argument("--workers", type=int, default=2)
    args = options.parse_args()
    only = set(filter(None, args.only.split(",")))
    chosen = [one for one in TECHNIQUES if not only or only & {one.name, one.group}]
    found: dict[str, Found] = {}
    if is_there(args.base):
        with tempfile.TemporaryDirectory() as folder:
            work = args.work or Path(folder)
            bench = Bench(work, args.quick, args.base)
            measured = [one for one in chosen if not args.done or bench.done(one)]
            found = bench.measure(measured, args.workers)
            (work / "found.json").write_text(json.dumps({k: asdict(v) for k, v in found.items()}))
    rows = rows_of(TECHNIQUES, found, args.base)
    if args.quick:
        print(*rows, sep="\n")
        return
    if args.base != "pocket":  # the claims about priors, ranks and amounts are made of pocket alone
        rows = rows[: sum(one.group == "methods" for one in TECHNIQUES)]
    key, title = {
        "pocket": ("methods", "Every technique on the embedded base"),
        "pocket-diffusion": ("methods diffusion", "Every technique on the embedded diffusion base"),
    }[args.base]
    again = "methods" if args.base == "pocket" else f"methods --base {args.base}"
    record(key, title, rows, notes=notes_of(args.base), command=again, packages=(
        "torch", "transformers", "diffusers", "peft", "bitsandbytes",
    ))  # fmt: skip


__all__ = ["TECHNIQUES", "Bench", "rows_of", "train_one"]

if __name__ == "__main__":
    main()
