"""The web page in a headless Chromium: a key, pictures dropped, pasted and chosen, answers equal to the API's, a broken file, the
figures, two models, no errors in the console and no request to anybody else. DISTILL_SCREENSHOTS names a folder for
pictures of it."""

import base64
import json
import os
import pathlib
import shutil
import sys
import tempfile
from urllib.parse import urlparse
from urllib.request import Request, urlopen

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

URL, FOLDER, KEY = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
SCREENSHOTS = os.environ.get("DISTILL_SCREENSHOTS")
ARGUMENTS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1100,1200",
]
GIVE = """
const [kind, files] = arguments;
const transfer = new DataTransfer();
for (const [name, text] of files) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  transfer.items.add(new File([bytes], name, { type: "image/png" }));
}
document.body.dispatchEvent(kind === "drop"
  ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true })
  : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true }));
"""


def program(variable, *names):
    found = os.environ.get(variable) or next(filter(None, map(shutil.which, names)), None)
    if not found:
        sys.exit(f"this test needs {names[0]}: install it (Debian: apt-get install chromium chromium-driver) or set {variable}")
    return shutil.which(found)


def browser(profile):
    options = webdriver.ChromeOptions()
    options.binary_location = program("DISTILL_CHROMIUM", "chromium", "chromium-browser", "google-chrome", "chrome")
    for argument in [*ARGUMENTS, f"--user-data-dir={profile}"]:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = program("DISTILL_CHROMEDRIVER", "chromedriver", "chromium.chromedriver")
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))


def give(driver, kind, *paths):
    files = [(path.name, base64.b64encode(path.read_bytes()).decode()) for path in paths]
    driver.execute_script(GIVE, kind, files)


def cards(driver):
    return driver.find_elements(By.CSS_SELECTOR, ".card:not(.waiting)")


def wait(driver, what, done, seconds=20):
    """Until `done` is true; an element that the page replaced while it was looked at counts as not yet."""
    waiting = WebDriverWait(driver, seconds, 0.05, ignored_exceptions=[StaleElementReferenceException])
    return waiting.until(lambda _: done(), what)


def card_of(driver, name):
    def found():
        named = [card for card in cards(driver) if card.find_element(By.TAG_NAME, "figcaption").text == name]
        return named[0] if named else None

    return wait(driver, f"no card of {name}", found)


def shown(card):
    """Labels, probabilities as told to a screen reader, and as drawn."""
    rows = card.find_elements(By.CSS_SELECTOR, ".labels li")
    meters = [row.find_element(By.CSS_SELECTOR, "[role=meter]") for row in rows]
    labels = [row.find_element(By.CLASS_NAME, "name").text for row in rows]
    told = [float(meter.get_attribute("aria-valuenow")) for meter in meters]
    drawn = [meter.find_element(By.TAG_NAME, "i").get_attribute("style") for meter in meters]
    return labels, told, [float(style.split("width:")[1].split("%")[0]) / 100 for style in drawn]


def asked(path, model, version):
    url = f"{URL}/v1/models/{model}/versions/{version}/classify?top=5"
    top = json.load(urlopen(Request(url, path.read_bytes(), {"x-api-key": KEY})))["predictions"][0]["top"]
    return [each["label"] for each in top], [each["probability"] for each in top]


def check_card(driver, path, model, version):
    labels, told, drawn = shown(card_of(driver, path.name))
    expected, probabilities = asked(path, model, version)
    assert labels == expected, (path.name, labels, expected)
    for found in (told, drawn):
        assert all(abs(a - b) < 1e-5 for a, b in zip(found, probabilities, strict=True)), (path.name, found, probabilities)


def milliseconds(text):
    value, unit = text.split()
    return float(value) / {"ms": 1, "µs": 1000}[unit]


def check_stages(card):
    times = {each.get_attribute("data-stage"): each.text for each in card.find_elements(By.CSS_SELECTOR, ".time")}
    assert list(times) == ["decode", "preprocess", "queue", "inference", "rest"], times
    assert milliseconds(times["decode"]) > 0, times
    fills = card.find_elements(By.CSS_SELECTOR, ".lane i")
    assert len(fills) == 4 and fills[3].size["width"] >= 2, [fill.size for fill in fills]


