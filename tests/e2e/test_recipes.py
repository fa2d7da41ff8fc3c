"""Each recipe on `pocket`, from a folder of plain recordings to the report, as a user types it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from contract.ace_step import save_ace_step
from procs import Done, cli
from tiny import save_stable_audio, write_noise

import tunesmith
from tunesmith.families import find_base, load
from tunesmith.formats.adapter import load_adapter
from tunesmith.formats.sound import read_made_of
from tunesmith.registry import recipes

CLIPS = Path(tunesmith.__file__).parent / "pocket" / "demo" / "style"
SHORT = (
    *("train.steps=2", "train.batch_size=2", "train.eval_every=2", "base.dtype=float32"),
    *("preview.seconds=0.4", "preview.guidance=1"),
)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five recordings with captions, as they might lie anywhere."""
    folder = tmp_path_factory.mktemp("e2e") / "recordings"
    folder.mkdir()
    for file in sorted(CLIPS.glob("*"))[:10]:
        shutil.copy(file, folder)
    assert len(list(folder.glob("*.ogg"))) == 5
    return folder


def train(name: str, recordings: Path, out: Path, *more: Any) -> tuple[Done, dict[str, Any]]:
    done = cli(
        *("train", "--recipe", name, "--base", "pocket", "--data", recordings, "-o", out),
        *(*SHORT, *more),
    )
    assert done.code == 0, done.err
    return done, json.loads((out / "adapter.json").read_text())


def check(name: str, out: Path, done: Done, card: dict[str, Any]) -> dict[str, Any]:
    """What holds for every recipe: data set, report, both numbers, an adapter that loads."""
    assert f"prepared as {out / 'data'}" in done.err
    assert (out / "data" / "dataset.json").is_file()
    page = (out / "report.html").read_text()
    told = card["recipe"]
    assert told["name"] == name and f"Recipe: {name}" in page
    changed = {one["key"]: one for one in told["changes"]}
    notes = find_base("pocket").notes["recipes"][name]
    assert changed["train.lr"]["used"] == notes["train.lr"] != changed["train.lr"]["recipe"]
    assert changed["train.lr"]["by"] == "the notes of pocket"
    assert changed["train.steps"]["used"] == 2 and "command line" in changed["train.steps"]["by"]
    assert changed["prepare.max_s"]["used"] == 10 < changed["prepare.max_s"]["recipe"]
    for one in (changed["train.lr"], changed["train.steps"]):
        row = page[page.index(f'<th scope="row">{one["key"]}</th>') :][:300]
        assert f"<td>{one['used']:g}</td>" in row
        assert str(one["by"]) in row
    assert "| `train.lr` |" in (out / "README.md").read_text()
    bundle = load(find_base("pocket"))
    adapter = load_adapter(out, bundle)
    assert any(
        value.abs().sum() > 0 for part in adapter.state().values() for value in part.values()
    )
    return {"bundle": bundle, "adapter": adapter, "page": page}


def test_every_recipe_has_its_test():
    here = Path(__file__).read_text()
    assert all(f"def test_{name}" in here for name in recipes())


def test_genre(recordings: Path, tmp_path: Path):
    done, card = train("genre", recordings, tmp_path / "run", "preview.every=0")
    check("genre", tmp_path / "run", done, card)
    assert card["method"]["rank"] == 32
    before = (tmp_path / "run" / "data" / "dataset.json").read_bytes()
    again = cli("train", "--resume", tmp_path / "run")
    assert again.code == 0, again.err
    assert (tmp_path / "run" / "data" / "dataset.json").read_bytes() == before


