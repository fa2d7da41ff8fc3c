"""One run from configuration to saved adapter: what ``tunesmith train`` and ``tunesmith.train`` do."""

from __future__ import annotations

import fcntl
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from tunesmith.atomic import disk_error, write_bytes
from tunesmith.config import Loaded, RunConfig, dump
from tunesmith.config_source import to_yaml
from tunesmith.data.encode import encode
from tunesmith.data.load import load_dataset
from tunesmith.errors import Diverged, ResourceError, UserError
from tunesmith.families import EMBEDDED, find_base
from tunesmith.families import load as load_base
from tunesmith.families._bundle import Bundle
from tunesmith.formats.adapter import check_base, find_adapter, read_state
from tunesmith.methods._adapter import Adapter
from tunesmith.registry import plugin
from tunesmith.training.checkpoint import Checkpoints, is_full_disk
from tunesmith.training.hardware import best_device, choose_dtype, device_name, peak_memory_bytes
from tunesmith.training.log import MetricLog, check_trackers
from tunesmith.training.loop import Intervals, Loop, Sets, State, own_randomness
from tunesmith.training.outcome import finish, run_facts
from tunesmith.training.preview import Previewer
from tunesmith.training.signals import StopFlag
from tunesmith.types import Clip

OnEvent = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended.

    Attributes:
        folder: the run's folder.
        state: step, losses, time.
        trainable_parameters: how many trained.
        used_step: step whose weights were saved: the best by validation loss, else the last.
        peak_memory_bytes: highest use of the process (CPU) or the device.
        warnings: one line each.
    """

    folder: Path
    state: State
    trainable_parameters: int
    used_step: int
    peak_memory_bytes: int
    warnings: tuple[str, ...] = ()


def train(
    loaded: Loaded,
    *,
    resume: bool = False,
    stop: StopFlag | None = None,
    on_event: OnEvent | None = None,
) -> Result:
    """Train as configured.

    Args:
        loaded: what :func:`tunesmith.config.load_config` returned.
        resume: go on with the run in ``config.out`` instead of starting one.
        stop: a stop flag to share; by default SIGINT and SIGTERM are caught for the call.
        on_event: told what happens: ``(kind, values)``.

    Raises:
        UserError: with its mend; ResourceError and Diverged are kinds of it.
        Stopped: a stop was asked for; everything is saved.
    """
    own = stop or StopFlag()
    folder = Path(loaded.config.out).expanduser()
    event = on_event or (lambda kind, values: None)
    # A folder in which nothing was trained yet is no run: a mistake may be mended and tried again.
    if not resume and ((folder / "checkpoints").is_dir() or (folder / "adapter.json").is_file()):
        raise UserError(
            f"{folder} already holds a run",
            f"go on with --resume {folder}, or give another --out",
        )
    check_trackers(loaded.config.log)
    if resume and not (folder / "config.yaml").is_file():
        raise UserError(f"{folder} holds no run", "give the folder that was --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, folder) from None
    with own if stop is None else _nothing(), _locked(folder):
        text = to_yaml(_anywhere(dump(loaded)))
        if resume:
            _check_same(folder, text)
        else:
            write_bytes(folder / "config.yaml", text.encode())
            (folder / "run.json").unlink(missing_ok=True)  # of an earlier try that never trained
        try:
            with own_randomness():
                return _train(loaded, folder, own, event)
        except UserError:
            raise
        except Exception as error:
            if _out_of_memory(error):
                raise ResourceError(_memory_message(loaded), _memory_mend(folder)) from error
            if is_full_disk(error):
                raise ResourceError(
                    f"the disk is full ({error})",
                    f"free space and go on with --resume {folder}; what was saved before is whole",
                ) from error
            raise


def _anywhere(values: dict[str, Any]) -> dict[str, Any]:
    """The settings with absolute paths, so that a run can be resumed from any folder."""
    for section, key in (("data", "path"), ("data", "general"), ("base", "name")):
        path = Path(values[section][key] or "").expanduser()
        if values[section][key] and path.is_dir() and values[section][key] not in EMBEDDED:
            values[section][key] = str(path.resolve())
    return values


def _check_same(folder: Path, text: str) -> None:
    """A run goes on with the settings that it began with, or its second half is another run's."""
    began = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    now = yaml.safe_load(text)
    changed = [
        f"{section}.{key}" if key else section
        for section in sorted((began.keys() | now.keys()) - {"out"})
        for key in _differences(began.get(section), now.get(section))
    ]
    if changed:
        raise UserError(
            f"{folder} was begun with other settings ({', '.join(changed)})",
            "resume it without them, or start a new run from its weights with init_from",
        )


