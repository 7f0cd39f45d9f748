"""The page in a real browser: no network, no error, the right numbers, hover, legend, phone, dark."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from statistics import median
from typing import Any

import pytest

from mtl_accum.report import write_sweep
from mtl_accum.report._page import html
from tests.report.examples import MIB, counted, job, report

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")

pytestmark = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="needs chromium and chromedriver; found none",
)

CONTENT = counted(report())
JOBS = [("summed", 64, 400), ("summed", 128, 800), ("split", 64, 200), ("split", 128, 300)]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "host-resolver-rules=MAP * ~NOTFOUND"):
        options.add_argument(f"--{argument}")
    options.add_argument("--window-size=1200,1600")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    options.binary_location = shutil.which("chromium")
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    folder = tmp_path_factory.mktemp("pages")
    (folder / "report.html").write_text(html(CONTENT), encoding="utf-8")
    for number, (edition, batch, peak) in enumerate(JOBS):
        job(folder, number, f"edition={edition} data.batch_size={batch}", peak)
    write_sweep(folder)
    driver.get((folder / "report.html").as_uri())
    driver.sweep_page = (folder / "sweep.html").as_uri()
    yield driver
    driver.quit()


def script(browser: Any, code: str) -> Any:
    return browser.execute_script(f"return {code}")


def test_no_error_and_no_request(browser: Any) -> None:
    assert browser.get_log("browser") == []
    asked = [
        entry["message"] for entry in browser.get_log("performance") if "Network.requestWillBeSent" in entry["message"]
    ]
    assert asked
    assert all(
        '"url":"file://' in message or '"url":"data:' in message or '"url":"blob:' in message for message in asked
    )


def test_the_tables_say_what_the_json_says(browser: Any) -> None:
    cells = script(
        browser,
        "[...document.querySelectorAll('table')[0].rows].map(r => [...r.cells].map(c => c.textContent))",
    )
    for shown, row in zip(cells[1:], CONTENT["editions"], strict=True):
        assert shown[0] == row["edition"]
        peak = row["memory"][0]["peak_bytes"] / MIB if row["memory"] else None
        assert shown[1] == ("–" if peak is None else f"{peak:.1f} MiB")
        if row["step_seconds"]:
            assert shown[4].startswith(f"{1000 * median(row['step_seconds']):.1f} (")


def test_images_are_drawn(browser: Any) -> None:
    sizes = script(browser, "[...document.querySelectorAll('img.example')].map(i => [i.naturalWidth, i.alt])")
    assert sizes == [[5, "input"], [5, "before training"], [5, "target"]]


def test_the_figures_hold_the_json_s_numbers(browser: Any) -> None:
    bars = script(browser, "document.getElementById('peaks').data.map(t => [t.name, [...t.y]])")
    known = CONTENT["editions"][0]["memory"][0]["categories"]
    assert dict(bars)["activations"][0] == pytest.approx(known["activations"] / MIB)
    assert sum(heights[0] for _, heights in bars) == pytest.approx(400)
    curve = script(browser, "[...document.getElementById('step').data[0].y]")
    assert max(curve) == CONTENT["editions"][0]["memory"][0]["peak_bytes"] / MIB
    assert script(browser, "document.querySelectorAll('#step .scatterlayer .trace').length") == 2


def test_hovering_over_the_saw_shows_the_value(browser: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    browser.execute_script("document.getElementById('step').scrollIntoView({block: 'center'})")
    place = script(
        browser,
        """(() => {
            const g = document.getElementById('step'), l = g._fullLayout, box = g.getBoundingClientRect();
            const x = l.xaxis.d2p(g.data[0].x[2]), y = l.yaxis.d2p(g.data[0].y[2]);
            return [box.left + l._size.l + x, box.top + l._size.t + y];
        })()""",
    )
    actions = ActionChains(browser)
    actions.w3c_actions.pointer_action.move_to_location(round(place[0]), round(place[1]))
    actions.perform()
    shown = script(
        browser, "[...document.querySelectorAll('#step .hoverlayer .hovertext')].map(t => t.textContent).join()"
    )
    assert "head a backward" in shown
    assert "400.0 MiB" in shown


def test_a_click_in_the_legend_hides_an_edition(browser: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    state = "document.getElementById('step').data[0].visible"
    assert script(browser, state) in (None, True)
    browser.find_element(By.CSS_SELECTOR, "#step .legendtoggle").click()
    WebDriverWait(browser, 5).until(lambda browser: script(browser, state) == "legendonly")
    ribbon = "document.getElementById('step').data.filter(t => t.type == 'bar' && t.legendgroup == 'summed')[0].visible"
    assert script(browser, ribbon) == "legendonly"


def test_on_a_phone_nothing_sticks_out(browser: Any) -> None:
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        browser.refresh()
        assert script(browser, "document.documentElement.scrollWidth") <= 390
        assert script(browser, "document.querySelector('#step .main-svg').getBoundingClientRect().right") <= 390
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_in_the_dark_it_is_dark(browser: Any) -> None:
    def luminance(colour: str) -> float:
        red, green, blue = (int(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3])
        return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255

    for scheme in ("light", "dark"):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        paper = luminance(script(browser, "getComputedStyle(document.body).backgroundColor"))
        ink = luminance(script(browser, "getComputedStyle(document.body).color"))
        label = luminance(
            script(browser, "getComputedStyle(document.querySelector('#step .xtick text, #step .ytick text')).fill")
        )
        assert abs(paper - ink) > 0.7
        assert abs(paper - label) > 0.7
        assert (paper < 0.2) == (scheme == "dark")


def test_a_sweep(browser: Any) -> None:
    """The last one: it leaves the page that the others look at."""
    browser.get(browser.sweep_page)
    assert browser.get_log("browser") == []
    tables = script(
        browser,
        "[...document.querySelectorAll('table')].map(t => [...t.rows].map(r => [...r.cells].map(c => c.textContent)))",
    )
    assert tables[0][0] == ["data.batch_size", "summed", "split", "least memory", "fastest"]
    assert tables[0][2] == ["128", "800.0 MiB, 100.0 ms", "300.0 MiB, 100.0 ms", "split", "summed"]
    lines = script(browser, "document.getElementById('sweep0').data.map(t => [t.name, [...t.x], [...t.y]])")
    assert lines == [["summed", [64, 128], [400, 800]], ["split", [64, 128], [200, 300]]]
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    browser.refresh()
    assert script(browser, "document.documentElement.scrollWidth") <= 390
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
