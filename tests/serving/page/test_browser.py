"""The page in a browser, against a stand-in for the server: Debian's Chromium, where it is installed."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from .conftest import LARGE, StandIn, until


def photo(width: int = 80, height: int = 60, kind: str = "jpeg") -> bytes:
    content = io.BytesIO()
    Image.radial_gradient("L").resize((width, height)).convert("RGB").save(content, kind)
    return content.getvalue()


@pytest.fixture
def server(stand_in: tuple[StandIn, str]) -> StandIn:
    stand_in[0].reset()
    return stand_in[0]


@pytest.fixture(scope="module")
def messages() -> list[str]:
    """What the browser's console says, policy violations included; a test that expects some clears them."""
    return []


@pytest.fixture(scope="module")
def asked() -> list[str]:
    """URLs that the page asked for."""
    return []


@pytest.fixture(scope="module")
def tabs(browser: Any, messages: list[str], asked: list[str]) -> dict[str, Any]:
    """A tab like a desk's and one like a phone's."""
    tabs = {
        "desk": browser.new_page(viewport={"width": 1280, "height": 900}),
        "phone": browser.new_page(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True),
    }
    for tab in tabs.values():
        tab.set_default_timeout(120_000)
        tab.on("console", lambda message: messages.append(message.text))
        tab.on("pageerror", lambda error: messages.append(str(error)))
        tab.on("request", lambda sent: asked.append(sent.url))
    return tabs


@pytest.fixture
def tab(
    tabs: Any, stand_in: tuple[StandIn, str], server: StandIn, messages: list[str], asked: list[str], request: Any
) -> Iterator[Any]:
    """The page, just opened; in a phone's tab where the test's parameter says so."""
    tab = tabs[getattr(request, "param", "desk")]
    tab.goto(stand_in[1])
    tab.wait_for_selector("body.ready")
    yield tab
    tab.unroute_all()
    tab.evaluate("localStorage.clear()")
    found = messages.copy(), [url for url in asked if not url.startswith((stand_in[1], "blob:"))]
    messages.clear()
    asked.clear()
    assert found == ([], [])


def titles(tab: Any, column: int = 0) -> list[str]:
    tab.wait_for_selector("#results:not([aria-busy]) .card:not(.waiting)")
    return tab.locator(".column").nth(column).locator("h4").all_inner_texts()


def search(tab: Any, words: str) -> list[str]:
    tab.fill("#text", words)
    tab.press("#text", "Enter")
    return titles(tab)


def settled(tab: Any, server: StandIn, count: int) -> dict[str, Any]:
    """Wait for so many searches to be answered, and return what the last one asked."""
    for _ in range(200):
        if len(server.asked) >= count and not tab.locator("#results[aria-busy]").count():
            break
        tab.wait_for_timeout(20)
    assert len(server.asked) == count
    return server.asked[-1]


def test_words(tab: Any, server: StandIn) -> None:
    found = search(tab, "blue lamp")
    assert found[0] == "blue lamp"
    assert server.asked == [{"text": "blue lamp", "k": "24"}]
    card = tab.locator(".card").first
    for said in ["60.00", "Home › Lamps", "cosine 0.900", "More like this"]:
        assert said in card.inner_text()
    assert card.locator("img").count() == 0  # no picture: a placeholder
    assert "12 products · old@000007" in tab.inner_text("#status")
    boots = tab.locator(".card", has_text="red boots").locator("img")
    boots.scroll_into_view_if_needed()
    until(tab, lambda: boots.evaluate("image => image.complete && image.naturalWidth > 0"))
    assert boots.get_attribute("loading") == "lazy"


def test_the_address_keeps_words_and_filters(tab: Any, server: StandIn) -> None:
    search(tab, "red & blue")
    tab.fill("#where-price", "20")
    tab.press("#where-price", "Enter")
    settled(tab, server, 2)
    first = tab.url
    assert "q=red+%26+blue" in first and "where.price=20" in first
    search(tab, "grey")
    tab.go_back()
    assert settled(tab, server, 4) == {"text": "red & blue", "where": '{"price": {"gte": 20}}', "k": "24"}
    assert tab.url == first
    tab.reload()
    settled(tab, server, 5)
    assert tab.input_value("#text") == "red & blue" and tab.input_value("#where-price") == "20"


