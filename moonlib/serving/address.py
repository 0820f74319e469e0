"""The address of a server. Nothing slow is imported: whoever starts one is told at once if it can't be had."""

from __future__ import annotations

import socket
from errno import EADDRINUSE


def bound(host: str, port: int) -> socket.socket:
    """A socket that is bound to an address, and does not listen yet: whoever connects meanwhile is refused.

    Args:
        host: a name or an address; ``0.0.0.0`` for all of this machine's.
        port: 0 for a free one.

    Raises:
        OSError: the address is in use, or not this machine's; its ``filename`` is the address.
        ValueError: there is no such port.
    """
    if not 0 <= port <= 65_535:  # or the system would take what is left of it after 65536
        raise ValueError(f"port {port}: expected 0 to 65535")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise OSError(error.errno, error.strerror, host) from None
    family, kind, _, _, address = found[0]
    made = socket.socket(family, kind)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError as error:
        made.close()
        what = "in use; choose another port, or 0 for a free one" if error.errno == EADDRINUSE else error.strerror
        raise OSError(error.errno, what, f"{host}:{port}") from None
    return made
