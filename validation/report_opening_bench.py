"""How long the report's page takes to open: until it is loaded, and until all charts are drawn.

    /usr/bin/python3 validation/report_opening_bench.py report.html [TIMES]

Needs the Debian packages chromium and python3-websocket. Opens the page at the widths of a screen
and of a phone, in one headless browser, and prints milliseconds from the start of the navigation.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import websocket

SIZES = {"1280": (1280, 900), "390": (390, 844)}
ALL_DRAWN = """
(async () => {
  const all = document.querySelectorAll(".chart").length;
  const drawn = () => Number(document.documentElement.dataset.charts || 0);
  while (drawn() < all) await new Promise(again => setTimeout(again, 5));
  const drawnAt = performance.now();
  return [performance.getEntriesByType("navigation")[0].loadEventEnd, drawnAt, all];
})()
"""


class Browser:
    """Headless Chromium, spoken to by its DevTools protocol."""

    def __init__(self, folder):
        self._process = subprocess.Popen(
            ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu",
             "--remote-debugging-port=0", "--remote-allow-origins=*",
             f"--user-data-dir={folder}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port_file = Path(folder) / "DevToolsActivePort"
        while not port_file.exists() or not port_file.read_text(encoding="utf-8").strip():
            if self._process.poll() is not None:
                sys.exit("chromium ended early")
            time.sleep(0.05)
        port = port_file.read_text(encoding="utf-8").split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as tabs:
            page = next(tab for tab in json.load(tabs) if tab["type"] == "page")
        self._socket = websocket.create_connection(page["webSocketDebuggerUrl"], timeout=120)
        self._calls = 0
        self.call("Page.enable")  # announces when a page is loaded

    def call(self, method, **parameters):
        self._calls += 1
        self._socket.send(json.dumps({"id": self._calls, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == self._calls:
                return answer["result"]

    def open(self, url):
        """(loaded, all charts drawn) in milliseconds, and the number of charts."""
        for address in ("about:blank", url):
            self.call("Page.navigate", url=address)
            while json.loads(self._socket.recv()).get("method") != "Page.loadEventFired":
                pass
        found = self.call("Runtime.evaluate", expression=ALL_DRAWN, awaitPromise=True,
                          returnByValue=True)
        return found["result"]["value"]

    def close(self):
        self._process.terminate()
        self._process.wait()


def main():
    page = Path(sys.argv[1]).resolve()
    times = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    print(f"{page.name}: {page.stat().st_size} bytes")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        browser = Browser(folder)
        for name, (width, height) in SIZES.items():
            browser.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                         deviceScaleFactor=1, mobile=width < 500)
            opened = [browser.open(page.as_uri()) for _ in range(times)]
            drawn = sorted(round(one[1]) for one in opened)
            loaded = statistics.median(round(one[0]) for one in opened)
            print(f"{name} px wide: loaded {loaded} ms, {opened[0][2]} charts drawn "
                  f"{statistics.median(drawn)} ms (medians; drawn {drawn[0]} to {drawn[-1]})")
        browser.close()


main()
