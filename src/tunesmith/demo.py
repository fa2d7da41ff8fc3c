"""The demo: adapt ``pocket`` to a style that it has never heard, and measure what that did.

Prepares the clips in the package, trains from several seeds, generates the same prompts and seeds
with the base and with each adapter, and says how much of the way from the base to real recordings
that went. Writes ``report.html`` and ``report.json``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith.atomic import write_bytes
from tunesmith.config import load_config
from tunesmith.data import prepare
from tunesmith.data.load import load_dataset
from tunesmith.errors import UserError
from tunesmith.evaluation.hearing import gap_closed
from tunesmith.families import EMBEDDED, base_limits
from tunesmith.formats.adapter import read_card
from tunesmith.metrics import tagger
from tunesmith.metrics.gap import Gap
from tunesmith.report.as_json import dumps, joined, report_json
from tunesmith.report.contents import Measure, Report, Row, Section, Track
from tunesmith.report.gap import GapClosed, sentences
from tunesmith.report.page import write_report
from tunesmith.report.run import run_report
from tunesmith.training.hardware import best_device
from tunesmith.training.log import read_metrics
from tunesmith.training.run import train
from tunesmith.training.signals import StopFlag
from tunesmith.training.workers import Job, run_jobs

CLIPS = EMBEDDED["pocket"].parent / "demo"
SEEDS, TAKES = 3, 128
_SECONDS = 5.0
_SHOWN, _MORE = 6, 24
"""Pairs laid side by side, and further takes or held-out clips: the page has to open quickly."""

_TAKE_SEED = 10_000
"""Added to the demo's seed for the takes, so that no take shares its random stream with training."""

OnEvent = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class DemoResult:
    """Where the demo's page is, its numbers (those of ``report.json``), and they in words."""

    report: Path
    numbers: Mapping[str, Any]
    says: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Files:
    """What was generated and what it is compared with; equal places are the same prompt and seed."""

    held_out: list[str]
    codec: list[str]
    base: list[str]
    adapted: list[list[str]]
    prompts: list[str]


def demo(
    out: Path,
    *,
    steps: int | None = None,
    seed: int = 0,
    seeds: int = SEEDS,
    takes: int = TAKES,
    workers: int | None = None,
    stop: StopFlag | None = None,
    on_event: OnEvent | None = None,
) -> DemoResult:
    """Run the demo.

    Args:
        out: folder for data, runs, takes and report.
        steps: training steps; the base's own default if None.
        seed: of the first training and of the takes.
        seeds: trainings, with the seeds ``seed``, ``seed + 1`` ...
        takes: generated clips of the base and of each adapter, and held-out clips (there are 128).
        workers: trainings at a time; by default one a core up to ``seeds``, one on an accelerator.
        stop: a stop flag; a demo that was stopped goes on where it was.
        on_event: told what happens.

    Raises:
        UserError: ``out`` holds a demo of other steps, or one of the parts failed.
        Stopped: a stop was asked for; what is done stays.
    """
    stop = stop or StopFlag()
    event = on_event or (lambda kind, values: None)
    if seeds < 1 or takes < 3:
        raise UserError(f"{seeds} seeds and {takes} takes prove nothing", "give 1 and 3 or more")
    out.mkdir(parents=True, exist_ok=True)
    event("phase", {"name": "preparing the clips"})
    _data_sets(out, stop)
    runs = [out / f"run-{one}" for one in range(seed, seed + seeds)]
    for run in runs:
        check_steps(run, steps)
    if workers is None:
        workers = at_a_time(seeds)
    event("phase", {"name": f"training from {seeds} seeds, then generating"})
    held_out = sorted((CLIPS / "held-out").glob("*.ogg"))[:takes]
    captions = [file.with_suffix(".txt").read_text(encoding="utf-8").strip() for file in held_out]
    prompts = [captions[index % len(captions)] for index in range(takes)]
    jobs = _jobs(out, runs, list(map(str, held_out)), prompts, seed, steps)
    made = run_jobs(jobs, workers=workers, stop=stop, on_event=event)
    files = _Files(
        list(map(str, held_out)),
        made["codec"],
        made["base"],
        [made[f"takes of {run.name}"] for run in runs],
        prompts,
    )
    event("phase", {"name": "measuring"})
    gap = gap_closed(files.held_out, files.codec, files.base, files.adapted, seed=seed)
    stop.check("stopped while measuring; run the same command again")
    event("phase", {"name": "writing the report"})
    report = _report(out, runs, gap, files, seed)
    numbers = joined(report_json(report), _numbers(runs, gap))
    write_bytes(out / "report.json", dumps(numbers).encode())
    return DemoResult(write_report(report, out / "report.html"), numbers, sentences(gap))


