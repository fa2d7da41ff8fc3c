from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from adapters import apart, live, logits, saved
from huggingface_hub.errors import HfHubHTTPError
from peft import PeftModel

from tunesmith.errors import UserError
from tunesmith.families.musicgen._tiny import tiny_model
from tunesmith.formats import adapter as adapters
from tunesmith.formats.adapter import find_adapter
from tunesmith.formats.hub import export_peft, push


@pytest.fixture(scope="module")
def run(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, with more in it than the adapter."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    saved(folder, tiny_base, rank=2, details={"rights": "my own"})
    (folder / "README.md").write_text("an older card")
    (folder / "metrics.jsonl").write_text("{}")
    (folder / "previews").mkdir()
    (folder / "previews" / "secret.wav").write_bytes(b"x")
    return folder


class FakeHub:
    """What ``HfApi`` is asked, and a copy of what it would have uploaded."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.files: dict[str, bytes] = {}
        self.error = error

    def create_repo(self, repo_id: str, **options: Any) -> str:
        if self.error:
            raise self.error
        self.calls.append(("create", {"repo_id": repo_id, **options}))
        return f"https://hub/{repo_id}"

    def upload_folder(self, **options: Any) -> None:
        self.calls.append(("upload", options))
        place = Path(options["folder_path"])
        self.files = {
            file.relative_to(place).as_posix(): file.read_bytes()
            for file in place.rglob("*")
            if file.is_file()
        }


def test_only_the_adapter_is_pushed(run: Path):
    hub = FakeHub()
    made = push(run, "me/steel-drums", api=hub)
    assert (made.url, made.rights, made.licence) == (
        "https://hub/me/steel-drums",
        "my own",
        "Apache-2.0",
    )
    assert sorted(hub.files) == [
        "README.md",
        "adapter.json",
        "adapter/decoder/adapter_config.json",
        "adapter/decoder/adapter_model.safetensors",
    ]
    (_, created), (_, uploaded) = hub.calls
    assert created["private"] is True and created["exist_ok"] is True
    assert "*.wav" not in str(uploaded["allow_patterns"])
    card = hub.files["README.md"].decode()
    assert card.startswith("---\nlibrary_name: peft\n") and "license: apache-2.0" in card
    assert "# steel-drums" in card and "my own" in card
    push(run, "me/steel-drums", private=False, api=hub)
    assert hub.calls[2][1]["private"] is False


def test_rights_have_to_be_said(tiny_base: Path, tmp_path: Path):
    folder = saved(tmp_path / "a", tiny_base, rank=2)
    hub = FakeHub()
    with pytest.raises(UserError, match=r"does not say which rights.*--rights"):
        push(folder, "me/it", rights="  ", api=hub)
    assert hub.calls == []
    before = (folder / "adapter.json").read_bytes()
    assert push(folder, "me/it", rights="CC0", api=hub).rights == "CC0"
    assert json.loads(hub.files["adapter.json"])["rights"] == "CC0"
    assert "Rights in the recordings: CC0" in hub.files["README.md"].decode()
    assert (folder / "adapter.json").read_bytes() == before


def test_what_the_hub_refuses_is_one_line(run: Path, tmp_path: Path):
    with pytest.raises(UserError, match="is no name on the hub"):
        push(run, "just-a-name", api=FakeHub())
    refused = HfHubHTTPError("401 Unauthorized\nand much more", response=Mock(headers={}))
    with pytest.raises(UserError, match=r"me/it: the hub refuses \(401 Unauthorized\)"):
        push(run, "me/it", api=FakeHub(refused))
    with pytest.raises(UserError, match="the hub cannot be reached"):
        push(run, "me/it")  # tests are offline


# --- fetching by name ---


def test_a_name_on_the_hub_is_fetched_after_all_places_here(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    def snapshot(name: str, *, revision: Any, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(run if name == "someone/mine" else tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert find_adapter("someone/mine") == run
    assert asked == [("someone/mine", ["*.json", "*.safetensors", "*.md"])]
    with pytest.raises(
        UserError, match=r"someone/else on the hub has no adapter.json.*tunesmith import"
    ):
        find_adapter("someone/else")
    asked.clear()
    monkeypatch.chdir(run.parent.parent)
    find_adapter(f"{run.parent.name}/mine")
    assert asked == []


def test_offline_a_name_on_the_hub_is_one_line():
    with pytest.raises(UserError, match="neither a folder here nor in the cache") as caught:
        find_adapter("nobody/nothing")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no adapter 'nothing'"):
        find_adapter("nothing")
    assert adapters.home().name == "adapters"


# --- PEFT's own folders ---


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_an_exported_folder_is_pefts_own(tiny_base: Path, tmp_path: Path):
    folder = saved(tmp_path / "a", tiny_base, rank=4, rslora=True)
    assert export_peft(folder, tmp_path / "out") == ["decoder"]
    said = json.loads((tmp_path / "out" / "decoder" / "adapter_config.json").read_text())
    assert said["base_model_name_or_path"] == str(tiny_base)
    plain = PeftModel.from_pretrained(tiny_model(0).decoder, tmp_path / "out" / "decoder")
    assert apart(logits(plain), live(folder, tiny_base)) < 1e-5
    assert "PeftModel.from_pretrained" in (tmp_path / "out" / "README.md").read_text()


def test_what_peft_cannot_hold(tiny_base: Path, tmp_path: Path):
    for method in ("full", "bottleneck"):
        folder = saved(tmp_path / method, tiny_base, method)
        with pytest.raises(UserError, match=r"PEFT cannot hold .*share the adapter as it is"):
            export_peft(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
