from __future__ import annotations

import socket

import pytest

from moonlib.serving.address import bound


def test_an_address_in_use_is_named() -> None:
    with bound("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use; choose another port") as caught:
            bound("127.0.0.1", port)
        assert caught.value.filename == f"127.0.0.1:{port}"


def test_nobody_connects_before_the_server_listens() -> None:
    with bound("127.0.0.1", 0) as made, pytest.raises(ConnectionRefusedError):
        socket.create_connection(made.getsockname(), timeout=5)


def test_what_is_no_address_is_named() -> None:
    with pytest.raises(ValueError, match="port 99999: expected 0 to 65535"):
        bound("127.0.0.1", 99_999)
    with pytest.raises(OSError) as caught:
        bound("192.0.2.1", 0)  # of a network for documents
    assert caught.value.filename == "192.0.2.1:0"
