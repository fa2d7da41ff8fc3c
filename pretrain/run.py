"""Make ``pocket`` from nothing: compose, render, codec, codes, language model, export, taggers, demo clips.

Every stage goes on where a kill left it, so this command can simply be started again.
"""

from __future__ import annotations

from pathlib import Path

from pretrain import codec, decoder, demo_clips, export, lm, render, tagger
from pretrain.common import log, parser, set_up


def main() -> None:
    """Command line."""
    p = parser(__doc__)
    p.add_argument("--clips", type=int, default=6000)
    p.add_argument("--valid-clips", type=int, default=250)
    p.add_argument("--judge-clips", type=int, default=3000)
    p.add_argument("--codec-steps", type=int, default=7500)
    p.add_argument(
        "--codec-minutes",
        type=float,
        default=600.0,
        help="training time after which the codec is done",
    )
    p.add_argument(
        "--steps", type=int, default=8000, help="steps of the language model; raise to go on"
    )
    p.add_argument("--minutes", type=float, default=600.0, help="the same as training time")
    p.add_argument("--decoder-steps", type=int, default=3000)
    p.add_argument("--decoder-minutes", type=float, default=600.0)
    p.add_argument("--tagger-steps", type=int, default=2400)
    p.add_argument(
        "--out",
        type=Path,
        default=None,
        help="data folder, default WORK/pocket (musicgen/, tagger/, judge/, demo/)",
    )
    args = p.parse_args()
    set_up(args)
    out = args.out or args.work / "pocket"
    log("stage: render")
    counts = {"valid": args.valid_clips, "train": args.clips, "judge": args.judge_clips}
    render.make(args.work, counts, args.threads)
    if not (out / "demo" / "general").exists():
        demo_clips.make(out / "demo")
    log(f"stage: codec ({args.threads} threads)")
    codec.train(args.work, args.codec_steps, args.codec_minutes, args.seed, args.device)
    codec.encode_all(args.work, args.seed, args.device)
    model, state = export.trained_model(args.work, args.seed)
    export.write_folder(model, args.work, out / "musicgen", state)
    log("stage: language model")
    lm.train(args.work, args.steps, args.minutes, args.seed, out / "musicgen", args.device)
    log("stage: decoder")
    decoder.train(args.work, args.decoder_steps, args.decoder_minutes, args.seed, args.device)
    model, state = export.trained_model(args.work, args.seed)
    export.write_folder(model, args.work, out / "musicgen", state, sampled=True)
    export.verify(out / "musicgen")
    log("stage: taggers")
    clips = args.work / "clips"
    for split, folder in (("embedding", "tagger"), ("judge", "judge")):
        tagger.prepare(clips, args.work / "tagger", split, out / "musicgen")
        tagger.train(clips, args.work, split, args.tagger_steps, args.seed)
        tagger.export(clips, args.work, split, args.seed, out / folder, "both")
    log("all stages done")


if __name__ == "__main__":
    main()
