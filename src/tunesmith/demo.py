"""The demo: adapt ``pocket`` to a style that it has never heard, and measure what that did.

Prepares the clips in the package, trains, generates the same prompts and seeds before and after,
measures both against recordings that were held out, and writes ``report.html`` and ``report.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.atomic import write_bytes
from tunesmith.config import load_config
from tunesmith.data import prepare
from tunesmith.data.encode import read_audio
from tunesmith.data.load import load_dataset
from tunesmith.families import EMBEDDED, base_limits, find_base, load
from tunesmith.families._bundle import Bundle
from tunesmith.formats.adapter import load_adapter, read_card
from tunesmith.metrics import _logmel, fad, kad
from tunesmith.metrics._result import Result as Metric
from tunesmith.report.page import Measure, Row, Section, Track, write_report
from tunesmith.report.run import run_report
from tunesmith.report.verdict import Pair
from tunesmith.tasks.generate import Take, generate
from tunesmith.training.hardware import best_device
from tunesmith.training.log import read_metrics
from tunesmith.training.run import train
from tunesmith.training.signals import StopFlag
from tunesmith.types import Audio, Clip

CLIPS = EMBEDDED["pocket"].parent / "demo"
_SECONDS = 5.0
_TAKES = 32
_SHOWN = 6


@dataclass(frozen=True, slots=True)
class DemoResult:
    """Where the demo's page is, and its numbers (those of ``report.json``)."""

    report: Path
    numbers: Mapping[str, Any]


def _data_sets(out: Path, stop: StopFlag) -> None:
    rate, channels, longest = base_limits("pocket")
    for name, share in (("style", 0.25), ("general", 0.5)):
        prepare(
            CLIPS / name,
            out / "data" / name,
            sample_rate_hz=rate,
            channels=channels,
            min_s=2.0,
            max_s=min(_SECONDS, longest),
            base_max_s=longest,
            valid_share=share,
            rights="composed and rendered for this package; Apache-2.0",
            should_stop=stop,
        )


def _through_codec(bundle: Bundle, clips: Sequence[Clip]) -> list[Audio]:
    """Real clips as the codec renders them: what the model could reach at best."""
    sounds = (
        read_audio(clip.path, bundle.sample_rate_hz, bundle.channels, bundle.max_s)
        for clip in clips
    )
    return [bundle.decode_audio(bundle.encode_audio(sound)) for sound in sounds]


def _embed(audios: Sequence[Audio]) -> tuple[np.ndarray, np.ndarray]:
    parts = [_logmel.embed(audio) for audio in audios]
    groups = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return np.concatenate(parts), groups


def _measure(real: Sequence[Audio], takes: Sequence[Take]) -> dict[str, Metric]:
    reference, _ = _embed(real)
    candidate, _ = _embed([take.audio for take in takes])
    return {
        "kad": kad.compute(reference, candidate, permutations=0),
        "fad": fad.compute(reference, candidate),
    }


def _takes(bundle: Bundle, prompts: Sequence[str], seed: int, stop: StopFlag) -> list[Take]:
    found: list[Take] = []
    for index, prompt in enumerate(prompts):
        found += generate(
            bundle,
            [prompt],
            duration_s=_SECONDS,
            seed=seed + 100 * index,
            count=_TAKES // len(prompts),
            should_stop=stop,
        )
    return found


def demo(
    out: Path,
    *,
    steps: int | None = None,
    seed: int = 0,
    stop: StopFlag | None = None,
    on_event: Callable[[str, Mapping[str, Any]], None] | None = None,
) -> DemoResult:
    """Run the demo.

    Args:
        out: folder for data, run and report.
        steps: training steps; the base's own default if None.
        seed: of the run and the generated takes.
        stop: a stop flag; a demo that was stopped goes on where it was.
        on_event: told what happens.
    """
    stop = stop or StopFlag()
    event = on_event or (lambda kind, values: None)
    out.mkdir(parents=True, exist_ok=True)
    event("phase", {"name": "preparing the clips"})
    _data_sets(out, stop)
    run = out / "run"
    settings = {
        "base": "pocket",
        "method": "lora",
        "data": str(out / "data" / "style"),
        "data.general": str(out / "data" / "general"),
        "out": str(run),
        "seed": seed,
        "preview.every": 0,
        "train.steps": steps,
    }
    loaded = load_config(settings=settings)
    if not (run / "adapter.json").is_file():
        train(loaded, resume=(run / "checkpoints").is_dir(), stop=stop, on_event=event)

    event("phase", {"name": "generating before and after"})
    clips = load_dataset(out / "data" / "style")
    held_out = [clip for clip in clips if clip.split == "valid"]
    prompts = list(dict.fromkeys(clip.caption for clip in held_out))[:8]
    bundle = load(find_base("pocket"), device=best_device())
    real = _through_codec(bundle, held_out)
    before = _takes(bundle, prompts, seed + 1, stop)
    load_adapter(run, bundle)
    after = _takes(bundle, prompts, seed + 1, stop)

    event("phase", {"name": "measuring"})
    measured = {"base": _measure(real, before), "adapted": _measure(real, after)}
    p_value = _difference(real, before, after, seed)
    numbers = _numbers(run, measured, p_value)
    write_bytes(out / "report.json", (json.dumps(numbers, indent=2) + "\n").encode())
    page = _page(out, run, clips, before, after, measured, p_value)
    return DemoResult(page, numbers)