def _differences(began: Any, now: Any) -> list[str]:
    if isinstance(began, dict) and isinstance(now, dict):
        return sorted(key for key in began.keys() | now.keys() if began.get(key) != now.get(key))
    return [] if began == now else [""]


def _check_unchanged(earlier: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """What a run stands on must be what it stood on when it began."""
    for what, mend in (
        ("base", "put the base's files back as they were"),
        ("data", "put the recordings back as they were"),
    ):
        if earlier[what] != facts[what]:
            raise UserError(
                f"the {what} has changed since this run began",
                f"{mend}, or start a new run from its weights with init_from",
            )


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Two processes in one run folder would tear each other's files."""
    with (folder / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"another process is training in {folder}", "wait for it, or stop it"
            ) from None
        yield


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return "can't allocate memory" in text or "out of memory" in text or "not enough memory" in text


def _memory_message(loaded: Loaded) -> str:
    train = loaded.config.train
    return f"out of memory with train.batch_size={train.batch_size}, method {loaded.config.method['name']}"


def _memory_mend(folder: Path) -> str:
    return (
        "halve train.batch_size and double train.accumulate, set train.activation_checkpointing=true, "
        f"or prepare shorter clips; checkpoints under {folder / 'checkpoints'} are whole"
    )


def _train(loaded: Loaded, folder: Path, stop: StopFlag, event: OnEvent) -> Result:
    config = loaded.config
    warnings: list[str] = []
    event("phase", {"name": "loading the base"})
    base = find_base(config.base.name, config.base.revision)
    if base.non_commercial:
        warnings.append(
            f"the weights of '{base.name}' are {base.licence}: no commercial use of what they make"
        )
    device = best_device()
    bundle = load_base(base, device=device)
    facts_file = folder / "run.json"
    earlier = json.loads(facts_file.read_text(encoding="utf-8")) if facts_file.is_file() else {}
    # Measured once a run: a measurement near the edge must not change precision half-way.
    same_device = earlier.get("device") == device_name(device)
    dtype = choose_dtype(earlier["dtype"] if same_device else config.base.dtype, device)
    stop.check("stopped before training began; run the same command again")

    clips = load_dataset(Path(config.data.path).expanduser())
    general = load_dataset(Path(config.data.general).expanduser()) if config.data.general else []
    sides = {
        "train": [clip for clip in clips if clip.split == "train"],
        "valid": [clip for clip in clips if clip.split == "valid"],
        "general": general,
    }
    if not sides["train"]:
        raise UserError(
            f"{config.data.path} has no training clips",
            "run `tunesmith prepare` on more recordings",
        )
    if not sides["valid"]:
        warnings.append(
            "there are no validation clips: the last weights are kept, and no loss can tell if they are good"
        )
    long = sum(clip.duration_s > bundle.max_s + 0.05 for clip in clips)
    if long:
        warnings.append(
            f"{long} of {len(clips)} clips are longer than {bundle.max_s:g} s, and only the first "
            f"{bundle.max_s:g} s are used: `tunesmith prepare --base {base.name}` cuts them to fit"
        )
    sets = _encode(sides, bundle, stop, event)
    bundle.release_codec()

    module = plugin("methods", config.method["name"]).load()
    adapter = module.attach(bundle, loaded.method_config, config.seed)
    if config.train.activation_checkpointing:
        bundle.checkpoint_activations(True)
    plan = intervals(config, len(sides["train"]))
    checkpoints = Checkpoints(
        folder / "checkpoints",
        config.train.keep_checkpoints,
        int(config.train.disk_budget_gb * 1e9) if config.train.disk_budget_gb else None,
    )
    found = checkpoints.newest()
    snapshot = checkpoints.load(found[0]) if found else None
    if config.init_from and not snapshot:
        _warm_start(adapter, config.init_from, bundle)
    for remark in found[1] if found else []:
        warnings.append(remark)
    event(
        "resumed",
        {"step": snapshot.state["step"] if snapshot else 0, "from": str(found[0]) if found else ""},
    )

    count = sum(p.numel() for p in adapter.parameters().values())
    facts = run_facts(loaded, bundle, sides, device, dtype, count)
    if snapshot and earlier:
        _check_unchanged(earlier, facts)
    preview = None
    if config.preview.every != 0:
        preview = _previewer(loaded, bundle, sides["train"], folder, stop, facts["rights"])
    write_bytes(facts_file, (json.dumps(facts, indent=2, ensure_ascii=False) + "\n").encode())

    # From here on the run's files are written to: all that can be refused has been.
    offset = int(snapshot.state["log_offset"]) if snapshot else 0
    with closing(MetricLog(folder / "metrics.jsonl", offset, config.log, dump(loaded))) as log:
        loop = Loop(
            bundle,
            adapter,
            sets[0],
            sets[1],
            config.train,
            plan,
            seed=config.seed,
            dtype=dtype,
            checkpoints=checkpoints,
            best=Checkpoints(folder / "checkpoints" / "best", keep=1),
            log=log,
            stop=stop,
            preview=preview,
            on_event=event,
        )
        if snapshot:
            loop.restore(snapshot)
        event(
            "start",
            {
                "total": plan.total,
                "step": loop.state.step,
                "trainable_parameters": count,
                "device": str(device),
                "dtype": str(dtype).removeprefix("torch."),
                "clips": len(sides["train"]),
            },
        )
        try:
            state = loop.run()
        except Diverged:
            finish(loop, folder, facts)
            raise
    used = finish(loop, folder, facts)
    return Result(folder, state, count, used, peak_memory_bytes(device), tuple(warnings))


def _encode(
    sides: Mapping[str, list[Clip]], bundle: Bundle, stop: StopFlag, event: OnEvent
) -> tuple[Sets, list[int]]:
    total = sum(map(len, sides.values()))
    encoded, before = {}, 0
    for side, clips in sides.items():
        encoded[side] = encode(
            clips,
            bundle,
            should_stop=stop,
            on_progress=lambda done, _, before=before: event(
                "encode", {"done": before + done, "total": total}
            ),
        )
        before += len(clips)
    return Sets(encoded["train"], encoded["valid"], encoded["general"]), encoded["train"].lengths


def intervals(config: RunConfig, clips: int) -> Intervals:
    """Total steps, and when what recurs is due."""
    train = config.train
    per_epoch = max(1, math.ceil(clips / min(train.batch_size, clips)) / train.accumulate)
    total = train.steps if train.steps is not None else math.ceil((train.epochs or 10) * per_epoch)
    return Intervals(
        total=total,
        evaluate=train.eval_every or max(1, total // 10),
        checkpoint=train.checkpoint_every or max(1, total // 10),
        preview=max(1, total // 4) if config.preview.every is None else config.preview.every,
    )


def _previewer(
    loaded: Loaded, bundle: Bundle, clips: list[Clip], folder: Path, stop: StopFlag, rights: str
) -> Previewer:
    preview = loaded.config.preview
    captions = list(dict.fromkeys(clip.caption for clip in clips))
    # Far apart in the data: the first two captions are often one recording's.
    prompts = preview.prompts or tuple(dict.fromkeys([captions[0], captions[len(captions) // 2]]))
    seconds = preview.seconds or min(5.0, bundle.max_s)
    if seconds > bundle.max_s:
        raise UserError(
            f"preview.seconds={seconds:g} is beyond the base's {bundle.max_s:g}",
            f"give at most {bundle.max_s:g}",
        )
    settings = bundle.sampling
    if preview.guidance is not None:
        settings = replace(settings, guidance=preview.guidance)
    return Previewer(
        bundle, folder / "previews", prompts, seconds, preview.seed, settings, stop, rights
    )


def _warm_start(adapter: Adapter, name: str, bundle: Bundle) -> None:
    """Take the weights of another adapter; steps, optimizer and schedule start anew."""
    folder = find_adapter(name)
    card = check_base(folder, bundle)
    if card["method"]["name"] != adapter.method:
        raise UserError(
            f"init_from: {name} is a '{card['method']['name']}' adapter, this run trains '{adapter.method}'",
            "give an adapter of the same method",
        )
    adapter.load_state(read_state(folder))


__all__ = ["Result", "intervals", "train"]
