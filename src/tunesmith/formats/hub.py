"""Adapters on the hub, and adapters in PEFT's own layout."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.atomic import disk_error, write_json
from tunesmith.errors import UserError
from tunesmith.families._bases import looks_like_id
from tunesmith.formats.adapter import new_folder, read_card, read_state
from tunesmith.formats.card import model_card
from tunesmith.registry import plugins

_PUSHED = ["adapter.json", "README.md", "adapter/*/*.json", "adapter/*/*.safetensors"]


@dataclass(frozen=True, slots=True)
class Pushed:
    """What was uploaded.

    Attributes:
        url: where it is now.
        licence: of the base's weights, as the card states it.
        rights: in the recordings, as the card states them.
    """

    url: str
    licence: str
    rights: str


def push(
    folder: Path, repository: str, *, private: bool = True, rights: str = "", api: Any = None
) -> Pushed:
    """Upload an adapter: its tensors, ``adapter.json`` and the card; nothing else of the run.

    Args:
        folder: the adapter's.
        repository: ``owner/name``; made if it is not there.
        private: whether a repository that is made now is private.
        rights: what to state of the rights in the recordings, where the card says nothing.
        api: a ``huggingface_hub.HfApi``; made with the user's own login by default.

    Raises:
        UserError: the rights are not stated, the name is none, or the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    if not looks_like_id(repository):
        raise UserError(f"'{repository}' is no name on the hub", "give owner/name")
    card = read_card(folder)
    read_state(folder)  # what is torn here must not be spread
    stated = str(rights or card.get("rights") or "").strip()
    if not stated:
        raise UserError(
            f"{folder} does not say which rights there are in its recordings",
            'say it with --rights "..." ("my own recordings", "CC0", ...), or do not share it',
        )
    hub = api or HfApi()
    with tempfile.TemporaryDirectory() as place:
        stage = Path(place) / "adapter"
        shutil.copytree(folder / "adapter", stage / "adapter")
        write_json(stage / "adapter.json", {**card, "rights": stated})
        title = repository.rpartition("/")[2]
        (stage / "README.md").write_text(model_card(stage, title), encoding="utf-8")
        try:
            # Visibility is only set where the repository is made: one that is there keeps its own.
            made = hub.create_repo(repository, private=private, repo_type="model", exist_ok=True)
            hub.upload_folder(
                repo_id=repository,
                folder_path=stage,
                repo_type="model",
                allow_patterns=_PUSHED,
                commit_message="Adapter made with Tunesmith",
            )
        except (OfflineModeIsEnabled, ConnectionError) as error:
            raise UserError(
                "the hub cannot be reached", "check the connection, and HF_HUB_OFFLINE"
            ) from error
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"{repository}: the hub refuses ({first})", "log in with `hf auth login`"
            ) from error
    return Pushed(str(made), str(card["base"].get("licence") or "unknown"), stated)


def export_peft(folder: Path, out: Path) -> list[str]:
    """Write an adapter as PEFT's own folders, one for each component, and a card.

    Returns:
        The components.

    Raises:
        UserError: PEFT cannot hold it, or ``out`` is taken.
    """
    card = read_card(folder)
    components = sorted(card["components"])
    read_state(folder)
    for component in components:
        if not (folder / "adapter" / component / "adapter_config.json").is_file():
            what = f"its component '{component}'" if len(components) > 1 else card["method"]["name"]
            raise UserError(
                f"PEFT cannot hold {what} of {folder}",
                "share the adapter as it is with `tunesmith push`"
                + (", or use --to merged" if card.get("linear") else ""),
            )
    new_folder(out)
    try:
        for component in components:
            source, target = folder / "adapter" / component, out / component
            target.mkdir(parents=True)
            shutil.copyfile(
                source / "adapter_model.safetensors", target / "adapter_model.safetensors"
            )
            config = json.loads((source / "adapter_config.json").read_text(encoding="utf-8"))
            write_json(
                target / "adapter_config.json",
                config | {"base_model_name_or_path": card["base"]["name"]},
            )
        (out / "README.md").write_text(_peft_card(folder, out.name, components), encoding="utf-8")
    except OSError as error:
        raise disk_error(error, out) from error
    return components


def export_diffusers(folder: Path, out: Path) -> list[str]:
    """Write a LoRA as the file that the pipeline's ``load_lora_weights`` opens, and a card.

    Returns:
        The file's name, alone.

    Raises:
        UserError: diffusers has no such loader for the family, the adapter is none that it takes, or
            ``out`` is taken.
    """
    card = read_card(folder)
    family = str(card["base"].get("family") or "")
    known = plugins("families").get(family)
    save = getattr(known.load(), "save_lora", None) if known else None
    if save is None:
        raise UserError(
            f"diffusers has no LoRA loader for {family or 'this base'}",
            "use --to peft, whose files go on the transformer by PeftModel.from_pretrained",
        )
    read_state(folder)
    new_folder(out)
    try:
        save(folder, out)
        (out / "README.md").write_text(model_card(folder, out.name), encoding="utf-8")
    except OSError as error:
        raise disk_error(error, out) from error
    return ["pytorch_lora_weights.safetensors"]


def _peft_card(folder: Path, name: str, components: list[str]) -> str:
    uses = "\n".join(
        f'PeftModel.from_pretrained(model.{component}, "{name}/{component}")'
        for component in components
    )
    return (
        model_card(folder, name)
        + "\nEach folder is a PEFT adapter of one part of the model:\n\n"
        + f"```python\nfrom peft import PeftModel\n\n{uses}\n```\n"
    )


__all__ = ["Pushed", "export_diffusers", "export_peft", "push"]
