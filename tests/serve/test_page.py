"""The page of a real server in a real browser: a picture is dropped, guesses or a refusal appear.

It needs Chromium and playwright, which the other tests do not: `pip install playwright`, without its own browsers.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Server, serving

from alexnet_deploy.core.bundle.store import Bundle

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; the page was not opened")

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

# Relative luminance and contrast as in WCAG 2.2, 1.4.3; text is what has a text node of its own.
CONTRAST = """() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const found = parts(getComputedStyle(e).backgroundColor);
      if (found.length < 4 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const holdsText = (e) => [...e.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  return [...document.querySelectorAll("body *")].filter(holdsText)
    .filter((e) => e.offsetParent && !["SCRIPT", "STYLE", "OPTION"].includes(e.tagName)).map((e) => {
      const [a, b] = [light(parts(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
      return [e.tagName, e.textContent.trim().slice(0, 30), (a + 0.05) / (b + 0.05)];
    });
}"""


@pytest.fixture(scope="module")
def server(bundle: Bundle, features_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed; the page was not opened")
    with serving(tmp_path_factory.mktemp("server"), f"net={bundle.path}", features_bundle.path) as started:
        yield started


@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_picture_gets_its_guesses_and_a_text_its_refusal(
    width: int, scheme: str, server: Server, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "letter.jpg").write_text("Dear reader")
    with playwright.sync_playwright() as session:
        browser = session.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(server.url)
        page.wait_for_selector("#facts dd")
        assert "golden images: within" in page.inner_text("#facts")
        page.set_input_files("#file", images / "a.jpg")
        page.wait_for_selector("#result li")
        bars = page.query_selector_all("#result li")
        assert len(bars) == 4
        widths = [bar.eval_on_selector("i", "bar => bar.getBoundingClientRect().width") for bar in bars]
        assert widths == sorted(widths, reverse=True)
        assert page.inner_text("#result").count("%") == 4
        low = [found for found in page.evaluate(CONTRAST) if found[2] < 4.5]
        assert low == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.screenshot(path=str(tmp_path / f"{width}-{scheme}.png"), full_page=True)
        assert problems == []
        page.set_input_files("#file", tmp_path / "letter.jpg")
        page.wait_for_selector("#result .error")
        assert "not_an_image: " in page.inner_text("#result")
        page.select_option("#model", index=1)
        assert "features of fc7" in page.inner_text("#facts")
        page.set_input_files("#file", images / "b.jpg")
        page.wait_for_selector("#result .error:has-text('have no classes')")
        # Each control has a name, and nothing was asked of another server.
        unnamed = "e => ![...(e.labels ?? [])].some((label) => label.textContent.trim()) && !e.ariaLabel"
        assert page.eval_on_selector_all("select, input", f"found => found.filter({unnamed}).length") == 0
        assert all(url.startswith((server.url, "blob:")) for url in asked)
        browser.close()
