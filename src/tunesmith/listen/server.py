"""Serves a test until it is told to stop: one process a test, on this machine unless asked otherwise."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tunesmith.errors import Stopped, UserError
from tunesmith.listen.binding import address_of, bound, is_loopback
from tunesmith.listen.design import SOUNDS, read_test
from tunesmith.listen.store import Store
from tunesmith.training.signals import StopFlag

HOST, PORT = "127.0.0.1", 8765
_GRACE_S = 3


@dataclass(frozen=True, slots=True)
class Links:
    """What to hand out.

    Attributes:
        address: where the server listens.
        personal: one a listener, in their order.
        invitation: for any number of browsers, each of which becomes a listener; empty if off.
        exposed: whether other machines can reach it.
    """

    address: str
    personal: tuple[str, ...]
    invitation: str
    exposed: bool


def serve(
    folder: str | Path,
    *,
    host: str = HOST,
    port: int = PORT,
    listeners: int = 0,
    invite: int = 0,
    url: str = "",
    ready: Callable[[Links], None] | None = None,
    stop: StopFlag | None = None,
) -> None:
    """Serve a test until a stop is asked for.

    Args:
        folder: of the test.
        host: address to listen on; anything but this machine's own has to be asked for.
        port: 0 takes any that is free.
        listeners: personal links to have; those of an earlier call stay the same.
        invite: listeners that the invitation may bring, those with personal links included; 0 turns
            it off.
        url: how listeners reach the server, where that is not its own address (behind a proxy).
        ready: told the links as soon as the server listens.
        stop: a stop flag.

    Raises:
        UserError: no test, a port in use, another server on the same test, or a missing package.
        Stopped: it was asked to stop; every acknowledged answer is on the disk.
    """
    try:
        import uvicorn

        from tunesmith.listen.app import application
    except ImportError as error:
        raise UserError(
            f"listening tests need the package '{error.name}'", "pip install 'tunesmith[listen]'"
        ) from None
    folder, stop = Path(folder), stop or StopFlag()
    test = read_test(folder)
    missing = [
        name
        for name in (test.level, *(name for item in test.items for name in item.sounds))
        if not (folder / SOUNDS / name).is_file()
    ]
    if missing:
        raise UserError(f"{folder}: {len(missing)} sounds are gone", "make the test again")

    class Server(uvicorn.Server):
        """Stops by the house's own flag, which the second Ctrl-C overrides."""

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

        async def on_tick(self, counter: int) -> bool:
            return bool(stop()) or await super().on_tick(counter)

    with _alone(folder), Store(folder, create=True) as store, bound(host, port) as sock:
        made = store.add_listeners(listeners) if listeners else store.listeners()
        address = address_of(sock)
        root = (url or address).rstrip("/")
        config = uvicorn.Config(
            application(folder, test, store, most=invite),
            lifespan="off",
            http="h11",  # whose headers have a limit, whatever else is installed
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=1000,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=_GRACE_S,
            h11_max_incomplete_event_size=16_384,
            ws="none",
        )
        if ready is not None:
            personal = tuple(f"{root}/#{one.token}" for one in made)
            invitation = f"{root}/#join.{store.invitation}" if invite else ""
            ready(Links(address, personal, invitation, not is_loopback(sock)))
        Server(config).run(sockets=[sock])
        count = len(store.answers())
    if stop():
        raise Stopped(
            stop(), f"stopped; {count} answers are saved, run the same command again to go on"
        )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """The system lets go of the lock when the process ends, however it ends."""
    with (folder / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"another server has {folder} open", "use that one, or stop it first"
            ) from None
        yield
