"""What a run will take, before it is started: parameters, memory, disk, time, and whether it makes sense.

From the configuration and the base's small files alone: no weights are needed. One short measurement
tells how fast this machine multiplies.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from tunesmith.config import Loaded
from tunesmith.data.audiofolder import describe
from tunesmith.data.load import load_dataset
from tunesmith.data.needs import Tally, Verdict, judge, need_of
from tunesmith.errors import UserError
from tunesmith.families import Base, find_base
from tunesmith.methods._together import attach_all
from tunesmith.registry import plugin
from tunesmith.training.hardware import best_device, choose_dtype, free_memory_bytes, products_per_s
from tunesmith.training.plan_memory import (
    Memory,
    Pass,
    Request,
    empty_bundle,
    memory,
)
from tunesmith.training.rollback import KEPT
from tunesmith.training.run import intervals

_EFFICIENCY = 0.45  # of the measured rate of large products, in a whole training step
_STEP_S = 0.01  # a step's share that does not depend on the clips
_CAPTION = (
    "a slow blues with electric guitar, bass and drums, recorded in a small room, warm and dry"
)
_CLIPS, _SECONDS = 200, 10.0


@dataclass(frozen=True, slots=True)
class Material:
    """What there is to train on.

    Attributes:
        clips, seconds: training clips, and their lengths as far as the base takes them.
        recordings: that they come from.
        clips_all: validation included, varied versions not.
        minutes: of those.
        caption: the longest.
        assumed: what of this is assumed, for there is no data yet; empty if nothing is.
        rights: what the data set says of the rights in it; None where there is no data.
    """

    clips: int
    seconds: tuple[float, ...]
    recordings: int
    clips_all: int
    minutes: float
    caption: str
    assumed: str = ""
    rights: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will take.

    Attributes:
        base, family, method: their names.
        parameters, trainable: of the base, and how many train.
        memory: at its worst.
        free_bytes: of the device now; 0 if unknown.
        disk: bytes by what they are for.
        steps, clips_per_step, epochs: length of the run.
        step_s: seconds of a step, from this machine's speed; None for a device that is not here.
        dtype: of the computation.
        material: what there is to train on.
        verdict: whether that is enough; None for a method that no table knows.
        advice: on the settings.
        warnings: on licence and rights.
    """

    base: str
    family: str
    method: str
    parameters: int
    trainable: int
    memory: Memory
    free_bytes: int
    disk: Mapping[str, int]
    steps: int
    clips_per_step: int
    epochs: float
    step_s: float | None
    dtype: str
    material: Material
    verdict: Verdict | None
    advice: tuple[str, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        out = asdict(self)
        out["memory"]["peak"] = self.memory.peak
        out["memory"]["worst"] = self.memory.worst
        seconds = out["material"].pop("seconds")
        out["material"]["longest_s"] = max(seconds)
        return out


def material_of(loaded: Loaded, max_s: float, clips: int | None, seconds: float | None) -> Material:
    """What the configuration trains on; without data, what is told or assumed of it.

    Raises:
        UserError: the data cannot be read, has no training clips, or is described twice.
    """
    path = loaded.config.data.path
    if path and (clips is not None or seconds is not None):
        raise UserError(
            "--clips and --seconds describe data that is not there yet", "leave them or --data out"
        )
    for name, value in (("--clips", clips), ("--seconds", seconds)):
        if value is not None and value <= 0:
            raise UserError(f"{name} is {value:g}", "give a number above 0")
    if not path:
        told = (clips or _CLIPS, seconds or _SECONDS)
        length = min(told[1], max_s)
        guessed = [word for word, value in (("clips", clips), ("length", seconds)) if value is None]
        return Material(
            told[0], (length,) * told[0], told[0], told[0], told[0] * length / 60, _CAPTION,
            " and ".join(guessed) + " assumed, one clip a recording" if guessed else "as told",
        )  # fmt: skip
    root = Path(path).expanduser()
    found = load_dataset(root)
    train = [clip for clip in found if clip.split == "train"]
    if not train:
        raise UserError(f"{path} has no training clips", "run `tunesmith prepare` on more")
    originals = [clip for clip in found if not clip.variant_of] or found
    return Material(
        len(train),
        tuple(min(clip.duration_s, max_s) for clip in train),
        len({clip.recording for clip in originals}),
        len(originals),
        sum(clip.duration_s for clip in originals) / 60,
        max((clip.caption for clip in found), key=len),
        rights=str((describe(root) or {}).get("rights") or ""),
    )


def make_plan(
    loaded: Loaded,
    *,
    clips: int | None = None,
    seconds: float | None = None,
    device: str | None = None,
) -> Plan:
    """What a run of this configuration will take.

    Args:
        loaded: the configuration; its data may be absent.
        clips, seconds: what to assume of absent data.
        device: ``cpu`` or ``cuda``; by default what this machine would train on.

    Raises:
        UserError: with its mend.
    """
    config, train = loaded.config, loaded.config.train
    base = find_base(config.base.name, config.base.revision, weights=False)
    bundle = empty_bundle(base)
    material = material_of(loaded, bundle.max_s, clips, seconds)
    here = best_device()
    kind = device or ("cuda" if here.type == "cuda" else "cpu")
    dtype = _dtype(config.base.dtype, kind, here)
    request = request_of(loaded, base, material, kind, dtype)
    needed = memory(request)
    total = sum(p.numel() for p in bundle.module.parameters())
    steps = intervals(config, material.clips).total
    a_step = train.batch_size * train.accumulate

    frames = a_step * statistics.fmean(material.seconds) * bundle.frame_rate_hz
    products = sum(
        bundle.components[part].get_submodule(path).weight.numel()  # type: ignore[operator,union-attr]
        for part, path in bundle.linears()
    )
    passes = (3 if needed.trainable > total / 3 else 2) + train.activation_checkpointing
    step_s = None
    if kind == here.type:
        rate = products_per_s(here, dtype) * _EFFICIENCY
        step_s = _STEP_S + passes * products * frames / rate
    return Plan(
        base.name,
        base.family.name,
        config.method["name"],
        total,
        needed.trainable,
        needed,
        free_memory_bytes(here) if kind == here.type else 0,
        _disk(loaded, base, total, needed.trainable, material, bundle.frame_rate_hz),
        steps,
        a_step,
        steps * a_step / material.clips,
        step_s,
        str(dtype).removeprefix("torch."),
        material,
        _verdict(loaded, material),
        _advice(loaded),
        _warnings(base, material),
    )


def request_of(
    loaded: Loaded, base: Base, material: Material, device: str, dtype: torch.dtype
) -> Request:
    """What the memory of a configuration depends on."""
    config, train = loaded.config, loaded.config.train
    method = plugin("methods", config.method["name"]).load()

    def attach(bundle: Any) -> Any:
        # No seed: a start that is computed from values has none here.
        return attach_all(bundle, method, loaded.method_config, loaded.beside, None)

    longest = max(material.seconds)
    passes = [Pass(min(train.batch_size, material.clips), longest)]
    if config.prior.weight > 0:
        length = config.prior.seconds or statistics.median(material.seconds)
        passes.append(Pass(config.prior.batch_size or train.batch_size, length))
    if config.replay.path:
        replayed = load_dataset(Path(config.replay.path).expanduser())
        length = max(clip.duration_s for clip in replayed)
        passes.append(Pass(config.replay.batch_size or train.batch_size, length))
    preview = 0.0 if config.preview.every == 0 else config.preview.seconds or 5.0
    return Request(
        base,
        attach,
        tuple(passes),
        material.caption,
        device,
        dtype,
        quantize=config.base.quantize == "nf4",
        double_quant=config.base.double_quant,
        accumulated=train.accumulate > 1,
        checkpointing=train.activation_checkpointing,
        optimizer=train.optimizer,
        averaged=train.ema > 0,
        preview_s=preview,
        preview_rows=2 * (len(config.preview.prompts) or 2),
    )


def _dtype(wish: str, kind: str, here: torch.device) -> torch.dtype:
    if kind == here.type:
        return choose_dtype(wish, here)
    if wish != "auto":
        return getattr(torch, wish)  # type: ignore[no-any-return]
    return torch.bfloat16 if kind == "cuda" else torch.float32


def _disk(
    loaded: Loaded, base: Base, total: int, trainable: int, material: Material, rate_hz: float
) -> dict[str, int]:
    train = loaded.config.train
    moments = 8 if train.optimizer == "adamw" else 2
    each = trainable * (4 + moments + (4 if train.ema else 0))
    found = {
        # One more than is kept is there while it is written; the best has weights alone.
        "checkpoints": each * (train.keep_checkpoints + 1) + 4 * trainable,
        "adapter": 4 * trainable,
        # int16 codes of at most 8 codebooks, and the text states of a caption's forty or so tokens
        "caches": int(sum(material.seconds) * rate_hz * 2 * 8) + material.clips * 40 * 1024 * 4,
    }
    if loaded.config.watch and loaded.config.auto_fix:
        # Beside the newest ones the first, and one that is being written.
        found["states to go back to"] = each * (KEPT + 2)
    if train.disk_budget_gb:
        kinds = ("checkpoints", "states to go back to")
        budget = int(train.disk_budget_gb * 1e9) // sum(kind in found for kind in kinds)
        found |= {kind: min(found[kind], budget + each) for kind in kinds if kind in found}
    if not any(base.path.rglob("*.safetensors")):
        found["the base, to be downloaded"] = 4 * total
    return found


def _verdict(loaded: Loaded, material: Material) -> Verdict | None:
    method = "dreambooth" if loaded.config.concept.token else loaded.config.method["name"]
    try:
        need = need_of(method)
    except UserError:
        return None
    tally = Tally(
        material.recordings, material.clips_all, material.minutes, material.clips_all,
        0, 0, 0, material.clips, material.recordings,
    )  # fmt: skip
    return judge(need, tally, method)


def _advice(loaded: Loaded) -> tuple[str, ...]:
    """What a method's own sizes (rank, width, length, vectors) are good for, by its presets."""
    found = []
    presets = plugin("methods", loaded.config.method["name"]).spec.get("presets", {})
    for name, known in presets.items():
        size = getattr(loaded.method_config, name)
        nearest = min(known, key=lambda one: (abs(_log2(one) - _log2(size)), one))
        others = " · ".join(f"{one} {what}" for one, what in known.items())
        found.append(f"{name} {size} is good for {known[nearest]} ({others})")
    return tuple(found)


def _log2(number: int) -> int:
    return number.bit_length()


def _warnings(base: Base, material: Material) -> tuple[str, ...]:
    found = []
    if base.non_commercial:
        found.append(f"the base's weights are {base.licence}: no commercial use of what they make")
    if material.rights == "":
        found.append(
            "the data set does not say what rights you have in it: `tunesmith prepare --rights`"
        )
    return tuple(found)


def lines(plan: Plan) -> list[str]:
    """The plan as a short page."""
    needed, material = plan.memory, plan.material
    where = "allocated on the GPU" if needed.device == "cuda" else "resident"
    free = f", {_size(plan.free_bytes)} free" if plan.free_bytes else ""
    share = 100 * plan.trainable / plan.parameters
    data = (
        f"{material.clips:,} training clips, {sum(material.seconds) / 60:.1f} minutes, "
        f"longest {max(material.seconds):.1f} s"
    )
    if material.assumed:
        data += f" ({material.assumed})"
    out = [
        f"base        {plan.base} ({plan.family}), {plan.parameters:,} parameters",
        f"method      {plan.method}: {plan.trainable:,} trainable parameters ({share:.2f} %)",
        f"data        {data}",
    ]
    if plan.verdict:
        out.append(f"verdict     {plan.verdict.word}: {plan.verdict.sentences[0]}")
        out += [f"            {one}" for one in plan.verdict.mend[:1]]
    out += [f"advice      {one}" for one in plan.advice]
    out += [
        f"steps       {plan.steps:,} of {plan.clips_per_step} clips ({plan.epochs:.1f} epochs)",
        f"memory      about {_size(needed.peak)} {where} during {needed.worst}{free}",
        f"            {_parts(needed.parts)}",
        f"            {', '.join(f'{name} {_size(size)}' for name, size in needed.phases.items())}",
    ]
    if needed.host:
        out.append(f"            and about {_size(needed.host)} of main memory")
    out.append(f"disk        about {_size(sum(plan.disk.values()))}: {_parts(plan.disk)}")
    if plan.step_s is None:
        out.append(f"time        not told: this machine has no such device ({plan.dtype})")
    else:
        out.append(
            f"time        about {_clock(plan.steps * plan.step_s)} "
            f"({plan.step_s:.2f} s a step, {plan.dtype})"
        )
    return out + [f"warning     {one}" for one in plan.warnings]


def dry_run(loaded: Loaded) -> str:
    """A short page on what the run will take."""
    return "\n".join(lines(make_plan(loaded)))


def _parts(parts: Mapping[str, int]) -> str:
    ordered: Sequence[tuple[str, int]] = sorted(parts.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {_size(size)}" for name, size in ordered if size >= 2**19)


def _size(number: float) -> str:
    if number >= 2**30:
        return f"{number / 2**30:.1f} GiB"
    return f"{max(1, round(number / 2**20))} MiB"


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


__all__ = ["Material", "Plan", "dry_run", "lines", "make_plan", "material_of", "request_of"]
