"""Listening examples while training: the same prompts and seeds, base beside adapted."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tunesmith.config import Loaded
from tunesmith.errors import UserError
from tunesmith.families._bundle import Bundle
from tunesmith.formats.sound import write_sound
from tunesmith.methods._adapter import Adapter
from tunesmith.tasks.generate import generate
from tunesmith.training.rehearsal import with_concept
from tunesmith.types import Audio, Clip, GenerationSettings


class Previewer:
    """Writes ``previews/step-N/00.flac`` ...; step 0 is the base, since a method starts as it.

    Args:
        bundle: the base with the method attached.
        folder: the run's ``previews`` folder.
        prompts: texts.
        seconds: length of each.
        seed: seed of the first prompt; prompt i has ``seed + i``.
        settings: sampling.
        stop: polled while generating.
        data_rights: what may be done with the recordings; kept in every file.
        wording: a prompt as the adapted model is asked, with the word that it was taught; the base
            is asked without.
    """

    def __init__(
        self,
        bundle: Bundle,
        folder: Path,
        prompts: Sequence[str],
        seconds: float,
        seed: int,
        settings: GenerationSettings,
        stop: Callable[[], int],
        data_rights: str = "",
        wording: Callable[[str], str] = lambda text: text,
    ) -> None:
        self.bundle, self.folder, self.prompts = bundle, folder, tuple(prompts)
        self.asked = [_worded(prompt, wording) for prompt in self.prompts]
        self.seconds, self.seed, self.settings, self.stop = seconds, seed, settings, stop
        self.data_rights = data_rights

    def __call__(self, step: int) -> list[Audio]:
        """Write the previews of a step, in the place of later ones, which a run leaves that went back.

        Returns:
            The sound of each prompt.
        """
        for folder in self.folder.glob("step-*"):
            if folder.name > f"step-{step:08d}":
                shutil.rmtree(folder)
        made = []
        for index, prompt in enumerate(self.prompts):
            seed = self.seed + index
            asked = self.asked[index] if step else prompt
            takes = generate(
                self.bundle,
                [asked],
                duration_s=self.seconds,
                seed=seed,
                settings=self.settings,
                should_stop=self.stop,
            )
            for take in takes:
                made.append(take.audio)
                made_of = {
                    "prompt": prompt,
                    "asked": asked,
                    "seed": seed,
                    "step": step,
                    "base": self.bundle.name,
                    "base_licence": self.bundle.licence,
                    "data_rights": self.data_rights,
                }
                write_sound(
                    self.folder / f"step-{step:08d}" / f"{index:02d}.flac", take.audio, made_of
                )
        # The codec is wanted again only at the next preview.
        self.bundle.release_codec()
        return made


def _worded(prompt: str, wording: Callable[[str], str]) -> str:
    try:
        return wording(prompt)
    except UserError:
        return prompt  # several words were taught, and the prompt is about none of them


def previewer(
    loaded: Loaded,
    bundle: Bundle,
    adapter: Adapter,
    clips: list[Clip],
    folder: Path,
    stop: Callable[[], int],
    rights: str,
) -> Previewer:
    """The previews that a configuration asks for.

    Args:
        loaded: the configuration.
        bundle: the base with the method attached.
        adapter: it; knows how to word a text.
        clips: what is trained on: the captions of some are the prompts, where none are given.
        folder: the run's.
        stop: polled while generating.
        rights: in the data.

    Raises:
        UserError: longer ones than the base can make.
    """
    preview = loaded.config.preview
    captions = list(dict.fromkeys(clip.caption for clip in clips))
    # Far apart in the data: the first captions are often one recording's.
    apart = [captions[index * len(captions) // preview.count] for index in range(preview.count)]
    prompts = preview.prompts or tuple(dict.fromkeys(apart))
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
        bundle,
        folder / "previews",
        prompts,
        seconds,
        preview.seed,
        settings,
        stop,
        rights,
        lambda text: adapter.caption(with_concept(text, loaded.config.concept)),
    )
