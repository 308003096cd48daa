"""The page: its bytes, and in a real browser opened, clicked and filtered."""

import json
import os
import shutil
import urllib.parse
from pathlib import Path

import msgspec
import pytest
from committed import analysis_of
from examples import LENGTHS, MODELS, example, with_labels

from harness.analysis.analyse import analyse
from harness.errors import UserError
from harness.report.page.build import build
from harness.report.page.charts import charts

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "results" / "reference" / "cpu-2core"
ODD = "</script><img src=x onerror=document.title='hacked'>"


def data_of(path):
    """What the page carries as JSON."""
    text = path.read_text(encoding="utf-8")
    start = text.index('<script type="application/json" id="data">') + len('<script type="application/json" id="data">')
    return json.loads(text[start : text.index("</script>", start)])


def page(tmp_path, analysis, **options):
    build(analysis, tmp_path / "page.html", **options)
    return tmp_path / "page.html"


@pytest.fixture(scope="module")
def committed():
    return analysis_of("cpu-2core")


@pytest.fixture(scope="module")
def built(committed, tmp_path_factory):
    return page(tmp_path_factory.mktemp("page"), committed, records=RECORDS)


def test_identical_records_give_identical_bytes(built, committed):
    other = built.with_name("other.html")
    build(committed, other, records=RECORDS)
    assert other.read_bytes() == built.read_bytes()


def test_fetches_nothing_and_stays_small(built, committed):
    text = built.read_text(encoding="utf-8")
    assert len(committed.records) >= 150
    assert built.stat().st_size < 3e6
    # What is not in a script; the charts' own library names addresses, which the browser's tests see it not fetch.
    outside = text[: text.index("<script>")] + text[text.rindex("</script>") :]
    found = [word for word in ("http", "src=") if word in outside]
    assert found == []


def timed_places(analysis):
    """Where the records stand that timed anything; a sweep of streams has no step."""
    streamed = {point.sweep for point in analysis.streams}
    return [
        place
        for place, row in enumerate(analysis.records)
        if row.step_seconds is not None or any(f"/{sweep}-" in row.path for sweep in streamed)
    ]


def test_every_cell_has_its_samples_and_its_claims_their_records(built, committed):
    found = data_of(built)
    timed = timed_places(committed)
    assert sorted(map(int, found["samples"])) == timed
    for place in map(str, timed):
        one = found["samples"][place]
        assert len(one["order"]) == len(one["ms"])
        assert {ord(code) - 48 for code in one["order"]} == set(range(len(one["series"])))
    by_id = {claim["id"]: claim for claim in found["claims"]}
    for claim in committed.claims:
        shown = [committed.records[place].path for place in by_id[claim.id]["evidence"]]
        assert shown == claim.overall.evidence


def test_records_that_are_gone_leave_a_page_without_samples(tmp_path):
    analysis = example(training=False)
    (tmp_path / "empty").mkdir()
    assert data_of(page(tmp_path, analysis, records=tmp_path / "empty"))["samples"] == {}
    with pytest.raises(UserError, match=r"study\.json"):
        analyse(tmp_path / "empty")


def test_records_that_came_after_the_analysis_are_left_out(committed, tmp_path):
    fewer = msgspec.structs.replace(committed, records=committed.records[1:])
    found = data_of(page(tmp_path, fewer, records=RECORDS))
    assert sorted(map(int, found["samples"])) == timed_places(fewer)


def test_charts_that_cannot_be_drawn_say_what_is_missing():
    nothing = example(speed=False, memory=False, training=False, problems=False, oom=())
    assert all(not chart.rows and chart.lacks for chart in charts(nothing))


# In a browser.


