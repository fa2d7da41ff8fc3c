"""The demo of a voice: adapt ``pocket-voice`` to one that it has never heard, and measure what that did.

Prepares minutes of the voice from the package, trains as the recipe ``voice`` says, speaks held-out sentences
with the base that knows the voice's vector alone (zero-shot) and with the adapter, and says how much of the
way to the voice's own recordings that went. Writes ``report.html`` and ``report.json``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.atomic import write_bytes
from tunesmith.config import load_config
from tunesmith.data import prepare
from tunesmith.demo import DemoResult, at_a_time, check_steps
from tunesmith.families import EMBEDDED, base_limits
from tunesmith.report.as_json import dumps, joined, report_json
from tunesmith.report.page import write_report
from tunesmith.report.voice_demo import Measured, demo_report
from tunesmith.report.voices import weigh
from tunesmith.training.run import train
from tunesmith.training.signals import StopFlag
from tunesmith.training.workers import Job, run_jobs

BASE = "pocket-voice"
CLIPS = EMBEDDED[BASE].parent / "demo-voice"
CONSENT = "a voice of espeak-ng's, made for this package: there is nobody to ask"
SEEDS = 1
_VALID = 0.1
_LONGEST_S = 8.0
_TAKE_SEED = 30_000
"""Added to the demo's seed for the takes, so that no take shares its random stream with training."""

OnEvent = Callable[[str, Mapping[str, Any]], None]


def voice_demo(
    out: Path,
    *,
    steps: int | None = None,
    seed: int = 0,
    seeds: int = SEEDS,
    workers: int | None = None,
    stop: StopFlag | None = None,
    on_event: OnEvent | None = None,
) -> DemoResult:
    """Run the demo.

    Args:
        out: folder for data, runs, takes and report.
        steps: training steps; what recipe and base say if None.
        seed: of the first training and of the takes.
        seeds: trainings, with the seeds ``seed``, ``seed + 1`` ...
        workers: trainings at a time; by default one a core up to ``seeds``, one on an accelerator.
        stop: a stop flag; a demo that was stopped goes on where it was.
        on_event: told what happens.

    Raises:
        UserError: ``out`` holds a demo of other steps, or one of the parts failed.
        Stopped: a stop was asked for; what is done stays.
    """
    stop = stop or StopFlag()
    event = on_event or (lambda kind, values: None)
    out.mkdir(parents=True, exist_ok=True)
    event("phase", {"name": "preparing the clips"})
    rate, channels, longest = base_limits(BASE)
    prepare(
        CLIPS / "voice",
        out / "data",
        sample_rate_hz=rate,
        channels=channels,
        min_s=0.5,
        max_s=longest,
        base_max_s=longest,
        on_beats=False,
        valid_share=_VALID,
        rights="rendered for this package; Apache-2.0",
        should_stop=stop,
    )
    runs = [out / f"run-{one}" for one in range(seed, seed + seeds)]
    for run in runs:
        check_steps(run, steps)
    if workers is None:
        workers = at_a_time(seeds)
    files = sorted((CLIPS / "held-out").glob("*.ogg"))
    prompts = [file.with_suffix(".txt").read_text(encoding="utf-8").strip() for file in files]
    event("phase", {"name": f"training from {seeds} seed{'s' if seeds > 1 else ''}, then speaking"})
    made = run_jobs(
        _jobs(out, runs, list(map(str, files)), prompts, seed, steps),
        workers=workers,
        stop=stop,
        on_event=event,
    )
    event("phase", {"name": "measuring"})
    measured = Measured(out, runs, files, prompts, made)
    stop.check("stopped while measuring; run the same command again")
    event("phase", {"name": "writing the report"})
    report = demo_report(measured, seed + _TAKE_SEED)
    numbers = joined(report_json(report), measured.numbers())
    write_bytes(out / "report.json", dumps(numbers).encode())
    voiced = measured.voiced()
    said = weigh(voiced)
    lines = (said[1], *said[2]) if said else ()
    return DemoResult(write_report(report, out / "report.html"), numbers, lines)


def _jobs(
    out: Path,
    runs: Sequence[Path],
    held_out: Sequence[str],
    prompts: Sequence[str],
    seed: int,
    steps: int | None,
) -> list[Job]:
    """Base and adapters speak the same sentences with the same seeds and the same speaker's vector."""
    takes = "tunesmith.evaluation.takes:make_takes"
    common = {
        "base": BASE,
        "seed": seed + _TAKE_SEED,
        "duration_s": _LONGEST_S,
        "prompts": list(prompts),
    }
    folder = out / "takes"
    jobs = [
        Job(
            run.name,
            "tunesmith.voice_demo:train_seed",
            {"run": str(run), "data": str(out / "data"), "seed": seed + index, "steps": steps},
        )
        for index, run in enumerate(runs)
    ]
    jobs.append(
        Job(
            "codec",
            "tunesmith.evaluation.takes:through_codec",
            {"out": str(folder / "codec"), "base": BASE, "files": list(held_out)},
        )
    )
    # The vector is of the recordings, and so the same for all trainings.
    spoken = {"run": None, "voice_of": str(runs[0]), "out": str(folder / "zero-shot")}
    jobs.append(Job("zero-shot", takes, common | spoken, after=(runs[0].name,)))
    return jobs + [
        Job(
            f"takes of {run.name}",
            takes,
            common | {"out": str(folder / run.name), "run": str(run)},
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
        "base": BASE,
        "data": data,
        "out": run,
        "seed": seed,
        "preview.every": 0,
        "train.steps": steps,
        "voice.consent": CONSENT,
    }
    resume = (folder / "checkpoints").is_dir()
    loaded = load_config(settings=settings, recipe="voice")
    train(loaded, resume=resume, stop=stop, on_event=on_event)


__all__ = ["CLIPS", "voice_demo"]
