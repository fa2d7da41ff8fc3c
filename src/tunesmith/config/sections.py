"""Every setting of a run: its type, its default, what it is."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class BaseConfig(_Strict):
    """The base model. ``base: pocket`` is short for ``base: {name: pocket}``."""

    name: str = Field(description="pocket, a folder in the hub's layout, or a hub id")
    revision: str | None = Field(None, description="branch, tag or commit on the hub")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="precision of the computation; auto looks at the hardware"
    )
    quantize: Literal["none", "nf4"] = Field(
        "none", description="nf4: frozen linears in 4 bits (QLoRA); needs bitsandbytes"
    )
    double_quant: bool = Field(True, description="nf4: quantise the quantisation constants too")


class DataConfig(_Strict):
    """The data. ``data: DIR`` is short for ``data: {path: DIR}``."""

    path: str = Field(description="a folder that `tunesmith prepare` wrote, or any HF AudioFolder")
    keep_best: float = Field(
        1.0, gt=0, le=1, description="share of the clips to use, by measured quality; 1 is all"
    )
    require: tuple[str, ...] = Field(
        (), description="columns that every clip must have something in, e.g. [lyrics, language]"
    )
    general: str | None = Field(
        None, description="other recordings, never trained on: their loss shows what is forgotten"
    )
    anchor: int | None = Field(
        None,
        ge=0,
        description="clips that the base makes of itself, once, to show what is forgotten; "
        "default: 8 with auto_fix and no data.general, else none",
    )


class ConceptConfig(_Strict):
    """DreamBooth: a rare token that comes to mean the recordings, and the class that they belong to."""

    token: str | None = Field(None, description="rare token, e.g. sks; none is off")
    class_name: str = Field("music", description="what it is one of: guitar, singer, drum machine")
    template: str = Field(
        "{token} {class_name}, {caption}",
        description="captions of the recordings; those that hold the token stay",
    )
    check: bool = Field(True, description="refuse a token that the base already answers to")


class PriorConfig(_Strict):
    """Prior preservation: λ times the loss of what the base itself makes of the class."""

    weight: float = Field(0.0, ge=0, description="λ in L_concept + λ·L_prior; 0 is off")
    path: str | None = Field(
        None, description="prepared recordings of the class; sampled from the base by default"
    )
    prompts: tuple[str, ...] = Field((), description="of sampled clips; default: the class")
    clips: int = Field(64, ge=1, description="how many are sampled, once, and cached")
    seconds: float | None = Field(None, gt=0, description="of each; default: the clips' median")
    batch_size: int | None = Field(None, ge=1, description="default: train.batch_size")


class ReplayConfig(_Strict):
    """Replay: general recordings that are trained on beside the new ones, so that less is forgotten."""

    path: str | None = Field(None, description="prepared general recordings; their training side")
    weight: float = Field(1.0, gt=0, description="weight of their loss")
    batch_size: int | None = Field(None, ge=1, description="default: train.batch_size")


class TrainConfig(_Strict):
    """How to train."""

    lr: float = Field(1e-4, gt=0, description="peak learning rate")
    steps: int | None = Field(None, ge=1, description="optimizer steps; give this or epochs")
    epochs: float | None = Field(None, gt=0, description="passes over the data; give this or steps")
    batch_size: int = Field(4, ge=1, description="clips a forward pass, over all devices")
    accumulate: int = Field(1, ge=1, description="forward passes an optimizer step")
    fit_batch: bool = Field(
        False,
        description="largest batch that memory takes, up to batch_size x accumulate clips, which stay "
        "those of a step",
    )
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="after warm-up")
    warmup: float = Field(0.05, ge=0, description="steps if 1 or more, else a share of all steps")
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = Field(
        "adamw", description="8-bit moments, paged to the CPU when memory is short, on CUDA only"
    )
    weight_decay: float = Field(0.01, ge=0, description="AdamW's decoupled weight decay")
    betas: tuple[float, float] = Field((0.9, 0.99), description="AdamW's moment decays")
    clip_norm: float = Field(1.0, ge=0, description="largest gradient norm; 0 is off")
    ema: float = Field(
        0.0, ge=0, lt=1, description="decay of averaged weights, e.g. 0.999; 0 is off"
    )
    caption_dropout: float = Field(
        0.1, ge=0, le=1, description="share of rows without text (guidance)"
    )
    activation_checkpointing: bool = Field(
        False, description="less memory, about a third more time"
    )
    bucket: bool = Field(True, description="batches of clips of similar length")
    record: bool = Field(
        True,
        description="on CUDA, record a step of each length once and replay it, where the family can",
    )
    eval_every: int | None = Field(
        None, ge=1, description="steps between validations; default 10 in all"
    )
    checkpoint_every: int | None = Field(None, ge=1, description="steps between checkpoints")
    keep_checkpoints: int = Field(
        2, ge=1, description="how many of the last are kept, beside the best"
    )
    disk_budget_gb: float | None = Field(None, gt=0, description="most that checkpoints may take")
    patience: int = Field(
        0, ge=0, description="validations without progress before stopping; 0 is off"
    )
    select: Literal["loss", "voice"] = Field(
        "loss",
        description="what tells progress and chooses the weights: validation loss, or a voice's "
        "similarity x intelligibility in takes of held-out sentences",
    )
    max_bad_steps: int = Field(10, ge=1, description="NaN or inf steps in a row before giving up")


class PreviewConfig(_Strict):
    """Listening examples while training, the same prompts and seeds each time."""

    prompts: tuple[str, ...] = Field((), description="default: captions of the data")
    count: int = Field(2, ge=1, description="how many captions, where no prompts are given")
    seconds: float | None = Field(None, gt=0, description="default: 5 or the base's longest")
    every: int | None = Field(
        None, ge=0, description="steps between previews; 0 is none; default 4 in all"
    )
    seed: int = Field(1, description="seed of the first prompt; the next has the next")
    guidance: float | None = Field(
        None, ge=0, description="classifier-free guidance scale; the base's own by default"
    )


class VoiceConfig(_Strict):
    """Whose voice it is that is adapted to, and what tells how near takes come to it."""

    consent: str | None = Field(
        None,
        description="who speaks and agreed to what; default: what `tunesmith prepare --voice` was told",
    )
    ear: str | None = Field(
        None,
        description="embedding that tells voices apart, for train.select=voice; not the encoder that the "
        "base is told its speaker by; default: resemblyzer if it is installed, else voiceprint",
    )
    asr: str | None = Field(
        None,
        description="model that writes down what takes say (a folder or hub id), for train.select=voice; "
        "default: the phone recogniser that comes along",
    )
    takes: int = Field(8, ge=2, description="sentences that are spoken at each validation")


class RunConfig(_Strict):
    """Everything that decides a run."""

    base: BaseConfig
    data: DataConfig
    out: str = Field(description="the run's folder")
    recipe: str | None = Field(None, description="recipe that the settings come from")
    method: dict[str, Any] = Field(description="{name: lora, ...}: the method and its settings")
    tokens: dict[str, Any] | None = Field(
        None, description="{token: '[x]', ...}: textual inversion beside the method"
    )
    task: dict[str, Any] | None = Field(
        None,
        description="{name: inpaint, ...}: a new task that the base is taught beside the method",
    )
    concept: ConceptConfig = ConceptConfig()  # type: ignore[call-arg]
    prior: PriorConfig = PriorConfig()  # type: ignore[call-arg]
    replay: ReplayConfig = ReplayConfig()  # type: ignore[call-arg]
    train: TrainConfig = TrainConfig()  # type: ignore[call-arg]
    preview: PreviewConfig = PreviewConfig()  # type: ignore[call-arg]
    voice: VoiceConfig = VoiceConfig()  # type: ignore[call-arg]
    watch: bool = Field(True, description="watch for pitfalls: docs/pitfalls.md")
    auto_fix: bool = Field(
        False,
        description="act on pitfalls: go back with a lower rate, stop early, replay what is forgotten",
    )
    parallel: Literal["auto", "ddp", "fsdp"] = Field(
        "auto",
        description="how several processes (torchrun, accelerate launch) split a run: ddp, the whole "
        "model in each; fsdp, a part of the base's weights in each; auto: ddp if that fits",
    )
    seed: int = Field(0, description="seed of everything random in the run")
    init_from: str | None = Field(
        None, description="adapter whose weights to start from (not --resume)"
    )
    log: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = Field(
        (), description="further logs"
    )

    @model_validator(mode="after")
    def _one_length(self) -> RunConfig:
        if self.train.steps is not None and self.train.epochs is not None:
            raise ValueError("train.steps and train.epochs both given: give one")
        return self
