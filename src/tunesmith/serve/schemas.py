"""What is asked and answered, as JSON; the OpenAPI document is made of this."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tunesmith.families._bundle import Bundle
from tunesmith.serve.job import Fault, Job, State
from tunesmith.serve.recordings import able
from tunesmith.serve.sounds import Sound

FormatName = Literal["wav", "flac", "ogg", "mp3", "opus", "pcm"]
JobId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
SoundId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
AdapterName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


def _is_text(value: str) -> str:
    # JSON can hold halves of characters, which no file and no tokenizer takes.
    value.encode()
    return value


Text = Annotated[str, AfterValidator(_is_text)]
Number = Annotated[float, Field(allow_inf_nan=False)]
_ID = "3f0c2b7e9d1a4c58b6e2f7a09c4d8e15"  # of examples
_TEXT = 1 << 16  # the server's own limits are narrower; this one keeps the document honest


_Span = Annotated[list[Number], Field(min_length=2, max_length=2)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Sampling(_Strict):
    """How it is sampled; what is left out is the base's own. What a base has no use for is refused."""

    guidance: Annotated[float, Field(ge=0, le=100)] | None = Field(
        None, description="Classifier-free guidance; 1 is off."
    )
    temperature: Annotated[float, Field(ge=0, le=10)] | None = Field(
        None, description="0 is greedy."
    )
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] | None = Field(
        None, description="Sample among the k likeliest; 0 is off."
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="Sample within this probability mass; 1 is off."
    )
    steps: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        None, description="Of a diffusion base's sampler."
    )


class Generation(_Strict):
    """A sound that is wanted."""

    prompt: Text = Field(max_length=_TEXT, description="What it is to sound like.")
    seconds: Annotated[float, Field(gt=0, le=3600)] | None = Field(
        None, description="Length; 5, or what the base can give if that is less."
    )
    seed: Annotated[int, Field(ge=0, lt=2**53)] | None = Field(
        None, description="The same seed and the rest make the same sound; drawn if left out."
    )
    adapters: dict[AdapterName, Number] = Field(
        {}, max_length=64, description="Weight of each that is mixed in; 1 is as it was trained."
    )
    format: FormatName = Field("wav", description="Of the answer; pcm is bare 16-bit samples.")
    stream: bool = Field(
        False, description="Send sound as it is made. flac cannot be: its header holds the length."
    )
    asynchronous: bool = Field(
        False, alias="async", description="Answer 202 at once, with a job to come back for."
    )
    settings: Sampling = Field(
        default_factory=lambda: Sampling.model_construct(), description="How it is sampled."
    )
    details: dict[Text, Text | int | Number] = Field(
        {}, max_length=32, description="What else the base listens to: lyrics, bpm, key ..."
    )
    task: Literal["generate", "continue", "inpaint", "edit"] = Field(
        "generate",
        description="What is done with `audio`: the result begins with it; spans of it are made anew; or "
        "all of it is, by degrees. `/v1/models` says what the base can.",
    )
    audio: SoundId | None = Field(None, description="Id of a sound that was sent to /v1/uploads.")
    spans: Annotated[list[_Span], Field(max_length=64)] = Field(
        [], description="Of inpaint: `[begin, end]` in seconds of each."
    )
    strength: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Of edit: 0 leaves it, 1 keeps nothing of it; 0.6 if left out."
    )

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {"prompt": "slow blues, electric guitar", "seconds": 4, "seed": 7, "format": "mp3"},
                {"prompt": "bossa nova", "adapters": {"jazz": 0.3, "calypso": 0.7}, "stream": True},
                {
                    "prompt": "baroque violin",
                    "seconds": 8,
                    "settings": {"guidance": 4},
                    "async": True,
                },
                {"prompt": "the same, brighter", "task": "continue", "audio": _ID, "seconds": 8},
                {
                    "prompt": "a drum fill",
                    "task": "inpaint",
                    "audio": _ID,
                    "spans": [[3.0, 4.5]],
                },
                {
                    "prompt": "the same on a harpsichord",
                    "task": "edit",
                    "audio": _ID,
                    "strength": 0.6,
                },
            ]
        },
    )


class Speech(BaseModel):
    """A sentence to speak, as OpenAI's clients ask for it."""

    model: str = Field(max_length=200, description="The base's name, or `tunesmith`.")
    input: Text = Field(min_length=1, max_length=_TEXT, description="What is said.")
    voice: str = Field(max_length=64, description="An adapter's name, or `base`.")
    response_format: Literal["mp3", "opus", "flac", "wav", "pcm"] = "mp3"
    speed: Annotated[float, Field(ge=0.25, le=4)] = Field(
        1.0, description="Only 1: no base here speaks at another pace."
    )
    instructions: Literal[""] = Field("", description="No base here takes any.")
    stream_format: Literal["audio"] = "audio"
    seed: Annotated[int, Field(ge=0, lt=2**53)] | None = Field(
        None, description="Not OpenAI's: the same seed says it the same way."
    )

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {"model": "pocket-voice", "input": "Good evening.", "voice": "maria"},
                {
                    "model": "tunesmith",
                    "input": "Ready.",
                    "voice": "base",
                    "response_format": "wav",
                },
            ]
        },
    )


