"""The engine of sequences against ``MusicgenForConditionalGeneration.generate`` on a GPU, in bfloat16.

    python -m bench.engine_gpu [--seconds 5] [--repeats 3] [--lines FILE] [--record FILE] [--quick]

The geometries of musicgen-small and -large, built on the GPU with random weights; both contestants share
them, make the same takes from text to sound and take turns. A row is printed, and added to ``--lines``, as
soon as it is there; ``--record`` writes such lines, from another machine, into the results.
"""

from __future__ import annotations

import copy
import datetime
import gc
import json
import logging
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench._results import NO_GPU, Row, machine, parser, record, spread, versions
from bench.engine import PROMPT, SETTINGS, bundle_of, contest, engine_takes, plain_takes
from bench.small_geometry import letters_tokenizer, musicgen_config, random_musicgen
from tunesmith.families.musicgen.bundle import MusicgenBundle
from tunesmith.serve.token_engine import TokenEngine

GEOMETRIES = {"small": (24, 1024, 16), "large": (48, 2048, 32)}
ORDER = (("small", 1), ("large", 1), ("large", 16), ("small", 16))
PACKAGES = ("torch", "transformers", "triton")
TITLE = "The engine against generate on a GPU"


def titles(name: str, batch: int) -> dict[str, tuple[str, str]]:
    """``{part: (what, bar)}`` of a geometry at a batch."""
    what = f"musicgen-{name}'s geometry, bf16, {batch} at a time"
    found = {"speed": (f"{what}: tokens per second against generate", ">= 4x")}
    bar = ">= 50 %" if (name, batch) == ("large", 1) else ""
    found["floor"] = (f"{what}: of the speed of reading its weights", bar)
    if batch == 1:
        found["near"] = (f"{what}: logits along the same tokens", "as near to fp32 as generate's")
    return found