def test_a_chosen_file(tab: Any, server: StandIn) -> None:
    tab.set_input_files("#file", {"name": "mine.jpg", "mimeType": "image/jpeg", "buffer": photo()})
    titles(tab)
    assert server.asked == [{"image": photo(), "k": "24"}]
    assert tab.locator("#photo-image").is_visible()
    tab.click("#remove")
    tab.wait_for_selector("body[data-view=welcome]")
    assert tab.evaluate("document.activeElement.id") == "choose"


@pytest.mark.parametrize("tab", ["phone"], indirect=True)
def test_a_phone_offers_its_camera(tab: Any, server: StandIn) -> None:
    assert tab.locator("#camera").is_visible()
    assert tab.get_attribute("#shot", "capture") == "environment"
    with tab.expect_file_chooser() as chooser:
        tab.tap("#camera")
    chooser.value.set_files({"name": "shot.jpg", "mimeType": "image/jpeg", "buffer": photo()})
    settled(tab, server, 1)


GIVE = """([event, type, content]) => {
    const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0))
    const data = new DataTransfer()
    data.items.add(new File([bytes], "given", {type}))
    const init = {bubbles: true, cancelable: true}
    document.body.dispatchEvent(event === "paste"
        ? new ClipboardEvent("paste", {...init, clipboardData: data})
        : new DragEvent(event, {...init, dataTransfer: data}))
}"""


def give(tab: Any, event: str, content: bytes, kind: str = "image/png") -> None:
    tab.evaluate(GIVE, [event, kind, base64.b64encode(content).decode()])


def test_a_pasted_photo(tab: Any, server: StandIn) -> None:
    give(tab, "paste", photo(kind="png"))
    titles(tab)
    assert server.asked[0]["image"] == photo(kind="png")


def test_pasted_words_stay_words(tab: Any, server: StandIn) -> None:
    tab.focus("#text")
    tab.evaluate("document.execCommand('insertText', false, 'red')")
    assert tab.input_value("#text") == "red" and server.asked == []


def test_a_dropped_photo(tab: Any, server: StandIn) -> None:
    give(tab, "dragenter", photo())
    assert tab.locator("#drop").is_visible()
    give(tab, "dragleave", photo())
    assert not tab.locator("#drop").is_visible()
    give(tab, "dragenter", photo())
    give(tab, "drop", photo(), "image/jpeg")
    titles(tab)
    assert server.asked[0]["image"] == photo()
    assert not tab.locator("#drop").is_visible()


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        (b"words", "text/plain", "This file isn't a picture."),
        (b"no picture", "image/png", "This file isn't a picture that the browser can read."),
        (b"", "image/png", "This file is empty."),
    ],
)
def test_what_is_no_photo_is_not_sent(tab: Any, server: StandIn, content: bytes, kind: str, said: str) -> None:
    give(tab, "drop", content, kind)
    tab.wait_for_selector("#photo-problem:visible")
    assert tab.inner_text("#photo-problem") == said
    assert server.asked == []


def test_a_photo_over_the_limits_is_made_smaller_and_said_to_be(tab: Any, server: StandIn) -> None:
    large = photo(3000, 2000, "png")
    assert len(large) > 100_000 or server.about["limits"]["max_pixels"] < 3000 * 2000
    tab.set_input_files("#file", {"name": "large.png", "mimeType": "image/png", "buffer": large})
    titles(tab)
    sent = Image.open(io.BytesIO(server.asked[0]["image"]))
    assert len(server.asked[0]["image"]) <= 100_000 and sent.width * sent.height <= 4_000_000
    assert sent.width / sent.height == pytest.approx(1.5, abs=0.01)
    assert "Made smaller" in tab.inner_text("#photo-note")


