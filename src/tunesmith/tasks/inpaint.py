"""Holes in a recording filled: ``Source.spans`` are made anew, all else stays as it is.

With a base whose family has an input for given sound, or can hold frames to it while sampling, this
needs no training. ``task: {name: inpaint}`` beside a method adapts the base: it then trains on sounds
with holes, and where the family has no input for what is given, one is added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from tunesmith.analysis.bands import split
from tunesmith.errors import Fault, UserError, did_you_mean
from tunesmith.families._bundle import Bundle, LossModule
from tunesmith.families._inpainting import WidenedInput
from tunesmith.methods._adapter import Adapter, State, frozen, match_keys, not_mergeable
from tunesmith.objectives.holes import KINDS, Holes
from tunesmith.tasks._pasting import FADE_S, around, converted, pasted
from tunesmith.tasks._remade import remade
from tunesmith.tasks.generate import Take, check_details
from tunesmith.types import Audio, Details, GenerationSettings, Source

SPEC = {
    "summary": "holes in a recording filled; `task: {name: inpaint}` trains a base for it",
    "trains": True,
    "identity_at_start": True,
    "not_linear": "its input for the given sound is no part of the base's layout",
}

BANDS = 4
"""Versions of a clip, each without another band of frequencies."""

_RATES = {"weight": 5.0, "gains": 50.0}
"""What the learning rate of the widened input is multiplied with. It begins at zero, and until it is of use the
model is told nothing; but many weights that move fast are noise to it at first. With 20 for the weights, no gains and
a rate of 3e-4 the validation loss of `pocket-diffusion` stayed above its start for 1200 steps; with these and 1e-4 it
was below it at most validations from the first on."""

_COMPONENT = "inpaint_input"


@dataclass(frozen=True, slots=True)
class Config:
    """Settings of ``task: inpaint``.

    Attributes:
        masks: what is missing while it trains: span (a stretch inside), tail (all from a point on), band (a
            band of frequencies).
        plain: share of examples of which nothing is given, so that text alone goes on to suffice.
        repeats: of what is missing, tell the stretch of the same sound that most likely says it again,
            found by what lies around the hole. Families with an input of their own are told nothing.
    """

    masks: tuple[str, ...] = ("span", "tail")
    plain: float = 0.1
    repeats: bool = True

    @property
    def bands(self) -> int:
        """Versions of each clip with a band taken out that training draws from."""
        return BANDS if "band" in self.masks else 0


# --- training ---


def check(bundle: Bundle, config: Config) -> list[Fault]:
    """What is wrong with these settings on this base."""
    faults = []
    if not bundle.inpainting:
        faults.append(
            Fault(
                "task.name",
                f"family {bundle.family} cannot learn to fill holes: {bundle.no_inpainting}",
                "use a base that makes sound from noise",
            )
        )
    for name in config.masks:
        if name not in KINDS:
            faults.append(Fault("task.masks", f"no mask '{name}'", did_you_mean(name, KINDS)))
    if "band" in config.masks and bundle.inpainting == "own":
        faults.append(
            Fault(
                "task.masks",
                f"the input that {bundle.family} has for given sound is of time alone",
                "leave band out",
            )
        )
    if not config.masks:
        faults.append(Fault("task.masks", "there is none", f"usual: {list(KINDS)}"))
    if not 0 <= config.plain < 1:
        faults.append(Fault("task.plain", f"{config.plain} is not in 0..1", "usual: 0.1"))
    return faults


def parameter_count(bundle: Bundle, config: Config) -> int:
    """New weights of the widened input: D·(C + 1) + 2; none where the family has an input of its own."""
    if bundle.inpainting != "widened":
        return 0
    channels, width = bundle.input_sizes
    return width * (channels + 1) + 2


def attach(bundle: Bundle, config: Config, seed: int | None = 0) -> InpaintAdapter:
    """Let the loss show sounds with holes, and widen the input where need be.

    ``seed`` is unused: new weights are zero.

    Raises:
        UserError: the family cannot.
    """
    if faults := check(bundle, config):
        raise UserError(f"{faults[0].key}: {faults[0].message}", faults[0].mend)
    return InpaintAdapter(bundle, config)


@contextmanager
def as_taught(bundle: Bundle, config: Config) -> Iterator[None]:
    """Let the loss show sounds with holes, while nothing is attached."""
    _teach(bundle, config)
    try:
        yield
    finally:
        _forget(bundle.module)


def _teach(bundle: Bundle, config: Config) -> None:
    """From now on the loss shows sounds with holes."""
    bundle.module.holes = Holes(config.masks, config.plain)
    bundle.module.repeats = config.repeats and bundle.inpainting == "widened"


def _forget(module: LossModule) -> None:
    """It shows them whole again."""
    module.holes, module.repeats = None, False


class InpaintAdapter(Adapter):
    """Holes in what the loss shows, and the weights that hear what is given around them."""

    method = "inpaint"
    linear = False

    def __init__(self, bundle: Bundle, config: Config) -> None:
        self.config = config
        self._module = bundle.module
        _teach(bundle, config)
        self._layer: WidenedInput | None = None
        if bundle.inpainting == "widened":
            component, path = bundle.input_place
            place, _, self._last = path.rpartition(".")
            self._holder: nn.Module = bundle.components[component].get_submodule(place)
            inner = getattr(self._holder, self._last)
            self._layer = WidenedInput(inner, *bundle.input_sizes, bundle.device)
            setattr(self._holder, self._last, self._layer)

    def parameters(self) -> dict[str, nn.Parameter]:
        if self._layer is None:
            return {}
        return {f"{_COMPONENT}/weight": self._layer.extra, f"{_COMPONENT}/gains": self._layer.gains}

    def rates(self) -> dict[str, float]:
        return {name: _RATES[name.removeprefix(f"{_COMPONENT}/")] for name in self.parameters()}

    def state(self) -> State:
        if self._layer is None:
            return {}
        mine = {"weight": self._layer.extra, "gains": self._layer.gains}
        return {_COMPONENT: {name: value.detach().cpu().clone() for name, value in mine.items()}}

    def load_state(self, state: State) -> None:
        mine = self.state()
        for component in sorted(mine.keys() | state.keys()):
            match_keys(component, mine.get(component, {}), state.get(component, {}))
        if self._layer is not None:
            self._layer.extra.data.copy_(state[_COMPONENT]["weight"])
            self._layer.gains.data.copy_(state[_COMPONENT]["gains"])

    def set_strength(self, strength: float) -> None:
        if self._layer is not None:
            self._layer.strength = float(strength)

    def merge(self) -> None:
        raise not_mergeable("a base that was taught to fill holes", SPEC)

    def detach(self) -> None:
        frozen(self.parameters().values())
        _forget(self._module)
        if self._layer is not None:
            setattr(self._holder, self._last, self._layer.inner)
            self._layer = None


# --- filling ---


def check_spans(spans: Sequence[tuple[float, float]], duration_s: float) -> None:
    """Raise :class:`UserError` for holes that a recording of this length cannot have."""
    if not spans:
        raise UserError("no span to make anew", "give one, such as 3.0:5.5")
    for begin, end in spans:
        if not 0 <= begin < end:
            raise UserError(f"{begin:g}:{end:g} is no span", "give BEGIN:END in seconds")
        if begin >= duration_s or end > duration_s + 0.01:
            raise UserError(
                f"the span {begin:g}:{end:g} reaches beyond the recording ({duration_s:.2f} s)",
                "give one inside of it; what comes after it is made with --continue",
            )


def inpaint(
    bundle: Bundle,
    prompt: str,
    audio: Audio,
    spans: Sequence[tuple[float, float]],
    *,
    seed: int = 0,
    count: int = 1,
    settings: GenerationSettings | None = None,
    batch_size: int = 8,
    should_stop: Callable[[], int] = lambda: 0,
    details: Details | None = None,
) -> Iterator[Take]:
    """Make spans of a recording anew; take i has the seed ``seed + i``.

    Outside of the spans the samples come back as they were given, but for a fade of ``FADE_S`` at
    each of their ends. What is new is brought to the recording's own rate and channels. Of a recording
    longer than the base hears, the part around the spans is listened to.

    Args:
        bundle: the base, with an adapter attached or not.
        prompt: what is to sound there.
        audio: the recording, at any rate.
        spans: ``(begin, end)`` in seconds.
        seed: seed of the first take.
        count: takes.
        settings: sampling.
        batch_size: takes at a time.
        should_stop: polled often; non-zero raises ``errors.Stopped``.
        details: as of :func:`tunesmith.tasks.generate.generate`.

    Raises:
        UserError: spans that the recording does not have, or that reach further than the base hears.
    """
    check_details(bundle, details)
    spans = sorted((float(begin), float(end)) for begin, end in spans)
    check_spans(spans, audio.duration_s)
    first, heard = around(bundle, audio, spans)
    offset_s = first / audio.sample_rate_hz
    inside = tuple(
        (begin - offset_s, min(end - offset_s, heard.duration_s)) for begin, end in spans
    )
    source = Source(converted(heard, bundle.sample_rate_hz, bundle.channels), inside)
    made = remade(
        bundle,
        [prompt],
        source,
        seed=seed,
        count=count,
        settings=settings,
        batch_size=batch_size,
        should_stop=should_stop,
        details=details,
    )
    for text, one, sound in made:
        new = converted(sound, audio.sample_rate_hz, audio.channels)
        yield Take(text, one, pasted(audio, new, first, spans))


def fill_band(
    bundle: Bundle,
    prompt: str,
    audio: Audio,
    band: tuple[float, float],
    *,
    seed: int = 0,
    count: int = 1,
    settings: GenerationSettings | None = None,
    batch_size: int = 8,
    should_stop: Callable[[], int] = lambda: 0,
    details: Details | None = None,
) -> Iterator[Take]:
    """Make a band of a recording's frequencies anew; what lies outside of it stays.

    Args:
        bundle: a base that was taught to (``task: {name: inpaint, masks: [band]}``).
        prompt: what the recording is of.
        audio: the recording, at any rate, no longer than the base hears.
        band: ``(low, high)`` in Hz.
        seed, count, settings, batch_size, should_stop, details: as of :func:`inpaint`.

    Raises:
        UserError: no such band, a recording that is too long, or a base that was not taught to.
    """
    check_details(bundle, details)
    low, high = band
    if not 0 <= low < high or low >= audio.sample_rate_hz / 2:
        raise UserError(
            f"{low:g}:{high:g} Hz is no band of this recording", "give LOW:HIGH, such as 4000:16000"
        )
    if low >= bundle.sample_rate_hz / 2:
        raise UserError(
            f"'{bundle.name}' makes nothing above {bundle.sample_rate_hz / 2:g} Hz",
            "give a lower band, or use another base",
        )
    if audio.duration_s > bundle.max_s + 0.01:
        raise UserError(
            f"the recording has {audio.duration_s:.1f} s, '{bundle.name}' hears {bundle.max_s:g} s",
            "cut it first",
        )
    rest = split(audio.samples, audio.sample_rate_hz, low, high)[1]
    heard = converted(Audio(rest, audio.sample_rate_hz), bundle.sample_rate_hz, bundle.channels)
    source = Source(heard, banded=True)
    made = remade(
        bundle,
        [prompt],
        source,
        seed=seed,
        count=count,
        settings=settings,
        batch_size=batch_size,
        should_stop=should_stop,
        details=details,
    )
    for text, one, sound in made:
        new = converted(sound, audio.sample_rate_hz, audio.channels)
        whole = rest.copy()
        inside = split(new.samples, audio.sample_rate_hz, low, high)[0]
        length = min(whole.shape[1], inside.shape[1])
        whole[:, :length] += inside[:, :length]
        yield Take(text, one, Audio(whole, audio.sample_rate_hz))


__all__ = [
    "FADE_S",
    "SPEC",
    "Config",
    "InpaintAdapter",
    "as_taught",
    "attach",
    "check",
    "check_spans",
    "fill_band",
    "inpaint",
    "parameter_count",
    "pasted",
]
