"""Write the folder of ``pocket-voice`` that the family ``speecht5`` and the library itself load.

    OUT/                 config.json model.safetensors tokenizer.json ... preprocessor_config.json
                         tunesmith.json README.md samples/
    OUT/vocoder/         config.json model.safetensors
    OUT/listeners/       xvector.safetensors

Weights are float16, and load as float32. Those who judge what it says, phones.safetensors and
voiceprint.safetensors, are no part of it: they go to a folder of their own, and may be learnt anew
while the base stays what adapters were made for.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    AutoTokenizer,
    SpeechT5Config,
    SpeechT5ForTextToSpeech,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
)

from pretrain.common import log, parser, set_up, write_json
from pretrain.voice import card, mel, tts_model

LIMIT_BYTES = 25_000_000
OWN, JUDGES = "xvector", ("phones", "voiceprint")
# A base this small learns at three hundred times the rate of the hub's, and in minutes.
_LORA: dict[str, Any] = {"train.lr": 3e-3, "train.steps": 240}
_NOTES: dict[str, Any] = {
    "max_s": 10.0,
    "licence": "Apache-2.0",
    "defaults": {"lora": _LORA},
    # Of so few steps all are taken: the score of a few takes goes up and down.
    "recipes": {"voice": {**_LORA, "train.patience": 0, "voice.takes": 12}},
}
TEXT = "the quick brown fox, and a small house."


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and notes of what :func:`pretrain.voice.tts.write_weights` wrote."""
    with safe_open(str(path), framework="pt") as file:
        notes = {k: json.loads(v) for k, v in (file.metadata() or {}).items()}
        return {k: file.get_tensor(k) for k in file.keys()}, notes  # noqa: SIM118 - no mapping


def _save_model(model: Any, tensors: dict[str, Tensor], folder: Path) -> None:
    """Config and float16 weights; the names are those of the model's own state."""
    wanted = model.state_dict()
    if missing := sorted(wanted.keys() ^ tensors.keys()):
        raise ValueError(f"{folder.name}: {len(missing)} tensors too few or too many: {missing[0]}")
    for name, value in tensors.items():
        if value.shape != wanted[name].shape:
            raise ValueError(f"{name} is {tuple(value.shape)}, not {tuple(wanted[name].shape)}")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name} is not finite in float16")
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    # So a plain load widens them.
    write_json(folder / "config.json", {**values, "dtype": "float32"})
    kept = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)


def write_folder(
    work: Path, out: Path, without_listeners: bool = False, sampled: bool = False
) -> dict[str, Any]:
    """Write everything to ``out``, replacing what is there; returns figures and counters.

    What ``out`` had of settings a method, ``defaults`` and ``recipes``, is kept: they were found by trying.

    Raises:
        ValueError: the parts do not belong together, or take more than 25 MB.
    """
    speech, notes = read_weights(work / "tts.safetensors")
    sound, sound_notes = read_weights(work / "vocoder.safetensors")
    known = work / "weights" / f"{OWN}.safetensors"
    if not without_listeners:
        found = hashlib.sha256(known.read_bytes()).hexdigest()
        if found != notes["xvector"]:
            raise ValueError(f"{known} is not what the speech model was trained with")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as temporary:
        folder = Path(temporary) / "model"
        folder.mkdir()
        _save_model(SpeechT5ForTextToSpeech(SpeechT5Config(**notes["config"])), speech, folder)
        config = SpeechT5HifiGanConfig(**sound_notes["config"])
        (folder / "vocoder").mkdir()
        _save_model(SpeechT5HifiGan(config), sound, folder / "vocoder")
        tts_model.make_tokenizer(notes["letters"]).save_pretrained(folder)
        mel.extractor().save_pretrained(folder)
        # Who speaks where no speaker is said: zeros are no voice that it was trained with.
        own = {**_NOTES, "conditioning": {"speaker": notes["voice"]}}
        write_json(folder / "tunesmith.json", own | _tried(out))
        if not without_listeners:
            (folder / "listeners").mkdir()
            shutil.copyfile(known, folder / "listeners" / f"{OWN}.safetensors")
        samples = card.say_samples(folder) if sampled else []
        counts = [sum(v.numel() for v in part.values()) for part in (speech, sound)]
        card.write_card(folder, notes, sound_notes, (counts[0], counts[1]), samples)
        sizes = {
            str(f.relative_to(folder)): f.stat().st_size for f in folder.rglob("*") if f.is_file()
        }
        if sum(sizes.values()) > LIMIT_BYTES:
            raise ValueError(f"the folder takes {sum(sizes.values())} bytes: {sizes}")
        old = Path(temporary) / "old"
        if out.exists():
            os.rename(out, old)
        os.rename(folder, out)
        shutil.rmtree(old, ignore_errors=True)
    large = {name: round(size / 1e6, 2) for name, size in sizes.items() if size > 100_000}
    log(f"export: {sum(sizes.values()) / 1e6:.2f} MB in {out}: {large}")
    return {
        "speech": notes["figures"] | notes["counters"],
        "vocoder": sound_notes["figures"] | sound_notes["counters"],
    }


