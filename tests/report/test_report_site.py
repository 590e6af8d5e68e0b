"""The page in a real browser: what it shows, that it can be sorted by hand, and that nothing in the data becomes markup."""

import html.parser
import json
import shutil
import subprocess
import time

import pytest
from results_factory import HOSTILE, HOSTILE_REASON, SHA, table_of_results

from fmbench.report import site
from fmbench.report.build import tables_of
from fmbench.report.table import build

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--window-size=1300,900",
)  # fmt: skip
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


class Scripts(html.parser.HTMLParser):
    """Collects elements with their attributes and the text of script elements."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.scripts = [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags[-1:] and self.tags[-1][0] == "script":
            self.scripts.append(data)


@pytest.fixture(scope="module")
def tables():
    return build(table_of_results() + table_of_results("digits", "image"), 8)


@pytest.fixture(scope="module")
def page(tables):
    return site.render(tables)


def test_the_data_come_back_from_the_page(page, tables):
    found = json.loads(Scripts(page).scripts[0])
    assert found == json.loads(json.dumps([site.table_data(table) for table in tables.values()]))
    assert HOSTILE in {row["entry"] for row in found[0]["rows"]}
    assert any(HOSTILE_REASON in reason for _, _, reason in found[0]["failures"])


def test_nothing_hostile_is_in_the_source(page, tables):
    for text in (HOSTILE, HOSTILE_REASON, "<img", "alert(2)</script>"):
        assert text not in page
    empty = [tag for tag, _ in Scripts(site.render({})).tags]
    assert [tag for tag, _ in Scripts(page).tags] == empty  # as many elements with hostile data as with none


@pytest.mark.parametrize(
    "text", ["</script>", "<!--<script>", "]]>", "&lt;", "{{data}}", "{{policy}}", "\u2028", "é\ud7ff"]
)
def test_embedded_text_cannot_leave_its_element(text):
    embedded = site.embed([text])
    assert not set("<>&") & set(embedded)
    assert embedded.isascii()
    assert json.loads(embedded) == [text]


def test_not_a_number_is_refused():
    with pytest.raises(ValueError, match="JSON"):
        site.embed([float("nan")])


def test_the_page_asks_for_nothing(page):
    for tag, attributes in Scripts(page).tags:
        assert not {"src", "href", "action", "style"} & set(attributes), tag
        assert not [name for name in attributes if name.startswith("on")]
    assert "url(" not in page
    assert "@import" not in page
    policy = next(a["content"] for t, a in Scripts(page).tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy


@pytest.mark.parametrize("broken", ["", "{{policy}}{{data}}", "<style></style><script></script>{{data}}{{data}}"])
def test_a_template_without_its_places_is_refused(broken):
    with pytest.raises(ValueError, match="template must have"):
        site.render({}, broken)


# -- in the browser -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_browser
def test_the_address_sorts_and_themes_the_page(page, tmp_path):
    path = tmp_path / "index.html"
    path.write_text(page)
    address = f"{path.as_uri()}#sort=params&dir=desc&theme=dark"
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    dumped = Scripts(done.stdout)
    assert ("html", "dark") in [(tag, a.get("data-theme")) for tag, a in dumped.tags]
    assert [a["aria-sort"] for tag, a in dumped.tags if tag == "th" and a.get("aria-sort", "none") != "none"] == [
        "descending"
    ]
    assert len([tag for tag, _ in dumped.tags if tag == "img"]) == 0


@pytest.fixture(scope="module")
def browser(page, tmp_path_factory):
    driver_path = shutil.which("chromedriver")
    selenium = pytest.importorskip("selenium.webdriver", reason="no selenium to click with")
    if CHROMIUM is None or driver_path is None:
        pytest.skip("no chromium with chromedriver on this machine")
    folder = tmp_path_factory.mktemp("page")
    (folder / "index.html").write_text(page)
    options = selenium.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(driver_path))
    driver.address = (folder / "index.html").as_uri()
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser):
    def open_page(fragment=""):
        browser.get("about:blank")
        browser.get(f"{browser.address}#{fragment}")
        return browser

    return open_page


def headings(driver):
    return driver.execute_script("return [...document.querySelectorAll('thead button')].map(b => b.dataset.title)")


def column(driver, title):
    """Texts of a column, in the order shown, with the kind of each row."""
    return driver.execute_script(
        "const i = [...document.querySelectorAll('thead button')].findIndex(b => b.dataset.title === arguments[0]);"
        "return [...document.querySelectorAll('tbody tr')].map(r => [r.classList[0], r.children[i].textContent]);",
        title,
    )


def press(driver, title, key=None):
    """Click a heading, or focus it and press a key."""
    from selenium.webdriver.common.by import By

    button = driver.find_element(By.CSS_SELECTOR, f"thead button[data-title='{title}']")
    if key is None:
        button.click()
    else:
        driver.execute_script("arguments[0].focus()", button)
        driver.switch_to.active_element.send_keys(key)


def sorts(driver):
    return driver.execute_script(
        "return [...document.querySelectorAll('thead th')].map(t => t.getAttribute('aria-sort')).filter(s => s !== 'none')"
    )


def numbers(driver, title):
    shown = [text for kind, text in column(driver, title) if kind not in ("anchor", "unranked")]
    return [None if text in ("–", "failed") else float(text.split(" ±")[0]) for text in shown]


def test_the_page_shows_the_table_without_errors(opened, tables):
    driver = opened()
    table = next(iter(tables.values()))
    assert headings(driver)[:2] == ["entry", "rank"]
    assert len(headings(driver)) == len(table.view())
    assert [text for _, text in column(driver, "entry")] == [row.entry for row in table.rows]
    assert [text for _, text in column(driver, "FD @1")] == [row.cells[4].text for row in table.rows]
    assert SHA[:12] in driver.page_source
    assert [e for e in driver.get_log("browser") if e["level"] in ("SEVERE", "WARNING")] == []
    assert driver.execute_script("return performance.getEntriesByType('resource').length") == 0


def test_hostile_names_are_shown_as_text_and_run_nothing(opened):
    driver = opened()
    assert driver.execute_script("return document.images.length") == 0
    assert driver.execute_script("return document.scripts.length") == 2
    text = driver.execute_script("return document.body.innerText")
    assert HOSTILE in text
    assert HOSTILE_REASON in text
    titles = driver.execute_script("return [...document.querySelectorAll('svg title')].map(t => t.textContent)")
    assert any(title.startswith(HOSTILE) for title in titles)


def test_the_policy_stops_a_script_that_got_in(opened):
    driver = opened()
    driver.execute_script(
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hit=1\">');"
        "const s = document.createElement('script'); s.textContent = 'window.hit=2'; document.body.append(s);"
    )
    time.sleep(0.2)
    assert driver.execute_script("return window.hit === undefined")
    assert driver.get_log("browser")  # the browser says that it refused


def test_clicking_a_heading_sorts_up_down_and_back(opened):
    driver = opened()
    before = column(driver, "entry")
    press(driver, "FD @2")
    assert sorts(driver) == ["ascending"]
    shown = numbers(driver, "FD @2")
    assert shown.index(None) == len(shown) - 2  # no number comes last: the failure and the one-step map
    assert shown[:-2] == sorted(shown[:-2])
    kinds = [kind for kind, _ in column(driver, "FD @2")]
    assert kinds[:2] == ["anchor", "anchor"]
    assert kinds[-2:] == ["unranked", "unranked"]
    press(driver, "FD @2")
    assert sorts(driver) == ["descending"]
    shown = numbers(driver, "FD @2")
    assert shown[:-2] == sorted(shown[:-2], reverse=True)
    assert shown[-2:] == [None, None]
    press(driver, "FD @2")
    assert sorts(driver) == []
    assert column(driver, "entry") == before


@pytest.mark.parametrize("key", ["\ue007", " "], ids=["enter", "space"])
def test_the_keyboard_sorts_and_keeps_its_place(opened, key):
    driver = opened()
    press(driver, "entry", key)
    assert sorts(driver) == ["ascending"]
    assert driver.execute_script("return document.activeElement.dataset.title") == "entry"
    assert "sorted by entry" in driver.execute_script("return document.getElementById('live').textContent")
    names = [text for kind, text in column(driver, "entry") if kind in ("closed", "open")]
    assert names == sorted(names)


def test_choosing_task_and_metric(opened):
    driver = opened()
    choose = (
        "const s = document.getElementById(arguments[0]); s.value = arguments[1]; s.dispatchEvent(new Event('change'))"
    )
    driver.execute_script(choose, "metric", "kernel_distance")
    assert "KD @8" in headings(driver)
    assert "FD @8" not in headings(driver)
    assert "Linear scale" in driver.execute_script("return document.getElementById('plot-note').textContent")
    driver.execute_script(choose, "task", "1")
    assert "gaussian-8gaussians" in driver.execute_script("return document.getElementById('title').textContent")
    assert "KD @8" not in headings(driver)
    assert "W2 @8" in headings(driver)
    address = driver.execute_script("return location.hash")
    assert column(opened(address[1:]), "entry") == column(driver, "entry")


def test_the_plot_has_a_line_per_entry_and_can_hide_it(opened, tables):
    driver = opened()
    table = next(iter(tables.values()))
    drawn = "return [...document.querySelectorAll('#plot .series[data-entry]')].map(g => g.dataset.entry)"
    entries = [row.entry for row in table.rows if row.entry != "data"]
    assert driver.execute_script(drawn) == entries
    assert driver.execute_script("return document.querySelectorAll('#plot .floor').length") == 1
    heights = driver.execute_script(
        "return [...document.querySelectorAll('#plot [data-entry=ot-cfm] .mark')].map(m => m.getBoundingClientRect().top)"
    )
    values = [point.value for point in next(r for r in table.rows if r.entry == "ot-cfm").curves["frechet_distance"]]
    order = sorted(range(len(values)), key=lambda i: -values[i])
    assert sorted(range(len(heights)), key=lambda i: heights[i]) == order
    driver.execute_script("document.querySelector('#plot .key').click()")
    assert driver.execute_script(drawn) == entries[1:]


def test_the_first_column_stays_in_sight(opened):
    driver = opened()
    script = "const s = document.getElementById('scroll'); s.scrollLeft = 500; return s.scrollLeft"
    assert driver.execute_script(script) == 500
    place = (
        "const left = (q) => document.querySelector(q).getBoundingClientRect().left;"
        "return left('tbody th') - left('#scroll')"
    )
    assert abs(driver.execute_script(place)) < 2
    assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def test_a_page_without_results_says_so(browser, tmp_path):
    (tmp_path / "empty.html").write_text(site.render(tables_of([])))
    browser.get((tmp_path / "empty.html").as_uri())
    assert "No results yet" in browser.execute_script("return document.body.innerText")
    assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []
