"""One run from configuration to saved adapter: what ``tunesmith train`` and ``tunesmith.train`` do."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.config import Loaded, RunConfig, dump
from tunesmith.data.audiofolder import describe
from tunesmith.errors import Diverged, ResourceError, UserError
from tunesmith.families import find_base
from tunesmith.families import load as load_base
from tunesmith.families._bundle import Bundle
from tunesmith.formats.adapter import check_base, find_adapter, read_state
from tunesmith.methods._adapter import Adapter
from tunesmith.methods._together import as_taught, attach_all
from tunesmith.registry import plugin
from tunesmith.training.checkpoint import Checkpoints, NoCheckpoints, is_full_disk
from tunesmith.training.consent import consent_of
from tunesmith.training.fitted import fitted
from tunesmith.training.guards import (
    check_unchanged,
    memory_mend,
    memory_message,
    open_run,
    out_of_memory,
)
from tunesmith.training.hardware import (
    best_device,
    choose_dtype,
    device_name,
    peak_memory_bytes,
    reset_peak_memory,
)
from tunesmith.training.judging import check_speaks, heard_speaker, judge_of
from tunesmith.training.log import MetricLog, NoLog
from tunesmith.training.loop import Intervals, Loop, Sets, State
from tunesmith.training.measure import own_randomness
from tunesmith.training.outcome import finish, run_facts, write_facts
from tunesmith.training.parallel import Parallel, here
from tunesmith.training.pitfalls import Finding, Watch
from tunesmith.training.pitfalls.before import anchors, data_findings, reserve
from tunesmith.training.preview import previewer
from tunesmith.training.rare_token import check_rare
from tunesmith.training.rehearsal import (
    recaptioned,
    rehearsal_streams,
    replayable,
    with_concept,
)
from tunesmith.training.rollback import GoodStates
from tunesmith.training.sides import base_losses, check_required, encode_sides, sides_of
from tunesmith.training.signals import StopFlag
from tunesmith.training.streams import MAIN, Stream

OnEvent = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended.

    Attributes:
        folder: the run's folder.
        state: step, losses, time.
        trainable_parameters: how many trained.
        used_step: step whose weights were saved: the best by validation loss or by ear, else the last.
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

    Several processes that a launcher started (``torchrun``, ``accelerate launch``) train one run
    together; each calls this alike, and one of them writes the files.

    Args:
        loaded: what :func:`tunesmith.config.load_config` returned.
        resume: go on with the run in ``config.out`` instead of starting one.
        stop: a stop flag to share; by default SIGINT and SIGTERM are caught for the call.
        on_event: told what happens: ``(kind, values)``; in every process.

    Raises:
        UserError: with its mend; ResourceError and Diverged are kinds of it.
        Stopped: a stop was asked for; everything is saved.
    """
    own, parallel = stop or StopFlag(), here()
    folder = Path(loaded.config.out).expanduser()
    event = on_event or (lambda kind, values: None)
    with own if stop is None else _nothing(), ExitStack() as held:
        everywhere = parallel.begin(own)
        loaded = loaded if resume else fitted(loaded, parallel)
        parallel.lead(lambda: open_run(loaded, folder, resume, held))
        try:
            with own_randomness():
                result = _train(loaded, folder, everywhere, event, parallel)
            parallel.end()
            return result
        except UserError:
            raise
        except Exception as error:
            if parallel.elsewhere():
                raise UserError("another process ended the run") from error
            if out_of_memory(error):
                raise ResourceError(memory_message(loaded), memory_mend(folder)) from error
            if is_full_disk(error):
                raise ResourceError(
                    f"the disk is full ({error})",
                    f"free space and go on with --resume {folder}; what was saved before is whole",
                ) from error
            raise


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _train(
    loaded: Loaded, folder: Path, stop: StopFlag, event: OnEvent, parallel: Parallel
) -> Result:
    config = loaded.config
    warnings: list[str] = []
    # Now: loading a large base only to refuse would take minutes.
    check_required(config)
    consent_of(loaded, describe(Path(config.data.path).expanduser()) or {})
    event("phase", {"name": "loading the base"})
    base = find_base(config.base.name, config.base.revision)
    if base.non_commercial:
        warnings.append(
            f"the weights of '{base.name}' are {base.licence}: no commercial use of what they make"
        )
    device = best_device()
    reset_peak_memory(device)
    facts_file = folder / "run.json"
    earlier = parallel.lead(
        lambda: json.loads(facts_file.read_text(encoding="utf-8")) if facts_file.is_file() else {}
    )
    # Measured once a run: a measurement near the edge must not change precision half-way.
    same_device = earlier.get("device") == device_name(device)
    wish = earlier["dtype"] if same_device else config.base.dtype
    wish = parallel.lead(lambda: str(choose_dtype(wish, device)).removeprefix("torch."))
    dtype = choose_dtype(wish, device)
    bundle = load_base(
        base,
        device=device,
        quantize="" if config.base.quantize == "none" else config.base.quantize,
        double_quant=config.base.double_quant,
        compute=dtype,
    )
    if bundle.untrainable:
        raise UserError(
            f"'{base.name}' does not train: {bundle.untrainable}", "train its base checkpoint"
        )
    stop.check("stopped before training began; run the same command again")

    check_speaks(loaded, bundle)

    sides, chosen = sides_of(config, bundle, warnings, event)
    heard = parallel.lead(lambda: heard_speaker(bundle, sides["train"], earlier, event))
    bundle.use_conditioning(heard)  # before any text is encoded: step 0 is zero-shot
    acting = config.watch and config.auto_fix
    budget = int(config.train.disk_budget_gb * 1e9) if config.train.disk_budget_gb else None
    if budget and acting:
        budget //= 2  # the states to go back to have the other half
    kind = Checkpoints if parallel.leader else NoCheckpoints
    checkpoints = kind(folder / "checkpoints", config.train.keep_checkpoints, budget)
    found = parallel.lead(lambda: _newest(checkpoints))
    snapshot = parallel.from_leader(lambda: Checkpoints.load(Path(found[0])) if found else None)

    method = plugin("methods", config.method["name"])
    if config.concept.token is not None and config.concept.check and snapshot is None:
        parallel.lead(lambda: check_rare(bundle, config.concept, config.seed, stop))
    seconds = [min(clip.duration_s, bundle.max_s) for clip in sides["train"]]
    others = rehearsal_streams(config, bundle, seconds, stop, event, parallel)
    with parallel.leader_first():
        anchor = anchors(config, bundle, seconds, stop, event)
    spare = None if others else _reserve(config, bundle, seconds, stop, event, parallel)
    found_before: list[Finding] = []
    if config.watch and snapshot is None and parallel.leader:
        event("phase", {"name": "looking through the data"})
        found_before = data_findings(loaded, sides["train"])
    starts_as_base = all(
        spec["identity_at_start"]
        for spec in (method.spec, *(one.module.SPEC for one in loaded.beside))
    )
    bands = max((getattr(one.config, "bands", 0) for one in loaded.beside), default=0)
    before = {}
    if snapshot is None and not starts_as_base:
        with as_taught(bundle, loaded.beside):
            before = base_losses(config, sides, bundle, dtype, stop, event, anchor, bands, parallel)
    parallel.know(bundle.module)
    adapter = attach_all(
        bundle,
        method.load(),
        loaded.method_config,
        loaded.beside,
        config.seed,
    )
    # Encoded now, with the adapter on: a caption may hold a token that the base does not know.
    named = {
        side: recaptioned(some, lambda text: adapter.caption(with_concept(text, config.concept)))
        for side, some in sides.items()
        if side != "general"
    }
    encoded = encode_sides({**sides, **named}, bundle, stop, event, bands, parallel)
    kept = heard or bundle.conditioning(encoded["train"])
    bundle.use_conditioning(kept)  # previews are asked as the adapter will be
    main = Stream(MAIN, encoded["train"], encoded["train"].lengths, config.train.batch_size)
    sets = Sets([main, *others], encoded["valid"], encoded["general"], anchor, spare)
    bundle.release_codec()
    if config.train.activation_checkpointing:
        bundle.checkpoint_activations(True)
    plan = intervals(config, len(sides["train"]))
    if config.init_from and not snapshot:
        _warm_start(adapter, config.init_from, bundle)
    for remark in found[1] if found else []:
        warnings.append(remark)
    event(
        "resumed",
        {"step": snapshot.state["step"] if snapshot else 0, "from": str(found[0]) if found else ""},
    )

    count = sum(p.numel() for p in adapter.parameters().values())
    facts = run_facts(loaded, bundle, sides, device, dtype, count, chosen)
    facts["processes"] = parallel.world
    if kept:
        facts |= {"conditioning": dict(kept), "speaker_heard": bool(heard)}
    if snapshot and earlier:
        check_unchanged(earlier, facts)
        facts["recipe"] = earlier.get("recipe")  # now all settings come from the run's own file
    preview = None
    if config.preview.every != 0:
        clips = sides["train"]
        preview = previewer(loaded, bundle, adapter, clips, folder, stop, facts["rights"])
    judge: Callable[[], Mapping[str, float]] | None = None

    def open_judge() -> dict[str, Any]:
        nonlocal judge
        judge, told = judge_of(config, bundle, adapter, sides, stop, event)
        return told

    facts["judge"] = parallel.lead(open_judge)
    if facts["judge"] and judge is None:
        judge = dict  # of the leader: this one is never asked
    parallel.lead(lambda: write_facts(folder, facts))

    # From here on the run's files are written to: all that can be refused has been.
    offset = int(snapshot.state["log_offset"]) if snapshot else 0
    with closing(
        MetricLog(folder / "metrics.jsonl", offset, config.log, dump(loaded))
        if parallel.leader
        else NoLog()
    ) as log:
        loop = Loop(
            bundle,
            adapter,
            sets,
            config.train,
            plan,
            seed=config.seed,
            dtype=dtype,
            checkpoints=checkpoints,
            best=kind(folder / "checkpoints" / "best", keep=1),
            log=log,
            stop=stop,
            preview=preview,
            judge=judge,
            watch=_watch(config),
            good=GoodStates(kind(folder / "checkpoints" / "good", 100, budget), plan.total)
            if acting
            else None,
            on_event=event,
            parallel=parallel,
            mode=config.parallel,
        )
        if snapshot:
            loop.restore(snapshot)
        elif before:
            loop.state.first_loss = before.get("loss")
            loop.state.first_general = before.get("general_loss")
            loop.state.first_anchor = before.get("anchor_loss")
            log.write("base", 0, **before)
        for finding in found_before:
            loop.note(finding)
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
    if loop.good is not None:
        loop.good.checkpoints.leave(())  # nothing is left to go back for
    return Result(folder, state, count, used, peak_memory_bytes(device), tuple(warnings))


def _newest(checkpoints: Checkpoints) -> list[Any] | None:
    """The newest whole checkpoint's folder, and remarks on others."""
    found = checkpoints.newest()
    return [str(found[0]), found[1]] if found else None


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


def _watch(config: RunConfig) -> Watch:
    if not config.watch:
        return Watch()
    train = config.train
    return Watch.usual(train.lr, auto_fix=config.auto_fix, max_bad_steps=train.max_bad_steps)


def _reserve(
    config: RunConfig,
    bundle: Bundle,
    seconds: list[float],
    stop: StopFlag,
    event: OnEvent,
    parallel: Parallel,
) -> Stream | None:
    """What is replayed if the base is being forgotten: general recordings, else its own clips.

    Made while the base is bare, and only where a run may act: afterwards there is none to sample from.
    """
    if not (config.watch and config.auto_fix):
        return None
    clips = replayable(config)
    if clips:
        encoded = encode_sides({"replay": clips}, bundle, stop, event, parallel=parallel)["replay"]
    else:
        with parallel.leader_first():
            encoded = reserve(bundle, seconds, stop, event)
    size = config.replay.batch_size or config.train.batch_size
    frames = [example.frames for example in encoded]
    return Stream("replay", encoded, frames, size, config.replay.weight)


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