def test_crop_with_the_mouse(tab: Any, server: StandIn) -> None:
    tab.set_input_files("#file", {"name": "mine.jpg", "mimeType": "image/jpeg", "buffer": photo(200, 200)})
    settled(tab, server, 1)
    area = tab.locator("#stage").bounding_box()

    def drag(start: tuple[float, float], end: tuple[float, float]) -> None:
        for step, (x, y) in enumerate([start, end]):
            tab.mouse.move(area["x"] + x * area["width"], area["y"] + y * area["height"], steps=2)
            tab.mouse.up() if step else tab.mouse.down()

    def corners(count: int) -> list[float]:
        return [float(part) for part in settled(tab, server, count)["crop"].split(",")]

    drag((0.96, 0.96), (0.56, 0.66))  # a corner
    assert corners(2) == pytest.approx([0, 0, 0.6, 0.7], abs=0.02)
    drag((0.3, 0.3), (0.5, 0.5))  # the box
    assert corners(3) == pytest.approx([0.2, 0.2, 0.8, 0.9], abs=0.02)
    drag((0.5, 0.5), (1.5, 1.5))  # no farther than the photo
    assert corners(4) == pytest.approx([0.4, 0.3, 1, 1], abs=0.02)
    drag((0.05, 0.05), (0.35, 0.25))  # another box
    assert corners(5) == pytest.approx([0.05, 0.05, 0.35, 0.25], abs=0.02)
    tab.click("#whole")
    assert "crop" not in settled(tab, server, 6)


def test_crop_with_the_keyboard(tab: Any, server: StandIn) -> None:
    tab.set_input_files("#file", {"name": "mine.jpg", "mimeType": "image/jpeg", "buffer": photo(200, 200)})
    settled(tab, server, 1)
    tab.focus("#crop")
    for key in ["Shift+ArrowLeft", "Shift+ArrowLeft", "Shift+ArrowUp", "ArrowRight"]:
        tab.keyboard.press(key)
    assert settled(tab, server, 2)["crop"] == "0.0200,0.0000,0.9800,0.9800"  # one search, after the last key
    assert tab.inner_text("#crop-where") == "From 2 % to 98 % across, 0 % to 98 % down"
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.dataset.corner") == "nw"
    tab.keyboard.press("ArrowDown")
    assert settled(tab, server, 3)["crop"] == "0.0200,0.0200,0.9800,0.9800"
    tab.keyboard.press("Escape")
    assert "crop" not in settled(tab, server, 4)


@pytest.mark.parametrize("tab", ["phone"], indirect=True)
def test_crop_with_a_finger(tab: Any, server: StandIn) -> None:
    tab.set_input_files("#file", {"name": "mine.jpg", "mimeType": "image/jpeg", "buffer": photo(200, 200)})
    settled(tab, server, 1)
    tab.locator("#stage").scroll_into_view_if_needed()
    area = tab.locator("#stage").bounding_box()
    right, bottom = area["x"] + area["width"], area["y"] + area["height"]
    session = tab.context.new_cdp_session(tab)
    for kind, points in [
        ("touchStart", [{"x": right - 8, "y": bottom - 8}]),
        ("touchMove", [{"x": right - 8 - area["width"] / 2, "y": bottom - 8 - area["height"] / 4}]),
        ("touchEnd", []),
    ]:
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    crop = [float(part) for part in settled(tab, server, 2)["crop"].split(",")]
    assert crop == pytest.approx([0, 0, 0.5, 0.75], abs=0.02)


def test_more_like_this(tab: Any, server: StandIn) -> None:
    search(tab, "blue")
    tab.get_by_role("button", name="More like this: grey sandals").click()
    tab.wait_for_selector("#like:visible")
    # An id above 2 ** 53 keeps its last digit.
    assert settled(tab, server, 2) == {"like": str(LARGE + 7), "k": "24"}
    assert titles(tab)[0] == "grey boots"
    assert tab.inner_text("#like-title") == "grey sandals"
    assert tab.evaluate("document.activeElement.id") == "results"
    tab.reload()
    assert settled(tab, server, 3)["like"] == str(LARGE + 7)
    titles(tab)
    assert tab.inner_text("#like-title") == "grey sandals"
    tab.click("#like-remove")
    tab.wait_for_selector("body[data-view=welcome]")


