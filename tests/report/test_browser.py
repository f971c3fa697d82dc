"""The page in Chromium, opened from the disk: pictures, layers, keyboard, viewer, switches, no injection, no error."""

from __future__ import annotations

import base64
import io
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from pipeline.data.results import load_results
from stages.report.sources import table_of
from stages.report.stage import report
from tests.report.conftest import INJECTIONS, Measured

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="found no chromium with chromedriver"),
]

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--window-size=1280,900"),
)


@pytest.fixture(scope="module")
def page(measured: Measured, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "a page #1.html"
    report([table_of(measured.results, load_results(measured.results))], out, against="rule paper", images=4)
    return out


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium: Any, page: Path) -> Iterator[Any]:
    """The page, freshly opened at 1280 x 900 with light colours; afterwards no error may be in its console."""
    emulate(chromium)
    chromium.get(page.as_uri())
    chromium.execute_script("localStorage.clear()")
    chromium.get("about:blank")
    chromium.get_log("browser")
    chromium.get(page.as_uri())
    wait(chromium, lambda: not is_black(canvas(chromium)))
    yield chromium
    assert [entry["message"] for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert chromium.execute_script("return window.hacked") is None


def emulate(driver: Any, width: int = 1280, *, dark: bool = False, still: bool = False) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [
        {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
        {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"},
    ]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def wait(driver: Any, condition: Callable[[], object]) -> None:
    WebDriverWait(driver, 20, 0.05).until(lambda _: condition())


def canvas(driver: Any) -> np.ndarray:
    """The picture that is shown flat: RGB uint8 `(H, W, 3)`."""
    url = driver.execute_script("return document.querySelector('.flat canvas').toDataURL('image/png')")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"))


def screenshot(element: Any) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(element.screenshot_as_png)).convert("RGB"))


def is_black(picture: np.ndarray) -> bool:
    return bool(picture.max() < 8)


def find(driver: Any, selector: str) -> Any:
    return driver.find_element(By.CSS_SELECTOR, selector)


def find_all(driver: Any, selector: str) -> list[Any]:
    return list(driver.find_elements(By.CSS_SELECTOR, selector))


def click(driver: Any, element: Any) -> None:
    driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
    element.click()


def choose_layer(driver: Any, name: str) -> np.ndarray:
    """Switches to a layer and returns the picture."""
    before = canvas(driver)
    click(driver, find(driver, f".layers input[value='{name}']"))
    wait(driver, lambda: not np.array_equal(before, canvas(driver)))
    return canvas(driver)


def test_it_opens_fast_and_asks_nobody(browser: Any, page: Path) -> None:
    browser.get_log("performance")
    start = time.monotonic()
    browser.get(page.as_uri())
    wait(browser, lambda: not is_black(canvas(browser)))
    assert time.monotonic() - start < 2
    urls = [
        entry["message"] for entry in browser.get_log("performance") if 'Network.requestWillBeSent"' in entry["message"]
    ]
    assert not [message for message in urls if '"url":"http' in message]


def test_layers_change_the_picture(browser: Any) -> None:
    pictures = {"": choose_layer(browser, "")}
    for name in ("masks", "boundary", "ta", "ensemble", "weight", "truth", "error-ensemble"):
        pictures[name] = choose_layer(browser, name)
    assert len({picture.tobytes() for picture in pictures.values()}) == len(pictures)
    assert find(browser, ".legend").text.splitlines() == ["wrong", "not labelled"]


def test_opacity_and_palette(browser: Any) -> None:
    choose_layer(browser, "truth")  # of one class
    slider = find(browser, ".opacity input")
    click(browser, slider)
    slider.send_keys(Keys.END)
    wait(browser, lambda: find(browser, ".opacity output").text == "100 %")
    full = canvas(browser)
    colours = {tuple(colour) for colour in full.reshape(-1, 3)[::97].tolist()}
    assert colours == {(128, 64, 128)}, "road"
    slider.send_keys(Keys.HOME)
    wait(browser, lambda: find(browser, ".opacity output").text == "0 %")
    photo = canvas(browser)
    assert photo.std() > 10
    slider.send_keys(Keys.END)
    wait(browser, lambda: not np.array_equal(photo, canvas(browser)))
    Select(find(browser, "#palette")).select_by_value("safe")
    wait(browser, lambda: not np.array_equal(full, canvas(browser)))
    assert len(np.unique(canvas(browser).reshape(-1, 3), axis=0)) == 1
    assert find(browser, ".legend").text.splitlines()[0] == "road"


def test_the_keyboard_reaches_everything(browser: Any) -> None:
    focused: list[str] = []
    for _ in range(60):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        element = browser.switch_to.active_element
        focused.append(f"{element.tag_name} {element.get_attribute('class') or element.get_attribute('type') or ''}")
        if element.get_attribute("class") == "turn-switch":
            break
    expected = ["a skip", "a home", "select", "button thumb", "input radio", "input range", "button turn-switch"]
    places = [next((k for k, name in enumerate(focused) if name.startswith(wanted)), None) for wanted in expected]
    assert None not in places, (expected, focused)
    assert places == sorted(places)  # type: ignore[type-var]
    radio = find(browser, ".layers input[value='ensemble']")
    browser.execute_script("arguments[0].focus()", radio)
    before = canvas(browser)
    radio.send_keys(Keys.ARROW_LEFT)
    wait(browser, lambda: not np.array_equal(before, canvas(browser)))
    assert browser.switch_to.active_element.get_attribute("value") == "ta"
    focus = browser.execute_script("return getComputedStyle(document.activeElement.nextElementSibling).outlineStyle")
    assert focus == "solid"


def test_the_viewer_shows_the_panorama_and_turns(browser: Any) -> None:
    click(browser, find(browser, ".turn-switch"))
    box = find(browser, ".turn")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", box)
    wait(browser, lambda: box.is_displayed() and screenshot(box).std() > 5)
    before = screenshot_at_rest(browser, box)
    actions = webdriver.ActionChains(browser, duration=50)
    actions.move_to_element(box).click_and_hold().move_by_offset(-200, 0).release().perform()
    wait(browser, lambda: changed(before, screenshot(box)))
    settled = screenshot_at_rest(browser, box)
    assert "row" in find(browser, ".place").text
    box.send_keys(Keys.ARROW_RIGHT)
    wait(browser, lambda: changed(settled, screenshot(box)))
    settled = screenshot_at_rest(browser, box)
    find(browser, ".layers input[value='weight']").click()
    wait(browser, lambda: changed(settled, screenshot(box)))
    click(browser, find_all(browser, ".thumb")[1])
    wait(browser, lambda: screenshot(box).std() > 5)
    click(browser, find(browser, ".turn-switch"))
    assert find(browser, ".flat").is_displayed()
    assert not box.is_displayed()


def changed(before: np.ndarray, after: np.ndarray) -> bool:
    return bool(np.mean(np.abs(before.astype(int) - after)) > 2)


def screenshot_at_rest(driver: Any, element: Any) -> np.ndarray:
    """The element's picture after all motion."""
    pictures = [screenshot(element)]

    def rests() -> bool:
        pictures.append(screenshot(element))
        return np.array_equal(*pictures[-2:])

    wait(driver, rests)
    return pictures[-1]


def test_a_pixel_names_its_classes(browser: Any) -> None:
    picture = find(browser, ".flat canvas")
    click(browser, picture)
    wait(browser, lambda: "ensemble" in find(browser, ".place").text)
    text = find(browser, ".place").text
    assert re.match(r"column 12[78], row 3[12] · TA \w+", text)
    assert re.search(r" · ensemble \w+.* · weight M \d+ % · truth road$", text)


def test_rows_are_sorted_and_compared(browser: Any) -> None:
    def first_column() -> list[str]:
        return [row.text.splitlines()[0] for row in find_all(browser, ".figures tbody:first-of-type tr[data-row] th")]

    assert [name.split()[0] for name in first_column()][:2] == ["paper", "best"]
    miou = next(header for header in find_all(browser, ".figures th button") if header.text.startswith("mIoU"))
    click(browser, miou)
    assert first_column()[0].startswith("best")
    click(browser, miou)
    assert first_column()[-1].startswith("best")
    cell = find_all(browser, ".figures tr[data-row='t0r1'] td[data-figure='mIoU']")[0]
    assert cell.text.split() == ["45.50", "±0.71", "+5.00"]
    Select(find(browser, ".against")).select_by_visible_text("rule best")
    assert find(browser, ".figures tr[data-row='t0r0'] td[data-figure='mIoU'] .delta").text == "−5.00"
    settings = find(browser, "#compare-settings").text
    assert "fusion.rule.kind paper best" in settings
    assert "teacher" not in settings
    check = find(browser, ".heat-difference")
    click(browser, check)
    assert find(browser, ".heat tr[data-row='t0r0'] td").text == "−1"


def test_names_are_text(browser: Any) -> None:
    assert find(browser, "h1").text == INJECTIONS[0]
    names = [thumb.get_attribute("title") for thumb in find_all(browser, ".thumb")]
    assert sorted(names) == sorted(f"images/{name}" for name in INJECTIONS)
    for thumb in find_all(browser, ".thumb"):
        click(browser, thumb)
        wait(browser, lambda: find(browser, ".remark").text.startswith(thumb.get_attribute("title")))  # noqa: B023
    for name in ("#compare-a", "#compare-b"):
        for index in range(3):
            Select(find(browser, name)).select_by_index(index)
    for summary in find_all(browser, "details.row > summary"):
        click(browser, summary)
    assert INJECTIONS[2] in find(browser, "#t0r2-details").text
    assert find_all(browser, "img[onerror], svg[onload]") == []


def test_themes(browser: Any) -> None:
    def paper() -> str:
        return str(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))

    light = paper()
    emulate(browser, dark=True)
    dark = paper()
    assert dark != light
    Select(find(browser, "#theme")).select_by_value("light")
    assert paper() == light
    browser.refresh()
    assert paper() == light, "the choice is kept"
    emulate(browser, dark=False)
    Select(find(browser, "#theme")).select_by_value("dark")
    assert paper() == dark


def test_a_phone_is_wide_enough_and_motion_can_be_off(browser: Any) -> None:
    emulate(browser, 360, still=True)
    widths = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert widths == [360, 360]
    assert browser.execute_script("return getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    assert find(browser, ".flat canvas").size["height"] >= 90


def test_a_command_is_copied(browser: Any) -> None:
    grant = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    browser.execute_cdp_cmd("Browser.grantPermissions", grant)
    browser.execute_script("document.getElementById('t0r0-details').open = true")
    button = find(browser, "#t0r0-details .copy")
    click(browser, button)
    wait(browser, lambda: button.text == "Copied")
    copied = browser.execute_async_script("navigator.clipboard.readText().then(arguments[0], () => arguments[0](null))")
    assert copied == "goodsam fuse --fusion paper"