def _difference(
    real: Sequence[Audio], before: Sequence[Take], after: Sequence[Take], seed: int
) -> float:
    """P-value of the drop in KAD: a take of the base and its adapted twin change places."""
    reference, _ = _embed(real)
    base, groups = _embed([take.audio for take in before])
    adapted, _ = _embed([take.audio for take in after])
    return kad.compare(reference, base, adapted, seed=seed, groups=groups.tolist())[1]


def _numbers(
    run: Path, measured: Mapping[str, Mapping[str, Metric]], p_value: float
) -> dict[str, Any]:
    card = read_card(run)
    lines = read_metrics(run / "metrics.jsonl")
    kept = next(x for x in lines if x["kind"] == "valid" and x["step"] == card["step"])
    return {
        **{
            side: {name: metric.value for name, metric in found.items()}
            | {"validation_loss": card["metrics"]["validation_loss"][side]}
            for side, found in measured.items()
        },
        "kad_p_value": p_value,
        "n": {
            "reference": measured["base"]["kad"].n_reference,
            "generated": measured["base"]["kad"].n_candidate,
        },
        "embedding": _logmel.NAME,
        "general_loss_before": card["metrics"]["general_loss"]["base"],
        "general_loss_after": kept["general_loss"],
        "train_s": round(sum(x.get("seconds", 0.0) for x in lines if x["kind"] == "train"), 2),
        "steps": card["steps"],
        "kept_step": card["step"],
        "trainable_parameters": card["trainable_parameters"],
    }


_EXPLAINED = {
    "kad": (
        "KAD",
        "How far the generated clips are, as a crowd, from held-out clips of the style (through the same codec). "
        "0 is no difference; small negative values are chance.",
    ),
    "fad": (
        "FAD",
        "An older measure of the same distance, by means and spreads only. It reads too high on few clips.",
    ),
}


def _page(
    out: Path,
    run: Path,
    clips: Sequence[Clip],
    before: Sequence[Take],
    after: Sequence[Take],
    measured: Mapping[str, Mapping[str, Metric]],
    p_value: float,
) -> Path:
    rows = [
        Row(b.prompt, b.seed, [Track("base", b.audio), Track("adapted", a.audio)])
        for b, a in zip(before, after, strict=True)
    ]
    step = max(1, len(rows) // _SHOWN)
    shown = rows[::step][:_SHOWN]
    rest = [row for row in rows if row not in shown]
    sections = [
        Section(
            "All other takes",
            [
                Track(f"{track.label}, seed {row.seed}", track.audio, row.prompt)
                for row in rest
                for track in row.tracks
            ],
            "The same prompts with other seeds, base and adapted in turn.",
        ),
        *(
            Section(
                title,
                [Track(clip.path.name, clip.path, clip.caption) for clip in some],
                intro,
            )
            for title, some, intro in (
                (
                    "Training clips",
                    [c for c in clips if c.split == "train"],
                    "What the adapter was trained on.",
                ),
                (
                    "Held-out clips",
                    [c for c in clips if c.split == "valid"],
                    "What it is measured against.",
                ),
                (
                    "General clips",
                    load_dataset(out / "data" / "general"),
                    "Other music, to see what is forgotten.",
                ),
            )
        ),
    ]
    base, adapted = measured["base"], measured["adapted"]
    measures = [
        Measure(
            name,
            base[key].value,
            adapted[key].value,
            "lower",
            explanation,
            n=adapted[key].n_candidate,
            embedding=_logmel.NAME,
            p_value=p_value if key == "kad" else None,
        )
        for key, (name, explanation) in _EXPLAINED.items()
    ]
    report = run_report(
        run,
        title="Tunesmith demo: calypso on the pocket base",
        rows=shown,
        sections=sections,
        measures=measures,
        kad=Pair(base["kad"].value, adapted["kad"].value),
        kad_p=p_value,
    )
    return write_report(report, out / "report.html")