class JobView(BaseModel):
    """A job and how it stands."""

    id: JobId
    state: State
    progress: float = Field(ge=0, le=1)
    prompt: str
    seconds: float
    seed: int
    adapters: dict[str, float]
    ahead: int = Field(description="Jobs that wait before it.")
    made_at: float = Field(description="Seconds since 1970, as all times.")
    began_at: float | None = None
    ended_at: float | None = None
    audio_seconds: float = Field(0, description="Of the sound; 0 before there is one.")
    audio: str | None = Field(None, description="Where the sound is.")
    fault: Fault = Field("", description="Of a failed one: whose fault it was.")
    error: str = Field("", description="The same in a line.")


class JobList(BaseModel):
    """Jobs, the last accepted first."""

    jobs: list[JobView]
    next: str | None = Field(None, description="Give it as `before` to go on.")


class SoundView(BaseModel):
    """A sound that was sent."""

    id: SoundId
    bytes: int
    seconds: float
    sample_rate_hz: int
    channels: int
    sha256: str = Field(description="Of the file as it was sent.")
    made_at: float = Field(description="Seconds since 1970, as all times.")
    expires_at: float = Field(description="It goes then, unless it is asked for before.")


class AdapterView(BaseModel):
    """An adapter that requests can name."""

    name: str
    method: str
    hash: str = Field(description="Of its tensors.")
    tokens: list[str] = Field(description="Words of its own, to be used in prompts.")
    rights: str = Field(description="In the recordings that it was trained on.")


class AdapterList(BaseModel):
    """What can be named, and what could be added by name."""

    adapters: list[AdapterView]
    available: list[str] = Field(description="In the server's folder of adapters.")


class AdapterWanted(_Strict):
    """An adapter of the server's folder."""

    name: AdapterName
    folder: AdapterName | None = Field(None, description="Its folder's name, if it is another.")
    replace: bool = Field(False, description="Take the place of one of that name.")

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"name": "jazz"}, {"name": "jazz", "folder": "jazz-v2"}]},
    )


class ModelView(BaseModel):
    """A base, or an adapter on it."""

    id: str
    object: Literal["model"] = "model"
    owned_by: str = "tunesmith"
    family: str
    licence: str
    sample_rate_hz: int
    channels: int
    max_seconds: float
    settings: list[str] = Field(description="What of the sampling means something to it.")
    details: list[str] = Field(description="What it listens to beside a prompt.")
    speaks: bool = Field(description="Whether its text is spoken: /v1/audio/speech.")
    tasks: list[str] = Field(description="What it can do with a sound that was sent.")


class ModelList(BaseModel):
    """In OpenAI's shape: what `model` can be."""

    object: Literal["list"] = "list"
    data: list[ModelView]


class Health(BaseModel):
    """Whether it lives, and whether it takes requests."""

    live: bool
    ready: bool


def job_view(job: Job, ahead: int) -> JobView:
    """A job as it is shown."""
    asked = job.request
    return JobView(
        id=job.id,
        state=job.state,
        progress=job.progress,
        prompt=asked.prompt,
        seconds=asked.duration_s,
        seed=asked.seed,
        adapters=dict(asked.adapters),
        ahead=ahead,
        made_at=job.made_at,
        began_at=job.began_at,
        ended_at=job.ended_at,
        audio_seconds=job.audio_s,
        audio=f"/v1/jobs/{job.id}/audio" if job.file else None,
        fault=job.fault,
        error=job.error,
    )


def sound_view(sound: Sound, expires_at: float) -> SoundView:
    """A sound as it is shown."""
    return SoundView(
        id=sound.id,
        bytes=sound.bytes,
        seconds=sound.duration_s,
        sample_rate_hz=sound.sample_rate_hz,
        channels=sound.channels,
        sha256=sound.sha256,
        made_at=sound.made_at,
        expires_at=expires_at,
    )


def public_name(bundle: Bundle) -> str:
    """What a base is called outside: its name, or that of its folder, not where that lies."""
    return Path(bundle.name).name if Path(bundle.name).is_absolute() else bundle.name


def model_view(bundle: Bundle, seconds: float) -> ModelView:
    """A base as it is shown. ``seconds``: the most that the server gives."""
    return ModelView(
        id=public_name(bundle),
        family=bundle.family,
        licence=bundle.licence,
        sample_rate_hz=bundle.sample_rate_hz,
        channels=bundle.channels,
        max_seconds=min(bundle.max_s, seconds),
        settings=list(bundle.settings),
        details=list(bundle.columns),
        speaks=bundle.free_length,
        tasks=list(able(bundle)),
    )