def test_style(recordings: Path, tmp_path: Path):
    """A word that calls for the style, and takes of base and adapted side by side."""
    out = tmp_path / "run"
    done, card = train("style", recordings, out, "tokens.token=[island]", "preview.count=3")
    found = check("style", out, done, card)
    assert card["trigger_tokens"] == ["[island]"]
    assert "[island]" in found["bundle"].text_pieces("calypso, [island]"), "one piece, its own"
    first, last = sorted((out / "previews").iterdir())
    files = sorted(file.name for file in first.glob("*.flac"))
    assert len(files) == len(list(last.glob("*.flac"))) >= 2
    for file in files:
        base, adapted = read_made_of(first / file), read_made_of(last / file)
        assert (base["prompt"], base["seed"]) == (adapted["prompt"], adapted["seed"])
        assert base["asked"] == base["prompt"] and "[island]" not in base["asked"]
        assert adapted["asked"] == f"[island], {base['prompt']}"
        assert base["prompt"] in found["page"] and f"asked as: {adapted['asked']}" in found["page"]
    assert found["page"].count("<audio") == 2 * len(files)


def test_instrument(recordings: Path, tmp_path: Path):
    out = tmp_path / "run"
    more = ("tokens.token=[pan]", "tokens.init=drums", "preview.every=0")
    done, card = train("instrument", recordings, out, *more)
    found = check("instrument", out, done, card)
    assert card["trigger_tokens"] == ["[pan]"]
    assert "[pan]" in found["bundle"].text_pieces("[pan], slow")
    changed = {one["key"]: one for one in card["recipe"]["changes"]}
    assert changed["tokens.token"]["recipe"] == "[my_instrument]"


def test_instrument_by_dreambooth(recordings: Path, tmp_path: Path):
    out = tmp_path / "run"
    _, card = train(
        *("instrument", recordings, out, "--method", "dreambooth"),
        *("concept.class_name=drums", "prior.clips=2", "prior.seconds=0.5", "concept.check=false"),
        *("prior.batch_size=1", "preview.every=0"),
    )
    assert card["trigger_tokens"] == ["sks"] and "tokens" not in card
    told = {one["key"]: one for one in card["recipe"]["changes"]}
    assert told["prior.clips"]["recipe"] == 64 and told["concept.class_name"]["used"] == "drums"
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert any("prior" in key for line in lines if line["kind"] == "train" for key in line)
    load_adapter(out, load(find_base("pocket")))
    assert "Recipe: instrument" in (out / "report.html").read_text()


