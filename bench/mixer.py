"""Many adapters in one batch: the mixer against the plain base batch and PEFT's mixed batch.

    python -m bench.mixer [--layers 24] [--frames 50] [--rounds 7] [--quick]

musicgen-small's decoder with random weights, fp32, and eight LoRAs of rank 16 on q, k and v of all
attentions (they are alive: they change the last states by more than a tenth). Eight rows, of eight
adapters or of eight blends of two or three, decode a step with a cache of 250 positions, and run all
positions at once. All contestants share one set of weights and take turns.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.utils.hotswap import hotswap_adapter
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache

from bench._results import Row, parser, record, spread
from bench._turns import small_model
from tunesmith.families.musicgen._tiny import byte_tokenizer
from tunesmith.families.musicgen.bundle import MusicgenBundle
from tunesmith.formats.adapter import read_state, write_adapter
from tunesmith.methods import lora
from tunesmith.serve.mixer import Mixer

ROWS, RANK, CACHED, TEXT = 8, 16, 250, 16
SLOWER, EQUAL, SWITCH_MS = 1.25, 1e-4, 20.0
Clock = Callable[[], float]
NAMES = [f"style{number}" for number in range(ROWS)]
SINGLE = [{name: 1.0} for name in NAMES]
BLENDS = [
    {NAMES[row]: 0.6, NAMES[(row + 1) % ROWS]: 0.4, **({NAMES[(row + 3) % ROWS]: -0.2} if row % 2 else {})}
    for row in range(ROWS)
]  # fmt: skip


def base(layers: int) -> MusicgenBundle:
    """The geometry as a base; its codec is a stub that nobody uses."""
    return MusicgenBundle(
        small_model(layers).requires_grad_(False).eval(),
        byte_tokenizer(),
        lambda: None,
        name="musicgen-small's geometry",
        base_hash="random",
        codec_hash="",
        text_hash="",
        licence="",
        max_s=30.0,
    )


def adapter(folder: Path, bundle: MusicgenBundle, seed: int) -> Path:
    """A LoRA of random numbers, as training would save it."""
    config = lora.Config(rank=RANK)
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for path in lora.target_paths(bundle, config)["decoder"]:
        linear: Any = bundle.components["decoder"].get_submodule(path)
        root = f"base_model.model.{path}"
        down = torch.randn(RANK, linear.in_features, generator=draw) / linear.in_features**0.5
        tensors[f"{root}.lora_A.weight"] = down
        tensors[f"{root}.lora_B.weight"] = 0.05 * torch.randn(
            linear.out_features, RANK, generator=draw
        )
    state = {"decoder": tensors}
    card = {
        "base": {"name": bundle.name, "hash": bundle.base_hash, "family": bundle.family},
        "method": {"name": "lora", **dataclasses.asdict(config)},
        "linear": True,
    }
    write_adapter(folder, state, lora.peft_files(config, state), card)
    return folder


def sharing(module: nn.Module) -> nn.Module:
    """The same module once more, with the same tensors."""
    memo: dict[int, Any] = {id(one): one for one in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, memo)


def merged(decoder: nn.Module, folders: Mapping[str, Path], row: Mapping[str, float]) -> nn.Module:
    """The decoder with a row's blend added to its weights, in float64."""
    model, deltas = sharing(decoder), {}
    for name, weight in row.items():
        state = read_state(folders[name])["decoder"]
        for path, delta in lora.delta(state, lora.Config(rank=RANK)).items():
            deltas[path] = deltas.get(path, 0) + weight * delta.double()
    for path, delta in deltas.items():
        linear: Any = model.get_submodule(path)
        linear.weight = nn.Parameter((linear.weight + delta).float(), requires_grad=False)
    return model


class Work:
    """What a decoder is asked for: a step behind a cache, or all positions at once."""

    def __init__(self, layers: int, frames: int) -> None:
        draw = torch.Generator().manual_seed(3)
        self.text = torch.randn(ROWS, TEXT, 1024, generator=draw)
        self.tokens = torch.randint(2048, (ROWS, 4, frames), generator=draw)
        self._past = [
            [0.1 * torch.randn(ROWS, 16, CACHED, 64, generator=draw) for _ in range(2)]
            for _ in range(layers)
        ]

    def whole(self, decoder: Any, rows: slice = slice(None), **options: Any) -> Tensor:
        """Logits of all positions."""
        return decoder(
            input_ids=self.tokens[rows].flatten(0, 1),
            encoder_hidden_states=self.text[rows],
            use_cache=False,
            **options,
        ).logits

    def cache(self, rows: slice = slice(None)) -> Any:
        """A cache of so many positions that were heard before."""
        own = DynamicCache()
        for layer, (keys, values) in enumerate(self._past):
            own.update(keys[rows].clone(), values[rows].clone(), layer)
        return EncoderDecoderCache(own, DynamicCache())

    def step(self, decoder: Any, cache: Any, rows: slice = slice(None), **options: Any) -> Tensor:
        """Logits of one more position."""
        return decoder(
            input_ids=self.tokens[rows, :, :1].flatten(0, 1),
            encoder_hidden_states=self.text[rows],
            past_key_values=cache,
            use_cache=True,
            **options,
        ).logits


