"""A finished run and its evaluation without any training: for tests of what is reported of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from tiny import write_noise

from tunesmith.evaluation.findings import (
    Evaluation,
    Finding,
    Match,
    Memorisation,
    Subject,
)

EMBEDDING = "tagger-64 (1 s windows)"
PROMPTS = ("a slow hiss", "a bright hiss", "a hiss")


def write_run(
    folder: Path, *, data: str = "gone", pitfalls: tuple[dict[str, Any], ...] = ()
) -> Path:
    """Adapter card, facts and metrics of a run of 8 steps that kept step 4."""
    folder.mkdir(parents=True)
    base = {"name": "tiny", "hash": "ab" * 32, "family": "musicgen", "licence": "CC-BY-NC-4.0"}
    card = {
        "format": 1,
        "base": base,
        "method": {"name": "lora", "rank": 4},
        "step": 4,
        "steps": 8,
        "metrics": {
            "validation_loss": {"base": 4.1, "adapted": 3.6},
            "general_loss": {"base": 2.9, "last": 3.3},
        },
        "trainable_parameters": 532_480,
        "rights": "mine",
        "components": {},
    }
    side = {"clips": 9, "seconds": 30.0, "recordings": 9, "sha256": []}
    facts = {
        "config": {"base": {"name": "tiny"}, "data": {"path": data}, "train": {"lr": 0.002}},
        "data": {"train": side, "valid": side, "general": side},
        "versions": {"tunesmith": "0.1.0"},
    }
    lines: list[dict[str, Any]] = [
        {"kind": "valid", "step": step, "loss": loss, "general_loss": other}
        for step, loss, other in ((0, 4.1, 2.9), (4, 3.6, 2.95), (8, 3.7, 3.3))
    ]
    lines[1:1] = [
        {"kind": "train", "step": s, "loss": 4.0 - s / 10, "lr": 0.01} for s in range(1, 5)
    ]
    (folder / "adapter.json").write_text(json.dumps(card))
    (folder / "run.json").write_text(json.dumps(facts))
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in (*lines, *pitfalls))
    )
    return folder


def write_takes(folder: Path, seed: int) -> tuple[str, ...]:
    """A noise for each prompt."""
    return tuple(
        str(write_noise(folder / f"{index:03d}.wav", 0.6, seed + index, rate_hz=8000))
        for index in range(len(PROMPTS))
    )


def memorised(take: str, clip: str, *, flagged: bool, prompt: str = PROMPTS[0]) -> Memorisation:
    """12 of 64 takes copied, or none."""
    match = Match(
        take,
        clip,
        prompt,
        7,
        0.08 if flagged else 0.5,
        0.31,
        0.83 if flagged else 0.1,
        0.21,
        flagged,
    )
    if flagged:
        return Memorisation(True, 12, 64, 0.01, 1e-9, EMBEDDING, (match,))
    return Memorisation(False, 0, 64, 0.01, 1.0, EMBEDDING, (match,))


def findings(
    key: str, *, kad: float, loss: float = 3.6, general: float = 2.95, is_base: bool = False
) -> tuple[Finding, ...]:
    """Losses, KAD, CLAP score, and a FAD that there are too few takes for."""
    p = None if is_base else 0.002

    def told(metric: str, value: float, better: Any = "lower", **more: Any) -> Finding:
        interval = (value * 0.97, value * 1.03)
        return Finding(
            metric, key, value, better, interval, p_value=p, explanation="Of it.", **more
        )

    return (
        told("validation_loss", loss, n=9),
        told("general_loss", general, n=9),
        told("kad", kad, n=64, n_reference=128, embedding=EMBEDDING),
        replace(
            told("clap", 0.3, "higher", n=64, embedding="clap"), p_value=None if is_base else 0.6
        ),
        Finding("fad", key, None, "lower", n=64, embedding=EMBEDDING, missing="it needs 320 takes"),
        Finding("vendi", key, 8.0, "neither", n=64, embedding=EMBEDDING, warnings=("few takes",)),
    )


def evaluation_of(
    root: Path,
    runs: dict[str, Path],
    *,
    copies: tuple[str, ...] = (),
    kad: float = 9.0,
    step: int = 4,
) -> Evaluation:
    """The base and some runs on it, with takes under ``root``; run ``i`` has the KAD ``kad + i``."""
    clip = str(write_noise(root / "clip.wav", 0.6, 99, rate_hz=8000))
    base = Subject("base", "tiny", write_takes(root / "base", 0))
    subjects, found = (
        {"tiny": base},
        findings("tiny", kad=17.0, loss=4.1, general=2.9, is_base=True),
    )
    copied = {}
    for index, (key, path) in enumerate(runs.items()):
        takes = write_takes(root / key, 10 * (index + 1))
        subjects[key] = Subject("run", key, takes, str(path), step)
        found += findings(key, kad=kad + index)
        copied[key] = memorised(takes[0], clip, flagged=key in copies)
    return Evaluation(subjects, "held-out", PROMPTS, (7, 8, 9), 0.6, found, copied)
