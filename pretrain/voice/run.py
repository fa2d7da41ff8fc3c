"""Make ``pocket-voice`` from nothing: corpus, listeners, speech model, vocoder, folder.

One stage after another, or with ``--side-by-side`` each as a process as soon as what it needs is there.
A stage that is done leaves ``WORK/done/<stage>``, and one that was cut off goes on where it was: this
command can simply be started again. What stages print lies in ``WORK/logs/<stage>.log``.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pretrain.common import log, parser, set_up, write_text

_POLL_S, _TRIES = 0.2, 2
_RESERVE_S = 35.0  # of a total time: speaking for a check, writing the folder


@dataclass(frozen=True, slots=True)
class Stage:
    """A process of its own.

    Attributes:
        name: also of its log.
        arguments: module and options.
        needs: stages that have to be done before.
    """

    name: str
    arguments: Sequence[str]
    needs: Sequence[str] = ()


def stages(
    work: Path,
    device: str,
    deadline: float = 0.0,
    minutes: float = 5.5,
    clips: int = 14000,
    listeners_minutes: float = 4.0,
    xvector_minutes: float = 1.5,
    threads: int = 2,
) -> list[Stage]:
    """All stages in order; the speech model waits by itself for the file of ``xvector``.

    Args:
        work: folder.
        device: of all that trains.
        deadline: of speech model and vocoder, in seconds since 1970; 0 is none.
        minutes: of training of each of these.
        clips: of the training split.
        listeners_minutes, xvector_minutes: of training of those that hear.
        threads: of each stage.
    """
    place = ("--work", str(work), "--threads", str(threads))
    common = (*place, "--device", device)
    long = ("--minutes", str(minutes), "--deadline", str(deadline))
    short = ("--minutes", str(listeners_minutes))
    heard = ("corpus",)
    return [
        Stage("corpus", ("pretrain.voice.corpus", *place, "--clips", str(clips))),
        Stage(
            "xvector",
            ("pretrain.voice.xvector", *common, "--minutes", str(xvector_minutes)),
            heard,
        ),
        Stage("tts", ("pretrain.voice.tts", *common, *long), heard),
        Stage("vocoder", ("pretrain.voice.vocoder", *common, *long), heard),
        *(
            Stage(name, ("pretrain.voice.recogniser", *common, *short, "--name", name), heard)
            for name in ("phones", "phones_judge")
        ),
        Stage("voiceprint", ("pretrain.voice.voiceprint", *common, *short), heard),
        Stage(
            "export",
            ("pretrain.voice.export", *place),
            ("tts", "vocoder", "xvector", "phones", "voiceprint"),
        ),
    ]


def _start(stage: Stage, work: Path) -> subprocess.Popen[bytes]:
    log(f"run: {stage.name} begins")
    path = work / "logs" / f"{stage.name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", *stage.arguments], stdout=file, stderr=subprocess.STDOUT
        )


def run(planned: Sequence[Stage], work: Path, side_by_side: bool) -> list[str]:
    """Run what is not done; returns the names of stages that are still not, after two tries each.

    Args:
        planned: in an order in which they could run one after another; what they need and is not among
            them is taken to be there.
        work: folder.
        side_by_side: start whatever can start.
    """
    done = {stage.name for stage in planned if (work / "done" / stage.name).exists()}
    left = [stage for stage in planned if stage.name not in done]
    done |= {need for stage in planned for need in stage.needs} - {s.name for s in planned}
    tries = dict.fromkeys((stage.name for stage in planned), 0)
    running: dict[str, tuple[Stage, subprocess.Popen[bytes]]] = {}
    lost: list[str] = []
    try:
        while left or running:
            for stage in list(left):
                if any(need in lost for need in stage.needs):
                    left.remove(stage)
                    lost.append(stage.name)
                elif done.issuperset(stage.needs) and (side_by_side or not running):
                    left.remove(stage)
                    tries[stage.name] += 1
                    running[stage.name] = (stage, _start(stage, work))
            for name, (stage, process) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[name]
                if process.returncode == 0:
                    write_text(work / "done" / name, "")
                    done.add(name)
                    log(f"run: {name} is done")
                elif tries[name] < _TRIES:
                    log(f"run: {name} ended with {process.returncode}, once more")
                    left.insert(0, stage)
                else:
                    log(f"run: {name} ended with {process.returncode}; see logs/{name}.log")
                    lost.append(name)
            time.sleep(_POLL_S)
    finally:
        for _, process in running.values():
            process.terminate()
    return lost


def main() -> None:
    """Command line."""
    p = parser(__doc__)
    p.set_defaults(work=Path("build/voice"))
    p.add_argument("--clips", type=int, default=14000)
    p.add_argument("--minutes", type=float, default=5.5, help="of speech model and vocoder, each")
    p.add_argument("--listeners-minutes", type=float, default=4.0)
    p.add_argument("--xvector-minutes", type=float, default=1.5)
    p.add_argument("--total-minutes", type=float, default=0.0, help="of everything; 0 is no limit")
    p.add_argument("--side-by-side", action="store_true")
    p.add_argument("--without", nargs="*", default=[], help="stages to leave out")
    args = p.parse_args()
    set_up(args)
    deadline = time.time() + 60 * args.total_minutes - _RESERVE_S if args.total_minutes else 0.0
    planned = stages(
        args.work,
        args.device,
        deadline,
        args.minutes,
        args.clips,
        args.listeners_minutes,
        args.xvector_minutes,
        args.threads,
    )
    planned = [stage for stage in planned if stage.name not in args.without]
    if lost := run(planned, args.work, args.side_by_side):
        raise SystemExit(f"not done: {', '.join(lost)}")
    log("run: all stages are done")


if __name__ == "__main__":
    main()