def _data_sets(out: Path, stop: StopFlag) -> None:
    rate, channels, longest = base_limits("pocket")
    for name, part in (("style", 0.25), ("general", 0.5)):
        prepare(
            CLIPS / name,
            out / "data" / name,
            sample_rate_hz=rate,
            channels=channels,
            min_s=2.0,
            max_s=min(_SECONDS, longest),
            base_max_s=longest,
            valid_share=part,
            rights="composed and rendered for this package; Apache-2.0",
            should_stop=stop,
        )


def check_steps(run: Path, steps: int | None) -> None:
    """That a finished run was asked for so many steps; it may have stopped early.

    Raises:
        UserError: for others.
    """
    if steps is None or not (run / "adapter.json").is_file():
        return
    if (found := load_config(run / "config.yaml").config.train.steps) != steps:
        raise UserError(
            f"{run} was trained for {found} steps, not {steps}", "give another folder with --out"
        )


def at_a_time(seeds: int) -> int:
    """Trainings beside each other: one a core up to their number, one on an accelerator."""
    cores = len(os.sched_getaffinity(0)) if best_device().type == "cpu" else 1
    return min(seeds, cores)


def _jobs(
    out: Path,
    runs: Sequence[Path],
    held_out: Sequence[str],
    prompts: Sequence[str],
    seed: int,
    steps: int | None,
) -> list[Job]:
    """Trainings first, the longest of all; whoever is free after that generates.

    Base and adapters sing the same prompts with the same seeds. One set of base takes serves all
    trainings: the base does not change from seed to seed, and the test knows that they share it.
    """
    common = {"base": "pocket", "seed": seed + _TAKE_SEED, "duration_s": _SECONDS}
    sing = "tunesmith.evaluation.takes:make_takes"
    jobs = [
        Job(
            run.name,
            "tunesmith.demo:train_seed",
            {"run": str(run), "data": str(out / "data"), "seed": seed + index, "steps": steps},
        )
        for index, run in enumerate(runs)
    ]
    folder = out / "takes"
    jobs += [
        Job("base", sing, common | {"out": str(folder / "base"), "run": None, "prompts": prompts}),
        Job(
            "codec",
            "tunesmith.evaluation.takes:through_codec",
            {"out": str(folder / "codec"), "base": "pocket", "files": held_out},
        ),
    ]
    return jobs + [
        Job(
            f"takes of {run.name}",
            sing,
            common | {"out": str(folder / run.name), "run": str(run), "prompts": prompts},
            after=(run.name,),
        )
        for run in runs
    ]


def train_seed(
    *, run: str, data: str, seed: int, steps: int | None, stop: StopFlag, on_event: OnEvent
) -> None:
    """Train the adapter of one seed, or go on with it; one that is finished is left as it is."""
    folder = Path(run)
    if (folder / "adapter.json").is_file():
        return
    settings = {
        "base": "pocket",
        "method": "lora",
        "data": str(Path(data) / "style"),
        "data.general": str(Path(data) / "general"),
        "out": run,
        "seed": seed,
        "preview.every": 0,
        "train.steps": steps,
    }
    resume = (folder / "checkpoints").is_dir()
    train(load_config(settings=settings), resume=resume, stop=stop, on_event=on_event)


def _facts(run: Path) -> dict[str, Any]:
    """What a training did, from its folder."""
    card = read_card(run)
    lines = read_metrics(run / "metrics.jsonl")
    kept = next(x for x in lines if x["kind"] == "valid" and x["step"] == card["step"])
    return {
        "run": run.name,
        "validation_loss": card["metrics"]["validation_loss"],
        "general_loss_before": card["metrics"]["general_loss"]["base"],
        "general_loss_after": kept["general_loss"],
        "train_s": round(sum(x.get("seconds", 0.0) for x in lines if x["kind"] == "train"), 2),
        "steps": card["steps"],
        "kept_step": card["step"],
        "trainable_parameters": card["trainable_parameters"],
    }


