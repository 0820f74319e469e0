"""The page in a browser against the real server: both keep to one interface."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from moonlib.serving.app import create_app
from moonlib.serving.service import Service

from ..conftest import picture, title
from .conftest import until


@pytest.fixture
def address(service: Service) -> Iterator[str]:
    uvicorn = pytest.importorskip("uvicorn")
    server = uvicorn.Server(uvicorn.Config(create_app(service), host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def test_a_session_with_the_real_server(browser: Any, address: str) -> None:
    """Words, a photo, a part of it, a product like another, a filter, and a refusal at its field."""
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.set_default_timeout(120_000)
    messages: list[str] = []
    tab.on("console", lambda message: messages.append(message.text))
    tab.on("pageerror", lambda error: messages.append(str(error)))
    tab.goto(address)
    tab.wait_for_selector("body.ready")
    assert tab.inner_text("#served") == "40 products"

    def titles() -> list[str]:
        tab.wait_for_selector("#results:not([aria-busy]) .card:not(.waiting)")
        return tab.locator("h4").all_inner_texts()

    def asking(act: Any) -> list[str]:
        with tab.expect_response("**/v1/search"):
            act()
        return titles()

    def words(text: str) -> Any:
        tab.fill("#text", text)
        return lambda: tab.press("#text", "Enter")

    assert asking(words(title(7)))[0] == title(7)
    loaded = "[...document.querySelectorAll('.picture img')].slice(0, 5).every(image => image.naturalWidth)"
    until(tab, lambda: tab.evaluate(loaded))
    tab.fill("#text", "")
    photo = {"name": "7.jpg", "mimeType": "image/jpeg", "buffer": picture(7)}
    assert len(asking(lambda: tab.set_input_files("#file", photo))) == 20  # what this server allows at most
    tab.focus("#crop")
    assert len(asking(lambda: tab.keyboard.press("Shift+ArrowUp"))) == 20
    first = tab.locator(".card").first
    liked = first.locator("h4").inner_text()
    assert liked not in asking(first.locator(".alike").click)
    assert tab.inner_text("#like-title") == liked
    tab.fill("#where-price", "5")
    tab.fill("#where-price-to", "9")
    found = asking(lambda: tab.press("#where-price-to", "Enter"))
    assert set(found) | {liked} == {title(n) for n in range(5, 10)} | {liked}
    assert messages == []
    tab.click("#clear")
    words("x" * 300)()
    tab.wait_for_selector("#text-problem:visible")
    assert "200" in tab.inner_text("#text-problem")
    assert tab.get_attribute("#text", "aria-invalid") == "true"
    tab.close()
