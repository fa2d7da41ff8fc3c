"""Models at full size with random weights: built, found and loaded as the tool does it, trained a step, sampled.

No hub is asked: a checkpoint's geometry is built in half precision, saved in the hub's layout, and
loaded in the tool's own precision. Building and measuring are processes of their own, because a process's
peak counts from the start.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench._results import NO_GPU, Row, parser

RANK = 16


@dataclass(frozen=True, slots=True)
class Case:
    """A checkpoint whose geometry is built.

    Attributes:
        title: what it is called in the results.
        build: makes its parts and saves them in a folder; quick ones have few layers.
        base: the folder in it that is the base.
        caption: of the clip, and what is generated.
        details: what a clip says beside its caption.
        settings: of sampling.
        bar_gib: most that a LoRA may take on a GPU; None is only recorded.
        quantize: of the frozen linears: ``nf4`` or nothing.
        lengths_s: of clips that a plan is made for.
        generate_s: of what is generated; 0 is as long as the clip.
    """

    title: str
    build: Callable[[Path, bool], None]
    caption: str
    base: str = "."
    details: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    bar_gib: float | None = None
    quantize: str = ""
    lengths_s: tuple[float, ...] = (10.0,)
    generate_s: float = 0.0

    @property
    def method(self) -> str:
        return f"{'QLoRA' if self.quantize else 'LoRA'} r={RANK}"


def build(case: Case, folder: Path, quick: bool, device: torch.device) -> None:
    """Save a case's geometry in bfloat16, its weights drawn on the device that it is measured on."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.no_grad(), device:
        case.build(folder, quick)


def measure(case: Case, folder: Path, device: torch.device, seconds: float) -> dict[str, Any]:
    """Load, train one step with rank 16, generate; what each took."""
    from tunesmith.config import TrainConfig
    from tunesmith.families import find_base, load
    from tunesmith.methods import lora
    from tunesmith.objectives.mixture import total_loss
    from tunesmith.training.hardware import choose_dtype, peak_memory_bytes, reset_peak_memory
    from tunesmith.training.measure import forward
    from tunesmith.training.optimizer import build_optimizer
    from tunesmith.types import Audio, Example, GenerationSettings

    found: dict[str, Any] = {}
    begin = time.perf_counter()

    def took(name: str) -> None:
        nonlocal begin
        found[name] = {
            "seconds": time.perf_counter() - begin,
            "peak_gib": peak_memory_bytes(device) / 2**30,
        }
        print(f"{name}: {found[name]}", file=sys.stderr, flush=True)
        reset_peak_memory(device)
        begin = time.perf_counter()

    dtype = choose_dtype("auto", device)
    base = find_base(str(folder / case.base))
    bundle = load(base, device=device, quantize=case.quantize, compute=dtype)
    took("load")
    draw = np.random.default_rng(0)
    shape = (bundle.channels, round(seconds * bundle.sample_rate_hz))
    sound = Audio(draw.uniform(-0.5, 0.5, shape).astype(np.float32), bundle.sample_rate_hz)
    details = [{**case.details, "duration_s": seconds}] if bundle.columns else None
    codes = bundle.encode_audio(sound)
    bundle.release_codec()
    example = Example("clip", codes, bundle.encode_text([case.caption], details)[0])
    took("encode")
    adapter = lora.attach(bundle, lora.Config(rank=RANK), 0)
    bundle.checkpoint_activations(True)
    bundle.module.train()
    batch = bundle.collate([example], [0])
    train = TrainConfig(lr=1e-4)  # type: ignore[call-arg]
    optimizer = build_optimizer(adapter.parameters(), adapter.rates(), train)
    counts = {name: count.sum().to(device) for name, count in bundle.module.count(batch).items()}
    loss = total_loss(forward(bundle, batch, dtype), counts, bundle.term_weights)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    took("step")
    settings = GenerationSettings(**case.settings) if case.settings else bundle.sampling
    said = [case.details] if bundle.columns else None
    length = case.generate_s or seconds
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        (audio,) = bundle.generate([case.caption], length, [0], settings, details=said)
    assert audio.samples.shape[0] == bundle.channels
    assert audio.samples.shape[1] > 0
    assert np.isfinite(audio.samples).all()
    took("generate")
    return found | {
        "parameters": sum(p.numel() for p in skeleton_of(base)),
        "trained": sum(p.numel() for p in adapter.parameters().values()),
        "loss": float(loss.detach()),
        "dtype": str(dtype).removeprefix("torch."),
    }


