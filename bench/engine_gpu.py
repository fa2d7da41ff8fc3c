"""The engine of sequences against ``MusicgenForConditionalGeneration.generate`` on a GPU, in bfloat16.

    python -m bench.engine_gpu [--seconds 5] [--repeats 3] [--limit 130] [--lines FILE] [--record FILE]
        [--quick]

The geometries of musicgen-small and -large, built on the GPU with random weights; both contestants share
them, make the same takes from text to sound and take turns. A row is printed, and added to ``--lines``, as
soon as it is there, and what the engine chose and where a step's time goes is printed beside them; when
``--limit`` seconds are near, fewer rounds are made. ``--record`` writes such lines, from another machine,
into the results.
"""

from __future__ import annotations

import copy
import gc
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench._results import NO_GPU, Row, parser, record, spread, tell, told
from bench.engine import PROMPT, SETTINGS, bundle_of, engine_takes, plain_takes
from bench.small_geometry import letters_tokenizer, musicgen_config, random_musicgen
from tunesmith.families.musicgen.bundle import MusicgenBundle
from tunesmith.serve.token_engine import TokenEngine

GEOMETRIES = {"small": (24, 1024, 16), "large": (48, 2048, 32)}
ORDER = (("large", 1), ("large", 16), ("small", 16), ("small", 1))
_AFTER = 5.0
"""Seconds that a part needs after its contest."""
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
def parts_ms(engine: TokenEngine, steps: int) -> dict[str, str]:
    """Where a step's time goes: what was measured for the choice, sampling, and the device alone."""
    from tunesmith.serve._tuned import _ms

    slots, decoder = engine._sequences, engine._decoder
    found = {} if decoder._fused is None else dict(decoder._fused.measured)
    shape = (2 * decoder.slots, decoder.codebooks, decoder.codes)
    logits = torch.randn(shape, device=decoder.device)
    uniform = torch.rand(shape[0] // 2, shape[1], device=decoder.device)
    found["sampling"] = f"{_ms(lambda: slots._choice(logits, uniform)):.3f} ms"
    if decoder._fused is not None:
        one, layers = decoder._fused, range(len(decoder._layers))

        def texts() -> None:
            for number in layers:
                one.attend_text(number, decoder._heard, decoder._text_mask)

        found["attention to the text"] = f"{_ms(texts):.3f} ms"
        found["heads"] += f" {_ms(lambda: one.make('heads', 0)):.3f} ms"
    graphs = list(slots._captured._graphs.values())
    if len(graphs) == 1:  # of all lengths
        for slot in range(engine.slots):
            slots.begin(slot, steps, slot, SETTINGS)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(steps):
            graphs[0].replay()
        end.record()
        end.synchronize()
        found["a step on the device alone"] = f"{begin.elapsed_time(end) / steps:.3f} ms"
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
    kernels = "the library's kernels" if decoder._fused is None else "own kernels where faster"
    figure = (
        f"{off[0]:.2%} off fp32 (generate's {off[1]:.2%}), likeliest token the same in {same[0]:.1%} "
        f"({same[1]:.1%}); {kernels}"
    )
    return figure, off[0] <= 1.2 * off[1]


def decoder_delay(engine: TokenEngine) -> int:
    """Steps that a take has more than frames."""
    return max(engine.bundle.module.shifts)


def turns(
    contestants: dict[str, Callable[[], int]],
    warm: Callable[[], int],
    repeats: int,
    until: float,
) -> dict[str, list[float]]:
    """Seconds of each in each round, after a short take of the library's and one of the engine's.

    Args:
        contestants: each makes a take, and says how many samples it has.
        warm: the short take.
        repeats: rounds.
        until: ``time.perf_counter()`` after which no round begins but the first.
    """
    warm()
    contestants["engine"]()
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(repeats):
        begun = time.perf_counter()
        lengths = []
        for name, run in contestants.items():
            begin = time.perf_counter()
            lengths.append(run())
            found[name].append(time.perf_counter() - begin)
        assert max(lengths) - min(lengths) <= 1, lengths
        now = time.perf_counter()
        if number + 1 < repeats and now + (now - begun) > until:
            break
    return found


def measured(
    name: str, batch: int, seconds: float, repeats: int, model: Any, speed: float, until: float
) -> list[Row]:
    """The rows of a geometry at a batch."""
    tokenizer = letters_tokenizer()
    of = titles(name, batch)
    bundle: MusicgenBundle = bundle_of(model, tokenizer, max(10.0, seconds))
    frames = round(seconds * bundle.frame_rate_hz)
    begin = time.perf_counter()
    engine = TokenEngine(bundle, slots=batch)
    print(
        f"{name}, {batch} at a time: engine made in {time.perf_counter() - begin:.1f} s", flush=True
    )
    engine.start()
    try:
        times = turns(
            {
                "generate": plain_takes(model, tokenizer, frames, batch),
                "engine": engine_takes(engine, seconds, batch),
            },
            plain_takes(model, tokenizer, min(frames, 25), batch),
            repeats,
            until,
        )
    finally:
        engine.stop()
    ratios = [a / b for a, b in zip(times["generate"], times["engine"], strict=True)]
    tokens = batch * model.decoder.config.num_codebooks * frames
    rates = {who: tokens / sorted(some)[len(some) // 2] for who, some in times.items()}
    figure = f"{spread(ratios, 'x')}: {rates['engine']:.0f} against {rates['generate']:.0f}"
    rows = [Row(*of["speed"], figure, min(ratios) >= 4)]
    print(f"{rows[0].what}: {figure}", flush=True)  # whatever becomes of the rest
    took, size = step_ms(engine, frames), step_bytes(engine)
    floor = size / speed * 1e3
    share = floor / sorted(took)[1]
    try:
        parts = parts_ms(engine, frames)
    except Exception as error:  # they are beside the rows
        parts = {"not measured": str(error)}
    whole = min(times["engine"])
    stepped = sorted(took)[1] * (frames + decoder_delay(engine)) / 1e3
    parts["a take"] = f"{whole:.2f} s, of which steps {stepped:.2f} s, the rest text, codec, begin"
    for part, said in parts.items():
        print(f"    {part}: {said}", flush=True)
    figure = (
        f"{share:.0%}: {spread(took, ' ms')} a step, sampling included, over {frames} places; "
        f"{size / 1e9:.2f} GB of weights at {speed / 1e12:.2f} TB/s (a copy's, read and written) are "
        f"{floor:.2f} ms"
    )
    rows.append(Row(*of["floor"], figure, share >= 0.5 if of["floor"][1] else None))
    if "near" in of:
        rows.append(Row(*of["near"], *near(engine, model, 64)))
    return rows


def contests(seconds: float, repeats: int, lines: Path | None, limit: float) -> None:
    """All rows, each told as soon as it is there."""
    began, device = time.perf_counter(), torch.device("cuda")
    torch.cuda.init()
    speed = memory_speed(device)
    models: dict[str, Any] = {}
    for number, (name, batch) in enumerate(ORDER, 1):
        begin = time.perf_counter()
        until = began + limit * number / len(ORDER) - _AFTER
        try:
            if name not in models:
                models[name] = built(name, device)
            rows = measured(name, batch, seconds, repeats, models[name], speed, until)
        except Exception:  # what is there is worth something
            logging.exception("%s, %s at a time", name, batch)
            continue
        for row in rows:
            tell(row, PACKAGES, lines)
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


def recorded(lines: Path) -> None:
    """Write what was measured on another machine."""
    every = (one for name, batch in ORDER for one in titles(name, batch).values())
    rows, measured = told(lines, every)
    record(
        "engine_gpu",
        TITLE,
        rows,
        notes=(
            "From text to sound, codec included, both in one process, in turns, with the same settings; "
            "the ratio is that of each round (of one, where there is no range), and the smallest has to reach "
            "the bar. Random weights."
        ),
        packages=PACKAGES,
        measured=measured,
    )


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=5.0, help="length of a take")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--limit", type=float, default=130.0, help="seconds in all, about")
    options.add_argument("--lines", type=Path, help="add each row to this file")
    options.add_argument("--record", type=Path, help="only write the rows of such a file")
    args = options.parse_args()
    if args.record:
        recorded(args.record)
        return
    if not torch.cuda.is_available():
        print(NO_GPU)
        return
    seconds, repeats = (1.0, 1) if args.quick else (args.seconds, args.repeats)
    contests(seconds, repeats, args.lines, args.limit)


if __name__ == "__main__":
    main()