def middle(gap: Gap) -> int:
    """Index of the training in the middle, by KAD: the one that stands for all on the page."""
    order = sorted(range(len(gap.adapted)), key=lambda index: gap.adapted[index])
    return order[(len(order) - 1) // 2]


def _numbers(runs: Sequence[Path], gap: Gap) -> dict[str, Any]:
    facts = [_facts(run) for run in runs]
    shown = facts[middle(gap)]
    worst = max(facts, key=lambda one: one["general_loss_after"])
    return {
        "gap_closed": {"median": gap.median, "seeds": list(gap.closed), "p": gap.p_value},
        "gap": {
            "base": gap.base,
            "ceiling": gap.ceiling,
            "adapted": list(gap.adapted),
            "width": gap.width,
            "width_error": gap.width_error,
            "errors": list(gap.errors),
            "bandwidth": gap.bandwidth,
            "warnings": list(gap.warnings),
        },
        "n": {"reference": gap.n_reference, "generated": gap.n_takes},
        "embedding": tagger.NAME,
        "base": {"kad": gap.base, "validation_loss": shown["validation_loss"]["base"]},
        "adapted": {
            "kad": gap.adapted[middle(gap)],
            "validation_loss": shown["validation_loss"]["adapted"],
        },
        "general_loss_before": worst["general_loss_before"],
        "general_loss_after": worst["general_loss_after"],
        "train_s": round(sum(one["train_s"] for one in facts), 2),
        "steps": shown["steps"],
        "kept_step": shown["kept_step"],
        "trainable_parameters": shown["trainable_parameters"],
        "runs": facts,
    }


def _report(out: Path, runs: Sequence[Path], gap: Gap, files: _Files, seed: int) -> Report:
    shown = middle(gap)
    pairs = list(zip(files.prompts, files.base, files.adapted[shown], strict=True))
    rows = [
        Row(
            prompt,
            seed + _TAKE_SEED + index,
            [Track("base", Path(before)), Track("adapted", Path(after))],
        )
        for index, (prompt, before, after) in enumerate(pairs)
    ]
    first = rows[:: max(1, len(rows) // _SHOWN)][:_SHOWN]
    rest = [row for row in rows if row not in first][: _MORE // 2]
    clips = [clip for clip in load_dataset(out / "data" / "style") if clip.split == "train"]
    general = load_dataset(out / "data" / "general")
    held_out = list(zip(files.held_out, files.prompts, strict=False))
    sections = [
        Section(
            "More takes",
            [
                Track(f"{track.label}, seed {row.seed}", track.audio, row.prompt)
                for row in rest
                for track in row.tracks
            ],
            f"Base and adapted in turn; all {len(rows)} of each are in the folder 'takes' beside this "
            "page.",
        ),
        Section(
            "Training clips",
            [Track(clip.path.name, clip.path, clip.caption) for clip in clips],
            "What the adapters were trained on.",
        ),
        Section(
            "Held-out clips",
            [Track(Path(file).name, Path(file), text) for file, text in held_out[:_MORE]],
            f"The first {min(_MORE, len(held_out))} of the {len(held_out)} that it is measured against. "
            "No training and no choice of step has heard them.",
        ),
        Section(
            "General clips",
            [Track(clip.path.name, clip.path, clip.caption) for clip in general],
            "Other music, to see what is forgotten.",
        ),
    ]
    report = run_report(
        runs[shown],
        title="Tunesmith demo: calypso on the pocket base",
        rows=first,
        sections=sections,
        measures=[
            Measure(
                "KAD",
                gap.base,
                gap.adapted[shown],
                "lower",
                "How far the sound as a whole lies from the held-out recordings; p is of all trainings.",
                n=gap.n_takes,
                embedding=tagger.NAME,
                p_value=gap.p_value,
                n_reference=gap.n_reference,
            )
        ],
        gap=GapClosed(
            gap,
            tagger.NAME,
            [run.name.replace("run-", "seed ") for run in runs],
            [
                "What it means for music of yours: the real clips of this demo were composed by a "
                "program and played by a synthesiser, as was all that base and listening program "
                "ever heard, though neither heard calypso or steel drums.",
            ],
        ),
    )
    if len(runs) > 1:
        subtitle = f"{report.subtitle}; the middle one of {len(runs)} trainings"
        report = replace(report, subtitle=subtitle)
    return report
