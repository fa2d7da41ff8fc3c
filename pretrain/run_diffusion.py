"""Make ``pocket-diffusion``: clips, autoencoder, latents, transformer, its decoder once more, export.

Needs the finished folder of ``pocket``: text encoder and tokenizer begin as its own. Every stage goes on where
a kill left it, so this command can simply be started again.
"""

from __future__ import annotations

from pathlib import Path

from pretrain import (
    diffusion,
    diffusion_autoencoder,
    diffusion_decoder,
    diffusion_encode,
    diffusion_export,
    render,
)
from pretrain.common import log, parser, set_up


def main() -> None:
    """Command line."""
    p = parser(__doc__)
    p.add_argument("--clips", type=int, default=6000)
    p.add_argument("--valid-clips", type=int, default=250)
    p.add_argument("--autoencoder-steps", type=int, default=7000)
    p.add_argument("--autoencoder-minutes", type=float, default=600.0, help="training time at most")
    p.add_argument("--vae", type=Path, default=None, help="take this folder's autoencoder instead")
    p.add_argument("--compile", action="store_true", help="compile the autoencoder first")
    p.add_argument("--decoder-steps", type=int, default=3000)
    p.add_argument("--decoder-minutes", type=float, default=600.0, help="training time at most")
    p.add_argument("--steps", type=int, default=6000, help="steps of the transformer")
    p.add_argument("--minutes", type=float, default=600.0, help="its training time at most")
    p.add_argument("--out", type=Path, default=None, help="default WORK/pocket/diffusion")
    args = p.parse_args()
    set_up(args)
    out = args.out or args.work / "pocket" / "diffusion"
    log("stage: render")
    render.make(args.work, {"valid": args.valid_clips, "train": args.clips}, args.threads)
    log("stage: autoencoder")
    if args.vae is not None:
        diffusion_encode.adopt(args.work, args.vae)
    elif not (args.work / f"{diffusion_autoencoder.FINISHED}.safetensors").exists():
        diffusion_autoencoder.train(
            args.work,
            args.autoencoder_steps,
            args.autoencoder_minutes,
            args.seed,
            args.compile,
            device=args.device,
        )
        diffusion_autoencoder.finish(args.work, args.seed, device=args.device)
    log("stage: latents")
    diffusion_encode.encode_all(
        args.work, args.seed, args.threads, args.compile, device=args.device
    )
    log("stage: transformer")
    diffusion.train(args.work, args.steps, args.minutes, args.seed, out, device=args.device)
    log("stage: decoder")
    diffusion_decoder.train(
        args.work,
        args.decoder_steps,
        args.decoder_minutes,
        args.seed,
        args.compile,
        device=args.device,
    )
    pipe, state = diffusion_export.newest(args.work, args.seed)
    diffusion_export.export(pipe, state, args.work, out, sampled=True)
    diffusion_export.verify(out)
    log("all stages done")


if __name__ == "__main__":
    main()
