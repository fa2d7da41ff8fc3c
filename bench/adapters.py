"""What becomes of adapters after training, in figures: merged, blended, in four bits, beside tokens.

python -m bench.adapters [--quick]

On the embedded base, with adapters away from their start by noise. Differences are those of the
decoder's logits on a real clip, ‖found − wanted‖ / ‖wanted‖.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import MusicgenForConditionalGeneration

from bench._results import Row, parser, record
from tunesmith.data.encode import read_audio
from tunesmith.families import EMBEDDED, find_base, load
from tunesmith.families._quantize import packable, quantize
from tunesmith.formats.adapter import (
    load_adapter,
    read_card,
    read_state,
    save_adapter,
    write_adapter,
)
from tunesmith.formats.blend import Part, blend
from tunesmith.formats.merged import merge
from tunesmith.registry import plugin
from tunesmith.types import Example, GenerationSettings

ALL = ("q", "k", "v", "o", "up", "down")
BAR = 1e-5
KINDS: dict[str, dict[str, Any]] = {
    "jazz": {"rank": 16},
    "classical": {"rank": 4, "targets": ALL, "alpha": 9.0},
    "rs": {"rank": 64, "rslora": True, "targets": ("o", "up")},
}


def pocket() -> Any:
    return load(find_base("pocket"))


def away(adapter: Any, seed: int, size: float = 0.03) -> Any:
    """The adapter away from its start."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters().values():
            parameter.add_(size * torch.randn(parameter.shape, generator=draw))
    return adapter


def saved(folder: Path, method: str, seed: int, **options: Any) -> Path:
    bundle, module = pocket(), plugin("methods", method).load()
    adapter = away(module.attach(bundle, module.Config(**options), seed), seed)
    save_adapter(folder, adapter, bundle, {"metrics": {}})
    return folder


@torch.no_grad()
def logits(decoder: Any) -> Tensor:
    decoder.eval()
    codes, states = _heard()
    return decoder(input_ids=codes, encoder_hidden_states=states).logits.double()


@cache
def _heard() -> tuple[Tensor, Tensor]:
    """Codes ``[K, T]`` of a real clip and the projected states of its caption, from the bare base."""
    bundle = pocket()
    file = sorted((EMBEDDED["pocket"].parent / "demo" / "held-out").glob("*.ogg"))[0]
    rate, channels = bundle.sample_rate_hz, bundle.channels
    codes = bundle.encode_audio(read_audio(file, rate, channels, bundle.max_s))
    example = Example("clip", codes, bundle.encode_text(["mellow calypso, steel drums"])[0])
    states, _ = bundle.module.text_states(bundle.collate([example], [0]).text)
    return codes.long(), states


def live(folder: Path | None, strength: float = 1.0) -> Tensor:
    bundle = pocket()
    if folder is not None:
        load_adapter(folder, bundle).set_strength(strength)
    return logits(bundle.components["decoder"])