def test_filters(tab: Any, server: StandIn) -> None:
    assert len(search(tab, "red")) == 12
    labels = tab.locator("#fields .label").all_inner_texts()
    assert labels == ["Category", "Price", "In stock", "Merchant"]
    options = tab.evaluate("[...document.getElementById('categories').options].map(option => option.value)")
    assert options == ["Home", "Home/Lamps", "Shoes", "Shoes/Boots", "Shoes/Sandals"]
    tab.fill("#where-category", "Shoes")
    tab.press("#where-category", "Enter")
    settled(tab, server, 2)
    tab.fill("#where-price", "15")
    tab.fill("#where-price-to", "40")
    tab.select_option("#where-in_stock", "true")
    tab.fill("#where-merchant_id", "1, 4,3 ,9")
    tab.press("#where-merchant_id", "Enter")
    until(tab, lambda: tab.locator(".card:not(.waiting)").count() == 3)
    assert json.loads(server.asked[-1]["where"]) == {
        "category": "Shoes",
        "price": {"gte": 15, "lte": 40},
        "in_stock": True,
        "merchant_id": [1, 4, 3, 9],
    }
    assert tab.inner_text("#filter-count") == "4"
    tab.click("#clear")
    until(tab, lambda: tab.locator(".card:not(.waiting)").count() == 12)


def test_a_filter_that_makes_no_sense_is_said_so_and_not_sent(tab: Any, server: StandIn) -> None:
    search(tab, "red")
    for low, high, said in [("cheap", "", "Price: a number, such as 20."), ("30", "20", "Price: 30 is more than 20.")]:
        tab.fill("#where-price", low)
        tab.fill("#where-price-to", high)
        tab.press("#where-price-to", "Enter")
        assert tab.inner_text("#where-problem") == said
        assert tab.get_attribute("#where-price", "aria-invalid") == "true"
    assert all("price" not in asked.get("where", "") or "gte" in asked["where"] for asked in server.asked)


def test_two_aliases_side_by_side(tab: Any, server: StandIn) -> None:
    search(tab, "red boots")
    tab.select_option("#beside", "v2")
    settled(tab, server, 3)
    left, right = titles(tab, 0), titles(tab, 1)
    assert {asked.get("alias") for asked in server.asked[1:]} == {None, "v2"}
    assert left[:2] == right[1::-1]
    columns = tab.locator(".column")
    moves = [columns.nth(side).locator(".move").all_inner_texts() for side in (0, 1)]
    assert moves[0][:3] == ["2nd in v2", "1st in v2", "same place"] and moves[0][5] == "not in v2"
    assert moves[1][:3] == ["▲ 1, was 2nd", "▼ 1, was 1st", "same place"]
    assert tab.inner_text("#status") == "11 in both lists · 7 up · 1 down · 1 only in v1"
    assert "old@000007" in columns.nth(0).inner_text() and "new@000002" in columns.nth(1).inner_text()
    columns.nth(1).locator(".card").nth(0).hover()
    assert columns.nth(0).locator(".card.lit h4").all_inner_texts() == [right[0]]
    assert "beside=v2" in tab.url
    tab.reload()
    assert titles(tab, 1) == right


def test_one_alias_leaves_nothing_to_compare(tab: Any, server: StandIn) -> None:
    server.about |= {"alias": "live", "aliases": [{"name": "live"}], "columns": {}}
    tab.reload()
    tab.wait_for_selector("body.ready")
    search(tab, "red")
    assert not tab.locator("#refine").is_visible()


def test_an_encoder_of_words_only_asks_for_no_photo(tab: Any, server: StandIn) -> None:
    server.about["reads"] = ["text"]
    tab.reload()
    tab.wait_for_selector("body.ready")
    assert not tab.locator("#choose").is_visible() and not tab.locator("#camera").is_visible()
    give(tab, "paste", photo())
    tab.wait_for_selector("#photo-problem:visible")
    assert server.asked == []


