"""Where a server listens: the socket, whether others can reach it, and its address."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

from tunesmith.errors import UserError


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes any that is free.

    Raises:
        UserError: it cannot.
    """
    sock = None
    try:
        found: Sequence = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, where = found[0]
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(where)
        sock.listen(512)
    except (OSError, OverflowError) as error:
        if sock is not None:
            sock.close()
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot listen on {host}:{port} ({reason})",
            "give another --port (0 takes a free one) or --host",
        ) from None
    return sock


def is_loopback(sock: socket.socket) -> bool:
    """Whether only this machine can reach it."""
    return ipaddress.ip_address(sock.getsockname()[0].split("%")[0]).is_loopback


def address_of(sock: socket.socket) -> str:
    """``http://...`` of a socket, as one would type it."""
    host, port = sock.getsockname()[:2]
    if ipaddress.ip_address(host.split("%")[0]).is_unspecified:
        host = socket.gethostname()  # 0.0.0.0 is no address to go to
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
