"""Serves a base until it is told to stop."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import UserError
from tunesmith.formats.adapter import find_adapter, home
from tunesmith.listen.binding import address_of, bound, is_loopback
from tunesmith.serve.adapter_files import check_name
from tunesmith.serve.limits import Limits
from tunesmith.serve.tokens import VARIABLE, find_token
from tunesmith.training.signals import StopFlag

if TYPE_CHECKING:
    from tunesmith.serve.engine import Kind

HOST, PORT = "127.0.0.1", 8000
_GRACE_S = 10  # for answers that are on their way when everything else has ended
_IN_BATCHES = (
    "engine: batch, which serves full fine-tunes in turns; without them --engine tokens is quicker, "
    "and streams while it writes"
)


@dataclass(frozen=True, slots=True)
class Ready:
    """What is served, and where.

    Attributes:
        address: where the server listens.
        token: where its token came from; empty if it asks for none.
        exposed: whether other machines can reach it.
        base: name and hash of what is served.
        adapters: what each name stands for.
        adapters_folder: where names are looked up.
        jobs: where jobs and their sounds are kept.
        restored: jobs of an earlier process that go on.
        notes: what was to be there again after a restart and is not, and which engine it is, if that is no
            matter of course.
    """

    address: str
    token: str
    exposed: bool
    base: tuple[str, str]
    adapters: Mapping[str, Path]
    adapters_folder: Path
    jobs: Path
    restored: int = 0
    notes: Sequence[str] = field(default=())


def jobs_home(base: str) -> Path:
    """Where the jobs of a base are kept unless another place is given."""
    return home().parent / "serve" / re.sub(r"[^A-Za-z0-9._-]", "_", base)[-80:]


def run(
    base: str = "pocket",
    *,
    adapters: Mapping[str, str | Path] | None = None,
    adapters_folder: str | Path | None = None,
    host: str = HOST,
    port: int = PORT,
    names: Sequence[str] = (),
    token_file: str | Path | None = None,
    jobs: str | Path | None = None,
    slots: int = 8,
    most_adapters: int = 16,
    rank: int = 64,
    device: str | None = None,
    int8: bool = False,
    engine: Kind = "auto",
    limits: Limits | None = None,
    adapter_bytes: int = 512 << 20,
    drain_s: float = 30.0,
    ready: Callable[[Ready], None] | None = None,
    stop: StopFlag | None = None,
) -> None:
    """Serve a base until a stop is asked for; what runs then is finished first.

    Args:
        base: its name, folder or id on the hub.
        adapters: ``{name: run folder, name under the adapters folder, or id on the hub}`` to begin with.
        adapters_folder: the only folder that clients can add adapters of, by name;
            ``~/.tunesmith/adapters`` by default.
        host: address to listen on. Any but this machine's own needs a token.
        port: 0 takes any that is free.
        names: that the server goes by beside its own, where a proxy stands before it.
        token_file: holds the token; made with a new one if it is not there. Without it the token is
            ``$TUNESMITH_TOKEN``, if that is set.
        jobs: folder of jobs and their sounds: one server's own, on a local disk.
        slots: requests that are worked on at once.
        most_adapters: that are loaded at a time.
        rank: the largest of one of them.
        device: where; the best there is by default.
        int8: hold the linears in 8 bits, on a CPU.
        engine: ``tokens`` or ``batch``, for a base that writes tokens (see :func:`.engine.open_engine`); by
            default what serves all adapters that there are.
        limits: what is taken on.
        adapter_bytes: of one adapter's tensors.
        drain_s: seconds that running jobs are given at the end; those that need more, and those that
            wait, are made after the next start.
        ready: told as soon as it listens.
        stop: a stop flag.

    Raises:
        UserError: no such base or adapter, a port in use, an open address without a token, another
            server on the same jobs, or a missing package.
    """
    try:
        import uvicorn

        from tunesmith.serve.app import Access, application
        from tunesmith.serve.patience import PatientH11, Server
    except ImportError as error:
        raise UserError(
            f"serving needs the package '{error.name}'", "pip install 'tunesmith[serve]'"
        ) from None
    stop = stop or StopFlag()
    token, token_place = find_token(token_file)
    found = {check_name(name): find_adapter(str(place)) for name, place in (adapters or {}).items()}
    kept = Path(jobs or jobs_home(base)).expanduser()
    folder = Path(adapters_folder).expanduser() if adapters_folder else home()
    if adapters_folder and not folder.is_dir():
        raise UserError(f"no folder {folder}", "give one that holds adapters")
    with bound(host, port) as sock:
        exposed = not is_loopback(sock)
        if exposed and not token:
            raise UserError(
                f"{host} lets other machines in, and there is no token",
                f"set ${VARIABLE}, or give --token-file FILE: it is made if it is not there",
            )
        # What can be said without torch has been.
        from tunesmith.serve.batch_engine import BatchEngine
        from tunesmith.serve.engine import WRITE_TOKENS, open_engine
        from tunesmith.serve.guard import LOCAL_NAMES
        from tunesmith.serve.jobs import Jobs
        from tunesmith.serve.shelf import Shelf, shelved

        model = open_engine(
            base,
            slots=slots,
            device=device,
            int8=int8,
            adapters=most_adapters,
            rank=rank,
            kind=engine,
            among=[*found.values(), *shelved(folder, kept)],
        )
        for name, place in found.items():
            model.add_adapter(name, place)
        queue = Jobs(model, kept, limits)
        shelf = Shelf(model, folder, kept, most_bytes=adapter_bytes)
        closed = False

        def close() -> None:
            nonlocal closed
            closed = True
            queue.close(drain_s)

        try:
            notes = shelf.restore()
            if isinstance(model, BatchEngine) and model.bundle.family in WRITE_TOKENS:
                notes.append(_IN_BATCHES)
            queue.start()
            allowed = None if exposed else (*LOCAL_NAMES, host, *names)
            app = application(
                queue, shelf, Access(token, allowed), closing=lambda: bool(stop()) or closed
            )
            config = _config(uvicorn, app, PatientH11)
            if ready is not None:
                told = model.bundle.name, model.bundle.base_hash
                named = dict(model.adapters())
                count = queue.measures().restored
                ready(
                    Ready(
                        *(address_of(sock), token_place, exposed, told, named, folder),
                        *(kept, count, notes),
                    )
                )
            Server(config, stop, close).run(sockets=[sock])
        finally:
            queue.close()


def _config(uvicorn: Any, app: Any, protocol: Any) -> Any:
    return uvicorn.Config(
        app,
        lifespan="off",
        http=protocol,  # of h11, whose heads have a limit, whatever else is installed
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=_GRACE_S,
        h11_max_incomplete_event_size=16_384,
        ws="none",
    )


__all__ = ["HOST", "PORT", "Ready", "jobs_home", "run"]