def browser():
    """A headless Chromium, or a skip; where HYENAREC_REQUIRE_BROWSER is set, as in CI, a failure."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        message = "no browser here: apt-get install chromium chromium-driver"
        if os.environ.get("HYENAREC_REQUIRE_BROWSER"):
            pytest.fail(message)
        pytest.skip(message)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--lang=en-US"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


@pytest.fixture(scope="module")
def chromium():
    driver = browser()
    yield driver
    driver.quit()


def opened(driver, path, width=1200, height=900):
    """Open a page and wait until its charts are drawn; nothing on the console."""
    driver.set_window_size(width, height)
    driver.get(f"file://{urllib.parse.quote(str(path))}")
    drawn(driver)
    return driver


def drawn(driver):
    script = "return document.documentElement.dataset.drawn"
    wait_until(driver, lambda d: d.execute_script(script) == "yes", 60)


def wait_until(driver, condition, seconds=20):
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, seconds).until(condition)


def all_of(driver, selector):
    return driver.find_elements("css selector", selector)


def one_of(driver, selector):
    return driver.find_element("css selector", selector)


def press(driver, element):
    """As a person does, who waits until the page stands still."""
    from selenium.common.exceptions import ElementClickInterceptedException

    def pressed(driver):
        driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
        try:
            element.click()
        except ElementClickInterceptedException:
            return False
        return True

    wait_until(driver, pressed)


def console(driver):
    """What the page said on the console since the last look: nothing, if all is well."""
    return [line["message"] for line in driver.get_log("browser")]


def column(driver, place):
    return [cell.text for cell in all_of(driver, f"#table tbody tr[data-place] td:nth-child({place})")]


def marks(driver, chart):
    return len(all_of(driver, f"#chart-{chart} svg g.mark-symbol path"))


@pytest.fixture
def opened_page(chromium, built):
    opened(chromium, built)
    chromium.execute_script("localStorage.clear()")
    yield opened(chromium, built)
    assert console(chromium) == []


def test_opens_with_verdicts_charts_and_cells(opened_page, committed):
    assert len(all_of(opened_page, "details.claim")) == len(committed.claims)
    for chart in charts(committed):
        assert bool(all_of(opened_page, f"#chart-{chart.id} svg")) == bool(chart.rows)
        assert bool(all_of(opened_page, f"#chart-{chart.id} .empty")) != bool(chart.rows)
    assert len(column(opened_page, 1)) == 100
    assert opened_page.execute_script("return performance.getEntriesByType('resource').length") == 0


def test_a_verdict_opens_by_the_keyboard_and_shows_its_records(opened_page, committed):
    from selenium.webdriver.common.keys import Keys

    claim = next(c for c in committed.claims if 0 < len(c.overall.evidence) <= 100)
    summary = one_of(opened_page, f"#claim-{claim.id} summary")
    opened_page.execute_script("arguments[0].focus()", summary)
    summary.send_keys(Keys.ENTER)
    wait_until(opened_page, lambda d: all_of(d, f"#claim-{claim.id} .body"))
    body = one_of(opened_page, f"#claim-{claim.id} .body")
    assert claim.overall.detail in body.text
    assert claim.source in body.text
    press(opened_page, one_of(opened_page, f"#claim-{claim.id} .body > p > button"))
    assert len(column(opened_page, 1)) == len(claim.overall.evidence)
    assert f"evidence of {claim.id}" in one_of(opened_page, "#shown").text


def test_cells_are_filtered_sorted_and_opened(opened_page, built):
    one_of(opened_page, "#filters input[type=search]").send_keys("gru4rec speed")
    assert set(column(opened_page, 1)) == {"speed"}
    assert all("gru4rec" in name for name in column(opened_page, 2))
    for times in (1, 2):
        press(opened_page, all_of(opened_page, "#table th button")[6])
        steps = [float(text.replace(",", "")) for text in column(opened_page, 7) if text != "–"]
        assert steps == sorted(steps, reverse=times == 2)
        assert len(set(steps)) > 3
    assert all_of(opened_page, "#table th")[6].get_attribute("aria-sort") == "descending"
    press(opened_page, one_of(opened_page, "#table tbody button"))
    drawn(opened_page)
    link = one_of(opened_page, "#table tr.more-of a").get_attribute("href")
    record = Path(urllib.parse.unquote(urllib.parse.urlparse(link).path))
    assert record.is_file()
    assert msgspec.json.decode(record.read_bytes())["label"].startswith("gru4rec")
    wait_until(opened_page, lambda d: all_of(d, "#table .strip svg g.mark-symbol path"))
    assert one_of(opened_page, "#table .strip svg").size["width"] > 300
    samples = data_of(built)["samples"][one_of(opened_page, "#table tbody tr").get_attribute("data-place")]
    shown = sum(samples["series"][ord(code) - 48][1] == samples["series"][0][1] for code in samples["order"])
    assert len(all_of(opened_page, "#table .strip svg g.mark-symbol path")) >= shown > 3


def test_models_are_hidden_in_every_chart_and_scales_switched(opened_page):
    before = {chart: marks(opened_page, chart) for chart in ("cost", "speedup")}
    assert min(before.values()) > 5
    press(opened_page, one_of(opened_page, '#models input[value="gru4rec"]'))
    wait_until(opened_page, lambda d: all(marks(d, chart) < count for chart, count in before.items()))
    button = one_of(opened_page, "#chart-cost .controls button:last-of-type")
    assert button.text == "y: logarithmic"
    labels = axis_labels(opened_page, "cost")
    press(opened_page, button)
    wait_until(opened_page, lambda d: axis_labels(d, "cost") != labels)
    assert button.text == "y: linear"
    for _ in range(2):
        press(opened_page, one_of(opened_page, "#models button"))
    wait_until(opened_page, lambda d: "All models of this chart are hidden" in one_of(d, "#chart-cost").text)


def axis_labels(driver, chart):
    return [text.text for text in all_of(driver, f"#chart-{chart} svg g.role-axis-label text")]


def test_dark_is_dark_and_kept(opened_page, built):
    def ground():
        return opened_page.execute_script("return getComputedStyle(document.body).backgroundColor")

    light = ground()
    press(opened_page, one_of(opened_page, "#theme"))
    assert ground() != light
    opened(opened_page, built)
    assert ground() != light
    assert one_of(opened_page, "#theme").text == "Light"


@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_reaches_over_the_edge(chromium, built, width):
    """A phone's width, emulated, since a window of the desktop has a least one."""
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        opened(chromium, built)
        for summary in all_of(chromium, "details.claim summary")[:3]:
            press(chromium, summary)
        assert chromium.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_what_records_say_stays_text(chromium, tmp_path):
    analysis = with_labels(example(), {"gru4rec": ODD})
    problems = msgspec.structs.replace(analysis.problems, threats=[ODD])
    records = [msgspec.structs.replace(row, flags=[ODD], detail=ODD) for row in analysis.records]
    opened(chromium, page(tmp_path, msgspec.structs.replace(analysis, problems=problems, records=records)))
    press(chromium, one_of(chromium, "#table tbody button"))
    assert chromium.title != "hacked"
    assert not all_of(chromium, "img")
    assert ODD in one_of(chromium, "#threats").text
    assert ODD in one_of(chromium, "#models").text
    assert ODD in one_of(chromium, "#table tr.more-of").text
    assert console(chromium) == []


@pytest.mark.parametrize(
    "contents",
    [
        {"speed": False, "memory": False, "training": False, "problems": False, "oom": ()},
        {"labels": ("hyenarec",), "oom": ()},
        {"oom": ("hyenarec", "sasrec-math")},
        {"labels": tuple(MODELS), "datasets": ("ml-1m", "beauty"), "problems": False},
    ],
    ids=["nothing", "one-model", "out-of-memory", "many"],
)
def test_awkward_records_make_a_page_that_says_what_is_missing(chromium, tmp_path, contents):
    analysis = example(**contents)
    opened(chromium, page(tmp_path, analysis))
    for chart in charts(analysis):
        text = one_of(chromium, f"#chart-{chart.id}").text
        assert chart.rows or chart.lacks in text
        assert chart.left_out in text or not chart.rows
    if "hyenarec" in contents.get("oom", ()):
        assert f"hyenarec at {LENGTHS[-1]:,} (out of memory)" in one_of(chromium, "#chart-cost").text
    assert console(chromium) == []
