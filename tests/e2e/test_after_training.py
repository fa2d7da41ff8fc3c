"""What happens to adapters after training, as a user types it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import soundfile
from procs import cli

from tunesmith.formats.sound import read_made_of

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "formats"))

from adapters import saved


@pytest.fixture(scope="module")
def folder(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters ``jazz`` and ``classical`` (LoRA), ``dora``, ``full`` and ``bottleneck``."""
    place = tmp_path_factory.mktemp("after")
    saved(place / "jazz", tiny_base, rank=2, details={"rights": "mine"})
    saved(place / "classical", tiny_base, seed=1, rank=3, targets=("q", "up"))
    saved(place / "dora", tiny_base, rank=2, dora=True)
    saved(place / "full", tiny_base, "full", size=0.02)
    saved(place / "bottleneck", tiny_base, "bottleneck")
    return place


def test_blend_merge_generate(folder: Path, tiny_base: Path):
    done = cli("blend", "jazz=0.3", "classical=0.7", "-o", "mix", where=folder)
    assert (done.code, done.out) == (0, "rank 5: exact\nadapter in mix\n"), done.err
    assert "adapter jazz (" in done.err and "adapter classical (" in done.err
    done = cli("blend", "jazz=0.3", "classical=0.7", "--rank", 2, "-o", "small", where=folder)
    assert done.code == 0 and "rank 2: relative error" in done.out, done.err
    done = cli("merge", "mix", "-o", "merged", where=folder)
    assert done.code == 0, done.err
    assert "differs from the live adapter by" in done.out
    sounds = {}
    for name, words in {
        "blend": ("--base", tiny_base, "--adapter", "mix"),
        "live": ("--base", tiny_base, "--adapter", "jazz=0.3", "--adapter", "classical=0.7"),
        "merged": ("--base", "merged"),
        "other": ("--base", tiny_base, "--adapter", "jazz=0.3"),
        "its own base": ("--adapter", "mix"),
    }.items():
        done = cli(
            *(
                "generate",
                *words,
                "hiss",
                "--seconds",
                0.5,
                "--temperature",
                0,
                "-o",
                f"out-{name}",
            ),
            where=folder,
        )
        assert done.code == 0, done.err
        sounds[name] = folder / done.out.strip()
    heard = {name: soundfile.read(path)[0].tolist() for name, path in sounds.items()}
    assert heard["blend"] == heard["live"] == heard["merged"] == heard["its own base"]
    made_of = read_made_of(sounds["live"])
    assert made_of["adapter"] == {"jazz": 0.3, "classical": 0.7} and made_of["strength"] == 1.0
    assert read_made_of(sounds["other"])["strength"] == 0.3


def test_extract_export_import(folder: Path, tiny_base: Path):
    done = cli("extract", "full", "--rank", 4, "-o", "extracted", where=folder)
    assert done.code == 0, done.err
    assert "rank 4: relative error 0." in done.out and "of the squared change lies" in done.out
    done = cli("export", "extracted", "--to", "peft", "-o", "theirs", where=folder)
    assert (done.code, done.out.strip()) == (0, "theirs/decoder"), done.err
    done = cli("import", "theirs/decoder", "--base", tiny_base, "-o", "again", where=folder)
    assert (done.code, done.err) == (0, ""), done.err
    assert done.out.startswith("20 linears, rank 4\n")
    cards = [json.loads((folder / n / "adapter.json").read_text()) for n in ("extracted", "again")]
    assert cards[0]["components"] == cards[1]["components"]  # bit for bit
    done = cli("export", "again", "--to", "merged", "-o", "as-base", where=folder)
    assert done.code == 0 and (folder / "as-base" / "model.safetensors").is_file(), done.err


def test_mistakes_are_one_line_and_a_mend(folder: Path, tiny_base: Path, other_base: Path):
    saved(folder / "foreign", other_base, rank=2)
    out = ("-o", "never")
    for words, complaint in (
        (["blend", "jazz", *out], "'jazz' is not NAME=WEIGHT - give e.g. jazz=0.3"),
        (["blend", "jazz=0.5", "nope=0.5", *out], "no adapter 'nope'"),
        (["blend", "jazz=0.5", "dora=0.5", *out], "extract dora --rank"),
        (["blend", "jazz=0.5", "full=0.5", *out], "extract full --rank"),
        (["blend", "jazz=0.5", "foreign=0.5", *out], "blend adapters of one base"),
        (["blend", "jazz=0.5", "-o", "full"], "full is already there"),
        (["merge", "bottleneck", *out], "cannot be merged: a non-linear function"),
        (["merge", "jazz", "--base", other_base, *out], "was made for base"),
        (["extract", "full", "--rank", 99, *out], "--rank 99 is not in 1..32"),
        (["export", "bottleneck", "--to", "peft", *out], "PEFT cannot hold bottleneck"),
        (["export", "jazz", "--to", "onnx", *out], "give peft, diffusers or merged"),
        (["import", "jazz", "--base", tiny_base, *out], "adapter_config.json: not readable"),
        (["push", "classical", "me/it"], "does not say which rights"),
        (["push", "jazz", "it"], "give owner/name"),
        (["generate", "--base", tiny_base, "--adapter", "someone/else", "x"], "the hub cannot be"),
        (
            ["generate", "--base", tiny_base, "--adapter", "jazz=1", "--adapter", "dora=1", "x"],
            "a DoRA is not linear",
        ),
    ):
        done = cli(*words, where=folder)
        assert (done.code, done.out) == (2, ""), (words, done.out, done.err)
        assert complaint in done.err
        assert len([line for line in done.err.splitlines() if line.startswith("error: ")]) == 1
        assert "Traceback" not in done.err
    assert not (folder / "never").exists()