def apart(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def merged_rows(top: Path) -> list[Row]:
    rows = []
    for name, method, options in (
        ("LoRA r=16", "lora", {"rank": 16, "targets": ALL}),
        ("rsLoRA r=64", "lora", {"rank": 64, "rslora": True}),
        ("DoRA r=16", "lora", {"rank": 16, "dora": True}),
        ("full", "full", {}),
    ):
        folder = saved(top / f"merge-{name}", method, 1, **options)
        wanted = live(folder)
        merge(folder, top / f"merged-{name}")
        plain = MusicgenForConditionalGeneration.from_pretrained(
            top / f"merged-{name}", dtype=torch.float32
        )
        off = apart(logits(plain.decoder), wanted)
        moved = apart(live(None), wanted)
        rows.append(
            Row(
                f"merged, opened by transformers alone, against the live adapter: {name}",
                f"<= {BAR:g}",
                f"{off:.1e} (the adapter itself changes them by {moved:.2f})",
                off <= BAR,
            )
        )
    return rows


def regauged(source: Path, target: Path) -> Path:
    """The same change in other factors: A → RA, B → BR⁻¹."""
    draw = torch.Generator().manual_seed(0)
    tensors = dict(read_state(source)["decoder"])
    for key in [key for key in tensors if "lora_A" in key]:
        down, other = tensors[key], key.replace("lora_A", "lora_B")
        size = down.shape[0]
        turn = torch.linalg.qr(torch.randn(size, size, generator=draw, dtype=torch.float64)).Q
        turn = turn * torch.linspace(0.5, 2, size, dtype=torch.float64)
        tensors[key] = (turn @ down.double()).float().contiguous()
        tensors[other] = (tensors[other].double() @ torch.linalg.inv(turn)).float().contiguous()
    return write_adapter(target, {"decoder": tensors}, {}, read_card(source)) or target


def summed(made: dict[str, Path], weights: dict[str, float]) -> Tensor:
    """The weighted sum of whole changes, added to the weights one by one."""
    bundle = pocket()
    decoder = bundle.components["decoder"]
    for name, weight in weights.items():
        card = read_card(made[name])["method"]
        scale = (card["alpha"] or card["rank"]) / card["rank"] ** (0.5 if card["rslora"] else 1)
        tensors = read_state(made[name])["decoder"]
        with torch.no_grad():
            for key, down in tensors.items():
                if "lora_A" in key:
                    up = tensors[key.replace("lora_A", "lora_B")].double()
                    path = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                    delta = weight * scale * (up @ down.double())
                    decoder.get_submodule(path).weight.add_(delta.float())
    return logits(decoder)


def blend_rows(top: Path) -> list[Row]:
    made = {
        name: saved(top / name, "lora", seed, **options)
        for seed, (name, options) in enumerate(KINDS.items(), 1)
    }
    turned = regauged(made["jazz"], top / "turned")

    def of(name: str, parts: list[Part]) -> Tensor:
        blend(parts, top / name)
        return live(top / name)

    both = {"jazz": 0.3, "classical": 0.7}
    three = {"jazz": -0.4, "classical": 0.9, "rs": 1.3}
    checks = {
        "w = 1 is the adapter itself": (
            of("one", [Part("jazz", made["jazz"], 1.0)]), live(made["jazz"])),
        "linear in w: 0.4 is strength 0.4": (
            of("part", [Part("rs", made["rs"], 0.4)]), live(made["rs"], 0.4)),
        "an adapter with itself, ½ and ½": (
            of("self", [Part("jazz", made["jazz"], 0.5)] * 2), live(made["jazz"])),
        "two of ranks 16 and 4 and other targets, 0.3 and 0.7": (
            of("two", [Part(n, made[n], w) for n, w in both.items()]), summed(made, both)),
        "three, rsLoRA among them, weights -0.4, 0.9, 1.3": (
            of("three", [Part(n, made[n], w) for n, w in three.items()]), summed(made, three)),
        "another gauge (A to RA, B to B/R) of one of two": (
            of("gauge", [Part("t", turned, 0.3), Part("c", made["classical"], 0.7)]),
            summed(made, both)),
    }  # fmt: skip
    rows = [
        Row(f"blend: {what}", f"<= {BAR:g}", f"{(off := apart(*pair)):.1e}", off <= BAR)
        for what, pair in checks.items()
    ]
    rows.append(Row(
        "beside it PEFT's add_weighted_adapter('linear'), two of rank 16, ½ and ½", "",
        f"{_by_peft(top):.2f} of the change is wrong",
    ))  # fmt: skip
    return rows


def _by_peft(top: Path) -> float:
    first, second = (saved(top / f"peft-{seed}", "lora", seed, rank=16) for seed in (5, 6))
    model: Any = MusicgenForConditionalGeneration.from_pretrained(
        EMBEDDED["pocket"], dtype=torch.float32
    )
    both = PeftModel.from_pretrained(model.decoder, first / "adapter" / "decoder", adapter_name="a")
    both.load_adapter(second / "adapter" / "decoder", adapter_name="b")
    both.add_weighted_adapter(["a", "b"], [0.5, 0.5], "c", combination_type="linear")
    both.set_adapter("c")
    base = live(None)
    wanted = summed({"a": first, "b": second}, {"a": 0.5, "b": 0.5}) - base
    return float((logits(both) - base - wanted).norm() / wanted.norm())


def nf4_row() -> Row:
    import bitsandbytes.functional as functional

    plain, packed = pocket(), pocket()
    quantize(packed, torch.device("cpu"))
    equal, places = 0, packable(plain)
    for component, path in places:
        weight = plain.components[component].get_submodule(path).weight.detach()
        codes, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
        ours: Any = packed.components[component].get_submodule(path).weight
        mine = functional.dequantize_4bit(ours.data, ours.quant_state)
        equal += torch.equal(mine, functional.dequantize_4bit(codes, state))
    figure = f"{equal} of {len(places)} linears bit-equal"
    return Row(
        "NF4: dequantised values against bitsandbytes' own", "equal", figure, equal == len(places)
    )


def token_row() -> Row:
    module = plugin("methods", "textual_inversion").load()
    settings = GenerationSettings()
    prompts, seeds = (
        ["slow blues, electric guitar", "a bright waltz led by accordion", ""],
        [1, 2, 3],
    )
    bundle = pocket()
    before = bundle.generate_codes(prompts, 2.0, seeds, settings)
    away(module.attach(bundle, module.Config(token="[mine]"), 0), 1, 1.0)
    after = bundle.generate_codes(prompts, 2.0, seeds, settings)
    with_token = bundle.generate_codes(["[mine], " + prompts[0]], 2.0, [1], settings)
    same = sum(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    other = float((with_token[0] != before[0]).float().mean())
    figure = f"{same} of {len(prompts)} takes bit-identical ({other:.0%} of the codes differ with the token)"
    return Row("textual inversion: prompts without the token against the base", "bit-identical",
               figure, same == len(prompts) and other > 0)  # fmt: skip


def main() -> None:
    args = parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        rows = [*merged_rows(top), *blend_rows(top), nf4_row(), token_row()]
    if args.quick:
        print(*rows, sep="\n")
        return
    record("adapters", "After training: merge, blend, four bits, tokens", rows, notes=(
        "pocket, float32; adapters moved from their start by noise of 0.03."
    ), packages=("torch", "transformers", "peft", "bitsandbytes"))  # fmt: skip


if __name__ == "__main__":
    main()
