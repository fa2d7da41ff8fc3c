"""A server without a model: an engine that makes tones, and a client of the real application."""

from __future__ import annotations

import hashlib
import json
import queue
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from fastapi.testclient import TestClient
from safetensors.numpy import save

from tunesmith.errors import UserError
from tunesmith.serve.app import Access, application
from tunesmith.serve.jobs import Jobs
from tunesmith.serve.limits import Limits
from tunesmith.serve.recordings import recorded
from tunesmith.serve.request import Engine, Request, Sink
from tunesmith.serve.shelf import Shelf
from tunesmith.types import Audio, GenerationSettings

RATE_HZ, BASE_HASH = 8000, "b" * 64


def bundle(**changes: Any) -> Any:
    """What a server asks of a base."""
    plain = {
        "name": "toy",
        "base_hash": BASE_HASH,
        "licence": "Apache-2.0",
        "family": "toys",
        "sample_rate_hz": RATE_HZ,
        "channels": 1,
        "max_s": 10.0,
        "frame_rate_hz": 50.0,
        "sampling": GenerationSettings(),
        "settings": ("guidance", "temperature", "top_k"),
        "columns": ("lyrics", "bpm"),
        "free_length": False,
        "components": {"decoder": None},
        "inpainting": "own",
        "no_inpainting": "it only hums",
    }
    return SimpleNamespace(**plain | changes)


def tone(request: Request) -> np.ndarray:
    """``[1, T]``: what the toy makes of a request; its pitch is the seed's."""
    times = np.arange(round(request.duration_s * RATE_HZ)) / RATE_HZ
    pitch_hz = 200 + 10 * (request.seed % 100)
    return (0.3 * np.sin(2 * np.pi * pitch_hz * times)).astype(np.float32)[None]


@dataclass
class Toy(Engine):
    """An engine that makes tones in parts of a quarter of a second.

    Attributes:
        gate: while it is cleared a job whose prompt is ``wait`` stands still after its first part.
        cancelled: ids that were called off.
    """

    bundle: Any = field(default_factory=bundle)
    slots: int = 2
    gate: threading.Event = field(default_factory=threading.Event)
    began: threading.Event = field(default_factory=threading.Event)
    cancelled: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Request, Sink] | None] = queue.SimpleQueue()
        self._adapters: dict[str, Path] = {}
        self._off: set[str] = set()
        self._threads = [
            threading.Thread(target=self._work, daemon=True) for _ in range(self.slots)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, drain_s: float = 0.0) -> None:
        self.gate.set()
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join()

    def submit(self, request: Request, sink: Sink) -> None:
        self._calls.put((request, sink))

    def cancel(self, id: str) -> None:
        self.cancelled.append(id)
        self._off.add(id)

    def adapters(self) -> dict[str, Path]:
        return dict(self._adapters)

    def add_adapter(self, name: str, folder: Path) -> None:
        if "unmixable" in name:
            raise UserError(f"{name} is of a kind that cannot be mixed", "merge it")
        self._adapters[name] = folder

    def remove_adapter(self, name: str) -> None:
        del self._adapters[name]

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            request, sink = call
            sink.progress(0.0)
            self.began.set()
            if request.prompt == "fail":
                sink.failed(UserError("that cannot be sung", "sing something else"))
                continue
            if request.prompt == "break":
                sink.failed(RuntimeError("a bug"))
                continue
            samples, step = tone(request), RATE_HZ // 4
            if request.prompt == "wait to read":
                self.gate.wait(20)
            if request.made_from is not None:  # what it begins with is given back as it is
                try:
                    sound = recorded(request.made_from, self.bundle).samples
                except UserError as error:
                    sink.failed(error)
                    continue
                samples = samples[:1].copy()
                samples[:, : sound.shape[1]] = sound[:1, : samples.shape[1]]
            for place in range(0, samples.shape[1], step):
                if request.prompt.startswith("wait") and place == step:
                    while not self.gate.wait(0.01) and request.id not in self._off:
                        pass
                if request.id in self._off:
                    sink.cancelled()
                    break
                sink.part(Audio(samples[:, place : place + step], RATE_HZ))
                sink.progress(place / samples.shape[1])
                if request.prompt == "fail late":
                    sink.failed(RuntimeError("a bug, later"))
                    break
            else:
                sink.finished()


class Serving:
    """A running queue, and a client of its application.

    Args:
        top: a folder; ``top/adapters`` is the one that adapters may be named of.
        token: that the server asks for; the client sends it.
        limits: of the queue.
        engine: a toy of one's own.
    """

    def __init__(
        self,
        top: Path,
        token: str = "",
        limits: Limits | None = None,
        engine: Toy | None = None,
        most_bytes: int = 1 << 20,
    ) -> None:
        self.top, self.engine, self.closing = top, engine or Toy(), False
        (top / "adapters").mkdir(exist_ok=True)
        self.jobs = Jobs(self.engine, top / "jobs", limits)
        self.shelf = Shelf(self.engine, top / "adapters", top / "jobs", most_bytes=most_bytes)
        self.lost = self.shelf.restore()
        self.jobs.start()
        self.app = application(self.jobs, self.shelf, Access(token), closing=lambda: self.closing)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.http = TestClient(
            self.app, "http://127.0.0.1:8000", headers=headers, raise_server_exceptions=False
        )

    def make(self, prompt: str = "blues", **more: Any):
        """Ask for a sound of half a second."""
        return self.http.post(
            "/v1/audio/generations", json={"prompt": prompt, "seconds": 0.5, "seed": 7} | more
        )

    def close(self) -> None:
        self.engine.gate.set()
        self.http.close()
        self.jobs.close()


def adapter(folder: Path | None = None, **changes: Any) -> tuple[bytes, bytes]:
    """Card and tensors of an adapter of the toy's base; written to a folder if one is given."""
    tensors = save({"a": np.ones((2, 3), np.float32), "b": np.zeros((4,), np.float16)})
    card = {
        "format": 1,
        "base": {"name": "toy", "hash": BASE_HASH},
        "method": {"name": "lora", "rank": 2},
        "components": {"decoder": hashlib.sha256(tensors).hexdigest()},
        "trigger_tokens": ["[mine]"],
        "rights": "my own",
    } | changes
    text = json.dumps(card).encode()
    if folder is not None:
        (folder / "adapter" / "decoder").mkdir(parents=True)
        (folder / "adapter.json").write_bytes(text)
        (folder / "adapter" / "decoder" / "adapter_model.safetensors").write_bytes(tensors)
    return text, tensors