def check_repeat(driver):
    count = lambda: int(driver.find_element(By.ID, "count").text.replace(",", ""))
    before, button = count(), driver.find_element(By.ID, "repeat")
    Select(driver.find_element(By.ID, "lanes")).select_by_visible_text("4")
    button.send_keys(Keys.ENTER)
    wait(driver, "it did not run again and again", lambda: count() > before + 60)
    assert button.get_attribute("aria-pressed") == "true"
    wait(driver, "no throughput", lambda: driver.find_element(By.ID, "rate").text.strip("–"))
    screenshot(driver, "running")
    button.send_keys(Keys.ENTER)
    assert button.get_attribute("aria-pressed") == "false"
    for name in ("p50", "p95"):
        assert milliseconds(driver.find_element(By.ID, name).text) > 0, name
    assert driver.find_element(By.ID, "line").get_attribute("d").count("L") > 30


def check_headers():
    headers = urlopen(URL).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy, policy
    assert headers["x-content-type-options"] == "nosniff"


def check_logs(driver):
    hosts = set()
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = urlparse(message["params"]["request"]["url"])
            # The browser's own first page is not ours.
            if url.scheme not in ("data", "blob", "chrome", "chrome-untrusted"):
                hosts.add(f"{url.scheme}://{url.netloc}")
    assert hosts == {URL}, hosts
    # What the server refuses is told by the browser itself: the broken file, and asking without a key.
    expected = [("classify", "415"), ("v1/models", "401")]
    told = lambda entry: any(all(word in entry["message"] for word in words) for words in expected)
    errors = [entry for entry in driver.get_log("browser") if not told(entry)]
    assert not errors, errors


def screenshot(driver, name):
    if SCREENSHOTS:
        driver.save_screenshot(f"{SCREENSHOTS}/{name}.png")


def looks(driver):
    if not SCREENSHOTS:
        return
    driver.execute_script("scrollTo(0, 0)")
    for scheme in ("light", "dark"):
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        screenshot(driver, scheme)
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    screenshot(driver, "phone")


def unlock(driver):
    """The page itself needs no key; what it asks for does."""
    field = driver.find_element(By.ID, "key")
    wait(driver, "it did not ask for a key", field.is_displayed)
    assert "API key" in driver.find_element(By.ID, "notice").text
    field.send_keys(KEY, Keys.ENTER)
    wait(driver, "the key was not taken", lambda: not field.is_displayed())


def check_links(driver):
    """A link carries no key, so the page fetches what it leads to."""
    page = driver.current_url
    driver.find_element(By.LINK_TEXT, "Metrics").click()
    text = lambda: driver.find_element(By.TAG_NAME, "body").text
    wait(driver, "no metrics", lambda: "distill_http_requests_total" in text())
    driver.get(page)
    unlock(driver)


def check(driver):
    first = [FOLDER / picture["file"] for picture in EXPECTED[0]["pictures"]]
    broken = FOLDER / "broken.png"
    broken.write_bytes(b"this is no picture")
    driver.get(URL)
    unlock(driver)
    choice = wait(driver, "no models", lambda: driver.find_element(By.ID, "choice"))
    wait(driver, "no choice of models", choice.is_displayed)
    screenshot(driver, "empty")
    give(driver, "drop", first[0], first[1])
    check_card(driver, first[0], "kittens", "2")
    check_card(driver, first[1], "kittens", "2")
    check_stages(card_of(driver, first[0].name))
    give(driver, "paste", first[2])
    check_card(driver, first[2], "kittens", "2")
    driver.find_element(By.ID, "files").send_keys(str(first[3]))
    check_card(driver, first[3], "kittens", "2")
    check_repeat(driver)
    give(driver, "drop", broken)
    fault = card_of(driver, broken.name).find_element(By.CLASS_NAME, "fault")
    assert fault.is_displayed() and "not a picture" in fault.text, fault.text
    looks(driver)
    for model, version, option in [("kittens", "1", "kittens, version 1"), ("birds", "1", "birds")]:
        Select(driver.find_element(By.ID, "models")).select_by_visible_text(option)
        labels = EXPECTED[0 if model == "kittens" else 2]["labels"]
        expected = asked(first[0], model, version)[1]
        same = lambda: all(abs(a - b) < 1e-5 for a, b in zip(shown(card_of(driver, first[0].name))[1], expected))
        wait(driver, f"no answer of {option}", same)
        check_card(driver, first[0], model, version)
        assert f"{len(labels)} classes" in driver.find_element(By.ID, "model").text
    driver.find_element(By.ID, "clear").click()
    assert not cards(driver)
    check_links(driver)


def main():
    check_headers()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        driver = browser(profile)
        try:
            check(driver)
            check_logs(driver)
        finally:
            driver.quit()
    print("all is well")


main()