def _tried(out: Path) -> dict[str, Any]:
    path = out / "tunesmith.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {key: known[key] for key in ("defaults", "recipes") if key in known}


def copy_judges(work: Path, out: Path) -> None:
    """The recogniser of phones and the second speaker encoder, as they are by now."""
    out.mkdir(parents=True, exist_ok=True)
    for name in JUDGES:
        shutil.copyfile(work / "weights" / f"{name}.safetensors", out / f"{name}.safetensors")


@torch.no_grad()
def verify(out: Path, text: str = TEXT) -> dict[str, float]:
    """Load the folder with the library and with the tool, say a text with both.

    Raises:
        ValueError: it is not float32, or what is said is no sound.
    """
    from tunesmith.families import find_base, load
    from tunesmith.types import GenerationSettings

    model: Any = SpeechT5ForTextToSpeech.from_pretrained(out).eval()
    vocoder: Any = SpeechT5HifiGan.from_pretrained(out / "vocoder").eval()
    if {p.dtype for p in (*model.parameters(), *vocoder.parameters())} != {torch.float32}:
        raise ValueError(f"{out} does not load as float32")
    ids = torch.tensor([AutoTokenizer.from_pretrained(out)(text).input_ids])
    notes = json.loads((out / "tunesmith.json").read_text(encoding="utf-8"))
    speaker = torch.tensor([notes["conditioning"]["speaker"]])
    torch.manual_seed(0)
    wave = model.generate_speech(ids, speaker, maxlenratio=12.0, vocoder=vocoder)
    bundle: Any = load(find_base(str(out)))
    codes = bundle.generate_codes([text], 6.0, [0], GenerationSettings())
    audio = bundle.decode_audio(codes[0])
    figures = {
        "library_s": wave.shape[-1] / mel.SAMPLE_RATE_HZ,
        "library_rms": float(wave.square().mean().sqrt()),
        "tool_s": audio.samples.shape[-1] / mel.SAMPLE_RATE_HZ,
        "tool_rms": float((audio.samples**2).mean() ** 0.5),
    }
    if not all(0 < value < 60 for value in figures.values()):
        raise ValueError(f"what {out} says is no sound: {figures}")
    figures = {k: round(v, 4) for k, v in figures.items()}
    log(f"verify: {figures}")
    return figures


def main() -> None:
    """Command line."""
    p = parser(__doc__)
    p.set_defaults(work=Path("build/voice"))
    p.add_argument("--out", type=Path, help="by default WORK/pocket-voice")
    p.add_argument("--judges-out", type=Path, help="by default WORK/listeners")
    p.add_argument("--without-listeners", action="store_true", help="for tests of the rest")
    p.add_argument("--no-verify", action="store_true")
    args = p.parse_args()
    set_up(args)
    out = args.out or args.work / "pocket-voice"
    log(
        f"export: {write_folder(args.work, out, args.without_listeners, sampled=not args.no_verify)}"
    )
    if not args.without_listeners:
        copy_judges(args.work, args.judges_out or args.work / "listeners")
    if not args.no_verify:
        verify(out)


if __name__ == "__main__":
    main()