def taking_turns(
    contestants: Mapping[str, Callable[[], Any]], rounds: int, clock: Clock
) -> dict[str, list[float]]:
    """Seconds of each turn; a first one of each is not counted."""
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, run in contestants.items():
            begin = clock()
            run()
            if number:
                found[name].append(clock() - begin)
    return found


def off(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def equality(
    work: Work, mixer: Mixer, mixed: Any, plain: Any, folders: Mapping[str, Path]
) -> tuple[float, float, float]:
    """Worst row against its merged model, ``(step, all at once)``, and what the adapters change."""
    worst, changed = [0.0, 0.0], []
    for rows in (SINGLE, BLENDS):
        with mixer.use(mixer.weights(rows)):
            step, whole = work.step(mixed, work.cache()), work.whole(mixed)
        for number, row in enumerate(rows):
            one = slice(number, number + 1)
            model = merged(plain, folders, row)
            codes = slice(4 * number, 4 * number + 4)
            worst[0] = max(worst[0], off(step[codes], work.step(model, work.cache(one), one)))
            wanted = work.whole(model, one)
            worst[1] = max(worst[1], off(whole[codes], wanted))
            changed.append(off(work.whole(plain, one), wanted))
    return worst[0], worst[1], min(changed)


def batches(
    work: Work,
    mixer: Mixer,
    decoders: tuple[Any, Any, Any],
    rounds: int,
    steps: int,
    whole: bool,
    clock: Clock,
) -> list[Row]:
    """Time of a batch, as a multiple of the plain base's.

    Args:
        decoders: plain, mixed, and PEFT's.
        steps: of decoding in a turn.
        whole: all positions at once instead.
    """
    plain, mixed, theirs = decoders
    cache = work.cache()
    work.step(plain, cache)  # keys and values of the text
    cache.crop(-1)

    def run(decoder: Any, **options: Any) -> None:
        if whole:
            work.whole(decoder, **options)
            return
        for _ in range(steps):
            work.step(decoder, cache, **options)
        cache.crop(-steps)

    def mix(weights: Tensor) -> Callable[[], None]:
        def go() -> None:
            with mixer.use(weights):
                run(mixed)

        return go

    seconds = taking_turns(
        {
            "plain": lambda: run(plain),
            "eight adapters": mix(mixer.weights(SINGLE)),
            "eight blends": mix(mixer.weights(BLENDS)),
            "four adapters, four base rows": mix(mixer.weights([*SINGLE[:4], {}, {}, {}, {}])),
            "peft": lambda: run(theirs, adapter_names=NAMES),
        },
        rounds,
        clock,
    )
    what = "all positions at once" if whole else "a step of decoding"
    unit = 1000 / (1 if whole else steps)
    base_s, rows = seconds.pop("plain"), []
    for name, values in seconds.items():
        ratios = [a / b for a, b in zip(values, base_s, strict=True)]
        figure = (
            f"{spread(ratios)} x ({unit * statistics.median(values):.0f} against "
            f"{unit * statistics.median(base_s):.0f} ms)"
        )
        if name == "peft":
            rows.append(Row(f"beside it PEFT's adapter_names, {ROWS} adapters: {what}", "", figure))
        else:
            passed = statistics.median(ratios) <= SLOWER
            bar = f"<= {SLOWER} x the plain batch"
            rows.append(Row(f"{name}, {ROWS} rows, r={RANK}: {what}", bar, figure, passed))
    return rows


def switching(
    mixer: Mixer, theirs: Any, folders: Mapping[str, Path], rounds: int, clock: Clock
) -> list[Row]:
    """What it takes until other rows, or another adapter, can be served."""
    some = list(folders.values())
    count = {"mine": 0, "peft": 0}

    def weights() -> None:
        mixer.set_rows(mixer.weights(BLENDS))

    def add() -> None:
        folder = some[count["mine"] % len(some)]
        for file in folder.rglob("*.safetensors"):
            os.utime(file)  # as if never seen: its hash is to be looked at again
        mixer.add("more", folder)

    def again() -> None:
        mixer.add("more", some[count["mine"] % len(some)])
        count["mine"] += 1

    def hotswap() -> None:
        count["peft"] += 1
        folder = some[count["peft"] % len(some)] / "adapter" / "decoder"
        hotswap_adapter(theirs, str(folder), adapter_name=NAMES[0], torch_device="cpu")

    def load() -> None:
        theirs.load_adapter(str(some[0] / "adapter" / "decoder"), adapter_name="more")

    def remove() -> None:
        theirs.delete_adapter("more")

    other = iter(range(10**6))
    seconds = taking_turns(
        {
            "weights": weights,
            "add": add,
            "mixer.remove": lambda: mixer.remove("more"),
            "again": again,
            "mixer.remove again": lambda: mixer.remove("more"),
            "set_adapter": lambda: theirs.set_adapter(NAMES[next(other) % ROWS]),
            "hotswap_adapter": hotswap,
            "load_adapter": load,
            "delete": remove,
        },
        rounds,
        clock,
    )
    size = sum(file.stat().st_size for file in some[0].rglob("*.safetensors")) / 1e6
    theirs_ms = "; ".join(
        f"PEFT {name} {spread([1000 * one for one in seconds[name]], ' ms', 0)}"
        for name in ("set_adapter", "hotswap_adapter", "load_adapter")
    )
    rows = []
    for name, what in (
        ("weights", "other adapters for all rows"),
        (
            "add",
            f"an adapter more from the disk ({size:.0f} MB, seen for the first time: hash checked)",
        ),
        ("again", "the same once more, its files unchanged since they were hashed"),
    ):
        found = [1000 * one for one in seconds[name]]
        figure = f"{spread(found, ' ms', 1)}; beside it {theirs_ms}"
        rows.append(
            Row(what, f"<= {SWITCH_MS:g} ms", figure, statistics.median(found) <= SWITCH_MS)
        )
    return rows


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--layers", type=int, default=24, help="of the decoder")
    options.add_argument("--frames", type=int, default=50, help="positions of all at once")
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--steps", type=int, default=4, help="of decoding a turn")
    options.add_argument(
        "--cpu-time", action="store_true", help="of this process, on a busy machine; not recorded"
    )
    args = options.parse_args()
    clock = time.process_time if args.cpu_time else time.perf_counter
    if args.quick:
        args.layers, args.frames, args.rounds = min(args.layers, 2), 20, 2
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        bundle = base(args.layers)
        folders = {n: adapter(Path(folder) / n, bundle, s) for s, n in enumerate(NAMES)}
        mixed = bundle.components["decoder"]
        plain, other = sharing(mixed), sharing(mixed)
        theirs: Any = None
        for name, where in folders.items():
            place = str(where / "adapter" / "decoder")
            if theirs is None:
                theirs = PeftModel.from_pretrained(other, place, adapter_name=name).eval()  # type: ignore[arg-type]
            else:
                theirs.load_adapter(place, adapter_name=name)
        mixer = Mixer(bundle, slots=ROWS + 1, rank=RANK)
        for name, where in folders.items():
            mixer.add(name, where)
        work = Work(args.layers, args.frames)
        step, whole, changed = equality(work, mixer, mixed, plain, folders)
        decoders = (plain, mixed, theirs)
        rows = batches(work, mixer, decoders, args.rounds, args.steps, False, clock)
        rows += batches(work, mixer, decoders, args.rounds, args.steps, True, clock)
        equal = step <= EQUAL and whole <= EQUAL
        rows.append(
            Row(
                "each row, adapters and blends, against its own merged model (logits, relative)",
                f"<= {EQUAL:g}",
                f"{step:.1e} a step, {whole:.1e} all at once (adapters change {changed:.2f} and more)",
                equal,
            )
        )
        rows += switching(mixer, theirs, folders, 3 * args.rounds, clock)
    if args.quick or args.cpu_time:
        print(*rows, sep="\n")
        return
    record(
        "mixer",
        f"Many adapters in one batch (musicgen-small's decoder, {args.layers} layers)",
        rows,
        notes=f"fp32, {torch.get_num_threads()} threads, random weights; LoRAs on q, k, v of both "
        f"attentions. A step has {CACHED} positions behind it; all at once are {args.frames} a row. "
        "PEFT gives each row one adapter and blends none. Files lie in the page cache.",
    )


if __name__ == "__main__":
    main()