def test_quality(recordings: Path, tmp_path: Path):
    out = tmp_path / "run"
    done, card = train("quality", recordings, out, "preview.every=0")
    found = check("quality", out, done, card)
    chosen = card["chosen"]["train"]
    assert chosen["kept"] == -(-chosen["of"] // 2) == card["data"]["train"]["clips"]
    assert all(one["score"] <= chosen["lowest_kept"] for one in chosen["left_out"])
    assert f"{chosen['kept']} of {chosen['of']} clips" in found["page"]
    assert f"{chosen['kept']} of {chosen['of']} to train" in (out / "README.md").read_text()


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five recordings with lyrics and their times, the language of all but one."""
    folder = tmp_path_factory.mktemp("e2e") / "songs"
    for number in range(5):
        write_noise(folder / f"{number}.wav", 4.0, number, rate_hz=8000)
        times = [f"[00:0{at // 10}.{at % 10}0]word {at}" for at in range(0, 40, 4)]
        (folder / f"{number}.lrc").write_text("\n".join(times))
    rows = [f"{number}.wav,noise {number},{'de' if number else ''}" for number in range(5)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,caption,language", *rows]))
    return folder


def test_accent(songs: Path, tmp_path: Path):
    """Lyrics that are cut with the clips, in a language that has to be said of all of them."""
    base, out = save_ace_step(tmp_path / "sings"), tmp_path / "run"
    words = ("train", "--recipe", "accent", "--base", base, "--data", songs, "-o", out)
    words = (*words, *SHORT[:4], "method.rank=8", "preview.every=0")
    done = cli(*words)
    assert done.code == 2
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert "clips have no language (" in line and "metadata.csv" in line
    table = songs / "metadata.csv"
    table.write_text(table.read_text().replace("0.wav,noise 0,", "0.wav,noise 0,de"))
    done = cli(*words[:-1], "preview.every=0", "-o", tmp_path / "again")
    assert done.code == 0, done.err
    card = json.loads((tmp_path / "again" / "adapter.json").read_text())
    assert (card["recipe"]["name"], card["method"]["rank"]) == ("accent", 8)
    rows = (tmp_path / "again" / "data" / "train" / "metadata.jsonl").read_text().splitlines()
    assert all("word" in json.loads(row)["lyrics"] for row in rows)
    done = cli(*words[:4], "pocket", *words[5:], "-o", tmp_path / "other")
    assert done.code == 2 and "needs a base that sings lyrics: musicgen" in done.err


def test_inpaint(songs: Path, tmp_path: Path):
    base, out = save_stable_audio(tmp_path / "noise"), tmp_path / "run"
    words = ("train", "--recipe", "inpaint", "--base", base, "--data", songs, "-o", out)
    done = cli(*words, *SHORT[:4], "method.rank=8", "preview.every=0")
    assert done.code == 0, done.err
    card = json.loads((out / "adapter.json").read_text())
    assert card["recipe"]["name"] == "inpaint"
    assert {one["key"] for one in card["recipe"]["changes"]} >= {"method.rank", "train.steps"}
    adapter = load_adapter(out, load(find_base(str(base))))
    assert any("inpaint_input" in name for name in adapter.parameters())
    refused = cli(*words[:4], "pocket", *words[5:], "-o", tmp_path / "other")
    assert refused.code == 2 and "cannot learn to fill holes" in refused.err


def test_recordings_that_are_none_are_one_line(tmp_path: Path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "song.txt").write_text("la la")
    done = cli(
        *("train", "--recipe", "genre", "--base", "pocket", "--data", tmp_path / "text"),
        *("-o", tmp_path / "run"),
    )
    assert done.code == 2
    (line,) = [line for line in done.err.splitlines() if line.strip()]
    assert line.startswith("error: no recordings in ")
    done = cli("train", "--recipe", "gender", "--base", "pocket", "--data", tmp_path, "-o", "x")
    assert done.code == 2 and "did you mean 'genre'?" in done.err


def test_ls_names_recipes_and_compositions():
    done = cli("ls", "--json")
    tables = json.loads(done.out)
    assert {"genre", "style", "instrument", "quality", "accent", "inpaint"} <= tables[
        "recipes"
    ].keys()
    assert tables["composed"]["dreambooth"]["on"] == ["full", "lora"]
    shown = cli("ls").out
    assert all(name in shown for name in ("qlora", "dreambooth", "instrument", "quality"))


def test_voice(tmp_path: Path):
    """Sentences of one voice, as they might lie anywhere: heard, trained on, and judged by ear."""
    clips = sorted((CLIPS.parents[1] / "demo-voice" / "voice").glob("*.ogg"))[:10]
    (tmp_path / "recordings").mkdir()
    for file in clips:
        for one in (file, file.with_suffix(".txt")):
            shutil.copy(one, tmp_path / "recordings")
    out = tmp_path / "run"
    done = cli(
        *("train", "--recipe", "voice", "--base", "pocket-voice", "-o", out),
        *("--data", tmp_path / "recordings", *SHORT[:4], "preview.every=0", "voice.takes=2"),
        "voice.consent=a synthesiser; nobody to ask",
    )
    assert done.code == 0, done.err
    card = json.loads((out / "adapter.json").read_text())
    assert card["recipe"]["name"] == "voice"
    assert "nobody to ask" in (out / "README.md").read_text()
    judged = card["metrics"]["judged"]
    assert 0 <= judged["base"]["score"] <= judged["adapted"]["score"] <= 1
    assert len(card["conditioning"]["speaker"]) == 512
