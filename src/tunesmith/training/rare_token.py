"""Is a token rare to this model? Asked of the model, not of a word list.

A word that the model knows moves what it expects: the loss of the same sound changes when the word
stands before the class. A string that no caption ever held hardly moves it. So the token's effect is
compared with that of strings that are surely rare, on clips that the base itself made of the class.
"""

from __future__ import annotations

import statistics

import torch

from tunesmith.config import ConceptConfig
from tunesmith.config.concept import good_tokens
from tunesmith.errors import UserError
from tunesmith.families._bundle import Bundle
from tunesmith.objectives.mixture import total_loss
from tunesmith.training.rehearsal import sampled
from tunesmith.training.signals import StopFlag

TIMES = 3.0
"""A token with more than this many times the effect of a usual rare string is not rare."""

_CLIPS, _SECONDS = 8, 2.0


def effects(
    bundle: Bundle, class_name: str, tokens: list[str], seed: int, stop: StopFlag
) -> dict[str, float]:
    """Mean change of a clip's loss, in nats a code, that each token makes before the class.

    Args:
        bundle: the bare base.
        class_name: the class.
        tokens: strings to compare.
        seed: of the clips.
        stop: polled while sampling.
    """
    clips = sampled(bundle, [class_name], _CLIPS, min(_SECONDS, bundle.max_s), seed, stop)
    captions = [class_name, *(f"{token} {class_name}" for token in tokens)]
    was_training = bundle.module.training
    bundle.module.eval()
    losses = []
    with torch.no_grad():
        for caption, text in zip(captions, bundle.encode_text(captions), strict=True):
            told = [type(clip)(f"{clip.clip_id}-{caption}", clip.codes, text) for clip in clips]
            # The same seeds for every caption: a family that draws noise draws the same.
            batch = bundle.collate(told, list(range(len(clips)))).to(bundle.device)
            terms = bundle.module(batch)
            rows = [
                total_loss(
                    {name: (sums[row], count[row]) for name, (sums, count) in terms.items()},
                    {name: count[row] for name, (_, count) in terms.items()},
                    bundle.term_weights,
                )
                for row in range(len(clips))
            ]
            losses.append(torch.stack(rows))
    bundle.module.train(was_training)
    bare, *others = losses
    return {
        token: float((loss - bare).abs().mean()) for token, loss in zip(tokens, others, strict=True)
    }


def check_rare(bundle: Bundle, concept: ConceptConfig, seed: int, stop: StopFlag) -> None:
    """Refuse a token that the base already answers to.

    Raises:
        UserError: with a rarer token to take.
        Stopped: a stop was asked for.
    """
    assert concept.token is not None
    rare = [token for token in good_tokens(bundle) if token != concept.token]
    if not rare:
        return
    found = effects(bundle, concept.class_name, [concept.token, *rare], seed, stop)
    effect = found.pop(concept.token)
    usual = statistics.median(found.values())
    if effect > TIMES * usual:
        best = sorted(found, key=lambda token: found[token])[:2]
        raise UserError(
            f"concept.token '{concept.token}' already means something to '{bundle.name}': before "
            f"'{concept.class_name}' it moves the loss {effect / max(usual, 1e-12):.1f} times as much "
            "as a rare string does",
            f"take a rare one, e.g. {' or '.join(best)}; concept.check=false takes it all the same",
        )