@pytest.mark.parametrize(
    ("status", "error", "place", "said"),
    [
        (422, {"code": "bad_image", "field": "image", "message": "not a picture"}, "photo-problem", "not a picture"),
        (422, {"code": "bad_crop", "field": "crop", "message": "empty crop"}, "crop-problem", "empty crop"),
        (422, {"code": "bad_text", "field": "text", "message": "too long"}, "text-problem", "too long"),
        (
            422,
            {"code": "bad_where", "field": "where", "message": "column 'price' is"},
            "where-problem",
            "column 'price' is",
        ),
        (404, {"code": "no_alias", "field": "alias", "message": "no alias"}, "alias-problem", "no alias"),
        (404, {"code": "no_item", "field": "like", "message": "no product 7"}, None, "no product 7"),
        (413, {"code": "too_large", "field": "image", "message": "over 5 MB"}, "photo-problem", "over 5 MB"),
        (429, {"code": "busy", "message": "queue is full"}, None, "Try again in 2 s."),
        (503, {"code": "loading", "message": ""}, None, "isn't ready yet"),
        (504, {"code": "timeout", "message": ""}, None, "didn't answer in time"),
        (500, {"code": "internal", "message": ""}, None, "It logged the reason under request 9f3c."),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else None,
)
def test_refusals(
    tab: Any, server: StandIn, messages: list[str], status: int, error: dict[str, str], place: str | None, said: str
) -> None:
    tab.set_input_files("#file", {"name": "mine.jpg", "mimeType": "image/jpeg", "buffer": photo()})
    settled(tab, server, 1)
    server.fails = (status, error)
    tab.fill("#text", "red")
    tab.press("#text", "Enter")
    tab.wait_for_selector("#alert:visible")
    assert said in tab.inner_text("#alert")
    assert tab.locator(".card").count() == 0 and tab.inner_text("#status") == ""
    if place:
        assert tab.inner_text(f"#{place}") == said
    if error.get("field") == "where":
        assert tab.get_attribute("#where-price", "aria-invalid") == "true"
    again = tab.get_by_role("button", name="Try again")
    assert again.count() == (status in (429, 503, 504, 500))
    server.fails = None
    again.click() if again.count() else tab.click("#go")
    assert len(titles(tab)) == 12
    assert not tab.locator("#alert").is_visible() and not tab.locator("[aria-invalid]").count()
    assert all(f"status of {status}" in message for message in messages)  # the browser's own words
    messages.clear()


def test_one_of_two_lists_fails_alone(tab: Any, server: StandIn, messages: list[str]) -> None:
    search(tab, "red")
    tab.route(
        "**/v1/search",
        lambda route: (
            route.fulfill(status=504, body="") if "v2" in (route.request.post_data or "") else route.continue_()
        ),
    )
    tab.select_option("#beside", "v2")
    tab.wait_for_selector(".column .notice:visible")
    assert len(titles(tab, 0)) == 12 and tab.locator(".column").nth(1).locator(".card").count() == 0
    assert tab.inner_text("#status") == "v1 alone answered"
    messages.clear()


def test_offline_and_back(tab: Any, server: StandIn, messages: list[str]) -> None:
    tab.context.set_offline(True)
    tab.fill("#text", "red")
    tab.press("#text", "Enter")
    tab.wait_for_selector("#alert:visible")
    assert "This device is offline." in tab.inner_text("#alert")
    tab.context.set_offline(False)
    assert len(titles(tab)) == 12  # without a press
    messages.clear()


def test_a_server_that_is_gone_when_the_page_opens(tab: Any, messages: list[str]) -> None:
    tab.route("**/v1/about", lambda route: route.abort())
    tab.reload()
    tab.wait_for_selector("#alert:visible")
    assert "can't be reached" in tab.inner_text("#alert")
    tab.unroute("**/v1/about")
    tab.get_by_role("button", name="Try again").click()
    tab.wait_for_selector("body.ready")
    messages.clear()


def test_nothing_found_says_what_to_do(tab: Any, server: StandIn) -> None:
    server.empty = True
    tab.fill("#text", "red")
    tab.press("#text", "Enter")
    tab.wait_for_selector(".column .notice:visible")
    assert "Try other words" in tab.inner_text(".column .notice")
    tab.fill("#where-category", "Hats")
    tab.press("#where-category", "Enter")
    tab.wait_for_selector("text=No product passes these filters.")
    server.empty = False
    tab.get_by_role("button", name="Clear the filters").click()
    assert len(titles(tab)) == 12


def test_a_slow_answer_is_waited_for_and_a_late_one_ignored(tab: Any, server: StandIn) -> None:
    server.holds = "red boots"
    tab.fill("#text", "red boots")
    tab.press("#text", "Enter")
    tab.wait_for_selector(".card.waiting")
    assert tab.inner_text("#status") == "Searching…"
    assert tab.get_attribute("#results", "aria-busy") == "true"
    tab.fill("#text", "blue lamp")
    tab.press("#text", "Enter")
    assert titles(tab)[0] == "blue lamp"
    server.holds = ""
    until(tab, lambda: server.held == 1)
    tab.wait_for_timeout(200)
    assert titles(tab)[0] == "blue lamp"


def test_nothing_asked(tab: Any, server: StandIn) -> None:
    tab.click("#go")
    assert tab.inner_text("#text-problem") == "Type what you are looking for, or add a photo."
    assert tab.evaluate("document.activeElement.id") == "text"
    assert server.asked == []


def test_keyboard_only(tab: Any, server: StandIn) -> None:
    """From opening the page to a product like one that was found, without a pointer."""
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    seen = []
    while (here := tab.evaluate("document.activeElement.id")) != "text":
        seen.append(here)
        tab.keyboard.press("Tab")
    assert "theme" in seen
    tab.keyboard.type("red boots")
    tab.keyboard.press("Enter")
    titles(tab)
    for _ in range(20):
        tab.keyboard.press("Tab")
        if name := tab.evaluate("document.activeElement.getAttribute('aria-label')"):
            outline = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline == "solid"
            if name == "More like this: red boots":
                break
    tab.keyboard.press("Enter")
    assert settled(tab, server, 2)["like"] == str(LARGE)


def test_every_control_has_a_name_and_no_id_is_doubled(tab: Any, server: StandIn) -> None:
    tab.set_input_files("#file", {"name": "mine.jpg", "mimeType": "image/jpeg", "buffer": photo()})
    settled(tab, server, 1)
    tab.select_option("#beside", "v2")
    settled(tab, server, 3)
    session = tab.context.new_cdp_session(tab)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    controls = {"button", "textbox", "searchbox", "combobox", "listitem", "application", "heading", "region", "form"}
    named = [(node["role"]["value"], node.get("name", {}).get("value")) for node in nodes if not node["ignored"]]
    assert [node for node in named if node[0] in controls - {"listitem"} and not node[1]] == []
    assert {"application", "searchbox", "combobox", "status"} <= {role for role, _ in named}
    ids = tab.evaluate("[...document.querySelectorAll('[id]')].map(element => element.id)")
    assert len(ids) == len(set(ids))
    described = tab.evaluate("""[...document.querySelectorAll('*')].flatMap(element => [
        element.getAttribute('aria-describedby'), element.getAttribute('aria-labelledby'), element.htmlFor
    ].filter(value => typeof value === 'string').flatMap(value => value.split(' ').filter(Boolean)))""")
    assert described
    assert set(described) <= set(ids)


def test_dark_by_the_system_and_by_the_switch(tab: Any, server: StandIn) -> None:
    def ground() -> str:
        return tab.evaluate("getComputedStyle(document.body).backgroundColor")

    light = ground()
    tab.emulate_media(color_scheme="dark")
    tab.wait_for_selector("#theme[aria-pressed=true]")
    assert ground() != light
    tab.click("#theme")
    assert ground() == light and tab.get_attribute("#theme", "aria-pressed") == "false"
    tab.reload()
    tab.wait_for_selector("body.ready")
    assert ground() == light  # kept
    tab.emulate_media(color_scheme="light")


CONTRAST = """() => {
    const rgb = text => text.match(/[\\d.]+/g).map(Number)
    const light = parts => parts.slice(0, 3).map(v => v / 255)
        .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0)
    const ground = element => {
        for (; element; element = element.parentElement) {
            const colour = rgb(getComputedStyle(element).backgroundColor)
            if (colour.length < 4 || colour[3] > 0) return colour
        }
    }
    return [...document.querySelectorAll('h1, h2, h3, h4, p, label, button, summary, .label, .number, select, input')]
        .filter(element => element.checkVisibility() && !element.disabled)
        .filter(element => element.textContent.trim() || element.value)
        .map(element => {
            const ends = [light(rgb(getComputedStyle(element).color)), light(ground(element))]
            const contrast = (Math.max(...ends) + .05) / (Math.min(...ends) + .05)
            return [element.tagName, element.textContent.slice(0, 40), contrast]
        }).filter(found => found[2] < 4.5)
}"""

BEYOND = """[...document.querySelectorAll('body *')].filter(element =>
    !element.closest('.unseen, .skip, .symbols') && element.checkVisibility()
    && element.getBoundingClientRect().right > innerWidth + 1).map(element => element.outerHTML.slice(0, 90))"""


@pytest.mark.parametrize("tab", ["phone", "desk"], indirect=True)
def test_fits_and_stands_out(tab: Any, server: StandIn, messages: list[str]) -> None:
    """No scrolling sideways in any state, and text of a contrast of 4.5 at least (WCAG 2.2, 1.4.3)."""
    server.products[0]["title"] = "red boots " + "Donaudampfschifffahrtsgesellschaftskapitän" * 2
    size = tab.viewport_size

    def fits() -> None:
        for width in (320, 360) if size["width"] == 360 else (768, 1280):
            tab.set_viewport_size({**size, "width": width})
            assert tab.evaluate("document.documentElement.scrollWidth") == width
            assert tab.evaluate(BEYOND) == []
        for scheme in ("dark", "light"):
            tab.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            assert tab.evaluate(CONTRAST) == []

    try:
        fits()
        search(tab, "red")
        fits()
        tab.fill("#text", "")
        tab.set_input_files("#file", {"name": "mine.jpg", "mimeType": "image/jpeg", "buffer": photo(900, 300)})
        settled(tab, server, 2)
        tab.evaluate("document.getElementById('refine').open = true")
        fits()
        tab.select_option("#beside", "v2")
        settled(tab, server, 4)
        fits()
        server.fails = (422, {"field": "where", "message": "Donaudampfschifffahrtsgesellschaft" * 4})
        tab.fill("#text", "red")
        tab.press("#text", "Enter")
        tab.wait_for_selector("#alert:visible")
        fits()
        messages.clear()
    finally:
        server.products[0]["title"] = "red boots"
        tab.set_viewport_size(size)


def test_show_more(tab: Any, server: StandIn) -> None:
    server.about["limits"]["k"] = 200
    assert not tab.locator("#further").is_visible()
    kept = server.products
    server.products = [{**row, "item_id": LARGE + i} for i, row in enumerate(kept * 3)]
    try:
        assert len(search(tab, "red")) == 24
        tab.click("#further")
        settled(tab, server, 2)
        assert len(titles(tab)) == 36 and server.asked[-1]["k"] == "48"
        assert tab.evaluate("[...document.querySelectorAll('.alike')].indexOf(document.activeElement)") == 24
        assert not tab.locator("#further").is_visible()
    finally:
        server.products = kept


def test_what_a_title_holds_is_shown_and_never_run(tab: Any, server: StandIn) -> None:
    evil = "red <img src=x onerror=alert(1)><script>alert(2)</script>"
    server.products[0]["title"] = evil
    try:
        assert search(tab, "red")[0] == evil
        tab.locator(".alike").first.click()
        settled(tab, server, 2)
        assert tab.inner_text("#like-title") == evil
    finally:
        server.products[0]["title"] = "red boots"


def test_reads_without_javascript(browser: Any, stand_in: tuple[StandIn, str]) -> None:
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(stand_in[1])
    assert re.search("switched off", tab.inner_text("body"))
    context.close()