def skeleton_of(base: Any) -> list[torch.nn.Parameter]:
    """A base's parameters as they are before any is packed into four bits or an adapter stands beside."""
    from tunesmith.families import skeleton

    return list(skeleton(base).module.parameters())


def planned(case: Case, folder: Path) -> str:
    """What ``tunesmith plan`` tells of the same run on a GPU, for clips of several lengths."""
    from tunesmith.config import load_config
    from tunesmith.training.plan import make_plan

    settings = {
        "base": str(folder / case.base),
        "method": "lora",
        "train.batch_size": 1,
        "train.activation_checkpointing": True,
        **({"base.quantize": case.quantize} if case.quantize else {}),
    }
    found = []
    for seconds in case.lengths_s:
        loaded = load_config(None, settings, planning=True)
        memory = make_plan(loaded, clips=100, seconds=seconds, device="cuda").memory
        training = memory.phases["training"] / 2**30
        found.append(
            f"{seconds:g} s: {training:.2f} GiB in training, "
            f"{memory.peak / 2**30:.2f} at most ({memory.worst})"
        )
    return "; ".join(found)


def rows_of(script: str, name: str, case: Case, args: argparse.Namespace) -> list[Row]:
    """Build, plan and measure a case; one that was not asked for keeps its figures."""
    device = torch.device(args.device)
    what = f"{case.title}: {case.method}, one {args.seconds:g} s clip"
    told = f"{case.title}: {case.method}, GPU: peak as `tunesmith plan` tells it"
    sampled = f"{case.generate_s:g} s of sound"
    if "steps" in case.settings:
        sampled = f"{case.settings['steps']} steps of sampling"
    ends = f"{what}, CPU: found, loaded, trained a step, {sampled}"
    bar = f"<= {case.bar_gib:g} GB" if case.bar_gib else ""
    if args.only not in (None, name):
        return [
            Row(f"{what}, GPU: peak", bar, None),
            Row(told, "", None, missing="not measured"),
            Row(ends, "runs end to end", None, missing="not measured"),
        ]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "checkpoint"
        again = [sys.executable, "-m", f"bench.{script}", "--only", name]
        again += ["--device", args.device, "--seconds", str(args.seconds)]
        again += ["--quick"] if args.quick else []
        subprocess.run([*again, "--build", str(folder)], check=True)
        plan = planned(case, folder)
        done = subprocess.run(
            [*again, "--measure", str(folder)], check=True, stdout=subprocess.PIPE, text=True
        )
    found = json.loads(done.stdout.splitlines()[-1])
    parts = "; ".join(
        f"{part} {found[part]['seconds']:.0f} s, {found[part]['peak_gib']:.2f} GiB"
        for part in ("load", "encode", "step", "generate")
    )
    figure = (
        f"{parts}; {found['parameters']:,} parameters, {found['trained']:,} trained; "
        f"{found['dtype']}; loss {found['loss']:.3f}"
    )
    peak = max(found[part]["peak_gib"] for part in ("encode", "step", "generate"))
    on_gpu = device.type == "cuda"
    within = peak * 2**30 <= case.bar_gib * 1e9 if case.bar_gib else None
    return [
        Row(
            f"{what}, GPU: peak",
            bar,
            f"{peak:.2f} GiB ({figure})" if on_gpu else None,
            within,
            missing=NO_GPU,
        ),
        Row(told, "", plan),
        Row(
            ends,
            "runs end to end",
            None if on_gpu else figure,
            True,
            missing="not measured",
        ),
    ]


def run(script: str, doc: str | None, cases: Mapping[str, Case], seconds: float) -> list[Row]:
    """The rows of all cases; none in a process that only builds or measures, or in a quick run.

    Args:
        script: name of the module in this folder, which is started again for each part.
        doc: of its command line.
        cases: by the name that a user gives.
        seconds: of the clip, unless the command line says otherwise.
    """
    options = parser(doc)
    options.add_argument("--only", choices=list(cases))
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--seconds", type=float, default=seconds, help="length of the clip")
    options.add_argument("--build", type=Path, help="only save the geometry there")
    options.add_argument("--measure", type=Path, help="only measure what is saved there")
    args = options.parse_args()
    if args.build:
        build(cases[args.only], args.build, args.quick, torch.device(args.device))
        return []
    if args.measure:
        device = torch.device(args.device)
        print(json.dumps(measure(cases[args.only], args.measure, device, args.seconds)))
        return []
    rows = [row for name, case in cases.items() for row in rows_of(script, name, case, args)]
    if args.quick:
        print(*rows, sep="\n")
        return []
    return rows