def memory_speed(device: torch.device) -> float:
    """Bytes per second, read and written, of a copy on the device."""
    source = torch.empty(2**31, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(5):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(4):
            target.copy_(source)
        end.record()
        end.synchronize()
        best = max(best, 8 * source.numel() / (begin.elapsed_time(end) / 1e3))
    return best


def step_bytes(engine: TokenEngine) -> int:
    """Bytes of the weights that a step multiplies with."""
    decoder = engine._decoder
    products = [one for layer in decoder._layers for one in layer.products] + [decoder._logits]
    weights = [one.weight for one in products]
    return sum(one.numel() * one.element_size() for one in weights if one is not None)


@torch.inference_mode()
def step_ms(engine: TokenEngine, steps: int) -> list[float]:
    """Milliseconds a step, sampling included, of a stopped engine with all slots taken; three rounds."""
    slots, found = engine._sequences, []
    for _ in range(3):
        for slot in range(engine.slots):
            slots.begin(slot, steps, slot, SETTINGS)
        for _ in range(3):
            slots.step()
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(steps - 3):
            slots.step()
        torch.cuda.synchronize()
        found.append((time.perf_counter() - begin) * 1e3 / (steps - 3))
        for slot in range(engine.slots):
            slots.end(slot)
    return found


@torch.inference_mode()
def near(engine: TokenEngine, model: Any, steps: int) -> tuple[str, bool]:
    """How far logits along the same tokens are off those in fp32: the engine's, and the library's."""
    bundle, decoder = engine.bundle, engine._decoder
    (text,) = bundle.encode_text([PROMPT])
    given = {"states": text["states"][None], "mask": torch.ones(1, len(text["ids"]))}
    given = {name: one.to(bundle.device) for name, one in given.items()}
    states, mask = bundle.module.text_states(given, fresh=True)
    draw = torch.Generator(bundle.device).manual_seed(0)
    shape = (decoder.codebooks, steps)
    codes = torch.randint(decoder.codes, shape, device=bundle.device, generator=draw)
    decoder.begin(0, torch.cat([states, 0 * states]), torch.cat([mask, 0 * mask]))
    places = torch.zeros(decoder.slots, dtype=torch.long, device=bundle.device)
    tokens = torch.zeros(decoder.slots, decoder.codebooks, dtype=torch.long, device=bundle.device)
    ours: list[Tensor] = []
    for place in range(steps):
        places[0], tokens[0] = place, codes[:, place]
        ours.append(decoder.step(tokens, places, place)[0].clone())
    decoder.clear(0)

    def whole(plain: Any) -> Tensor:
        """The library's, ``[steps, K, V]``."""
        dtype = plain.lm_heads[0].weight.dtype
        more = {"encoder_hidden_states": states.to(dtype), "encoder_attention_mask": mask}
        logits = plain(input_ids=codes, use_cache=False, **more).logits
        return logits.transpose(0, 1).float()

    theirs = whole(model.decoder)
    exact = whole(copy.deepcopy(model.decoder).float())
    found = torch.stack(ours)
    off = [float((one - exact).norm() / exact.norm()) for one in (found, theirs)]
    same = [float((one.argmax(-1) == exact.argmax(-1)).float().mean()) for one in (found, theirs)]
    kernels = "own kernels" if decoder._fused is not None else "the library's kernels"
    figure = (
        f"{off[0]:.2%} off fp32 (generate's {off[1]:.2%}), likeliest token the same in {same[0]:.1%} "
        f"({same[1]:.1%}); {kernels}"
    )
    return figure, off[0] <= 1.2 * off[1]


def measured(
    name: str, batch: int, seconds: float, repeats: int, model: Any, speed: float
) -> list[Row]:
    """The rows of a geometry at a batch."""
    tokenizer = letters_tokenizer()
    of = titles(name, batch)
    bundle: MusicgenBundle = bundle_of(model, tokenizer, max(10.0, seconds))
    frames = round(seconds * bundle.frame_rate_hz)
    engine = TokenEngine(bundle, slots=batch)
    engine.start()
    try:
        times = contest(
            {
                "generate": plain_takes(model, tokenizer, frames, batch),
                "engine": engine_takes(engine, seconds, batch),
            },
            repeats,
        )
    finally:
        engine.stop()
    ratios = [a / b for a, b in zip(times["generate"], times["engine"], strict=True)]
    tokens = batch * model.decoder.config.num_codebooks * frames
    rates = {who: tokens / sorted(some)[len(some) // 2] for who, some in times.items()}
    figure = f"{spread(ratios, 'x')}: {rates['engine']:.0f} against {rates['generate']:.0f}"
    rows = [Row(*of["speed"], figure, min(ratios) >= 4)]
    took, size = step_ms(engine, frames), step_bytes(engine)
    floor = size / speed * 1e3
    share = floor / sorted(took)[1]
    figure = (
        f"{share:.0%}: {spread(took, ' ms')} a step, sampling included, over {frames} places; "
        f"{size / 1e9:.2f} GB of weights at {speed / 1e12:.2f} TB/s (a copy's, read and written) are "
        f"{floor:.2f} ms"
    )
    rows.append(Row(*of["floor"], figure, share >= 0.5 if of["floor"][1] else None))
    if "near" in of:
        rows.append(Row(*of["near"], *near(engine, model, 64)))
    return rows


def contests(seconds: float, repeats: int, lines: Path | None) -> None:
    """All rows, each told as soon as it is there."""
    device = torch.device("cuda")
    torch.cuda.init()
    speed = memory_speed(device)
    names = {"machine": machine(), "versions": versions(*PACKAGES)}
    names["date"] = datetime.date.today().isoformat()
    models: dict[str, Any] = {}
    for name, batch in ORDER:
        begin = time.perf_counter()
        try:
            if name not in models:
                models[name] = built(name, device)
            rows = measured(name, batch, seconds, repeats, models[name], speed)
        except Exception:  # what is there is worth something
            logging.exception("%s, %s at a time", name, batch)
            continue
        for row in rows:
            said = {"what": row.what, "bar": row.bar, "figure": row.figure, "passed": row.passed}
            line = json.dumps(said | names)
            print(line, flush=True)
            if lines is not None:
                with lines.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
        gc.collect()  # an engine and its graphs know each other
        torch.cuda.empty_cache()
        took = time.perf_counter() - begin
        print(f"{name}, {batch} at a time: {took:.0f} s in all", flush=True)


def built(name: str, device: torch.device) -> Any:
    """A geometry with random weights in bfloat16, made where it stays."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            return random_musicgen(musicgen_config(*GEOMETRIES[name])).eval()
    finally:
        torch.set_default_dtype(before)


def recorded(lines: list[dict[str, Any]]) -> None:
    """Write what was measured on another machine; a row of which nothing is there stays as it was."""
    found = {line["what"]: line for line in lines}
    rows = []
    for name, batch in ORDER:
        for what, bar in titles(name, batch).values():
            line = found.get(what, {})
            rows.append(Row(what, bar, line.get("figure"), line.get("passed")))
    last = lines[-1] if lines else {}
    record(
        "engine_gpu",
        TITLE,
        rows,
        notes=(
            "From text to sound, codec included, both in one process, in turns, with the same settings; "
            "the ratio is that of each round, and the smallest has to reach the bar. Random weights."
        ),
        packages=PACKAGES,
        measured=(last["date"], last["machine"], last["versions"]) if last else None,
    )


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=5.0, help="length of a take")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--lines", type=Path, help="add each row to this file")
    options.add_argument("--record", type=Path, help="only write the rows of such a file")
    args = options.parse_args()
    if args.record:
        text = args.record.read_text(encoding="utf-8")
        recorded([json.loads(line) for line in text.splitlines()])
        return
    if not torch.cuda.is_available():
        print(NO_GPU)
        return
    seconds, repeats = (1.0, 1) if args.quick else (args.seconds, args.repeats)
    contests(seconds, repeats, args.lines)


if __name__ == "__main__":
    main()
