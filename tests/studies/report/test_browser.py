"""The page as a browser shows it: Debian's Chromium, where it is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moonlib.studies.report import report


@pytest.fixture(scope="session")
def page(lineage: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(lineage[:2], tmp_path_factory.mktemp("browser") / "report.html")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_fits_and_asks_for_nothing(browser: Any, page: Path, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab = context.new_page()
    messages: list[str] = []
    asked: list[str] = []
    tab.on("console", lambda message: messages.append(message.text))
    tab.on("pageerror", lambda error: messages.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page.as_uri())
    assert messages == []
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert tab.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    # Nothing reaches over the edge but what scrolls inside its own box.
    beyond = """[...document.querySelectorAll('body *')].filter(
        element => !element.closest('.scroll, svg') && element.getBoundingClientRect().right > innerWidth + 1
    ).map(element => element.outerHTML.slice(0, 90))"""
    assert tab.evaluate(beyond) == []
    context.close()


def test_tables_are_read_without_javascript(browser: Any, page: Path) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 900}, java_script_enabled=False)
    tab = context.new_page()
    tab.goto(page.as_uri())
    table = tab.locator("table", has_text="Clicks, test days").first
    assert table.is_visible() and "AUC" in table.inner_text()
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(browser: Any, page: Path, scheme: str) -> None:
    """WCAG 2.2, success criterion 1.4.3: a contrast of at least 4.5."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
    tab = context.new_page()
    tab.goto(page.as_uri())
    poor = tab.evaluate("""() => {
        const light = rgb => rgb.map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
            .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0)
        const rgb = text => text.match(/[\\d.]+/g).map(Number)
        const ground = element => {
            for (; element; element = element.parentElement) {
                const colour = rgb(getComputedStyle(element).backgroundColor)
                if (colour.length < 4 || colour[3] > 0) return colour.slice(0, 3)
            }
            return [255, 255, 255]
        }
        return [...document.querySelectorAll('p, th, td, small, dt, dd, li, h1, h2, h3, a, summary, caption, svg text')]
            .filter(element => element.textContent.trim())
            .map(element => {
                const style = getComputedStyle(element)
                const ends = [light(rgb(element.ownerSVGElement ? style.fill : style.color)), light(ground(element))]
                const contrast = (Math.max(...ends) + .05) / (Math.min(...ends) + .05)
                return [element.tagName, contrast, element.textContent.slice(0, 40)]
            }).filter(found => found[1] < 4.5)
    }""")
    assert poor == []
    context.close()
