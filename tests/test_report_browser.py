"""The page of `gwm report` in a real browser."""

import re
import shutil
import time

import browser
import pytest
import toy_results as toy

from gwm.pipelines.protocols import LONG_HORIZON
from gwm.pipelines.report import PAGE, write_report

PLAY = """(async () => { const seen = [];
for (const video of document.querySelectorAll('video')) {
  video.scrollIntoView({block: 'center'});
  const end = Date.now() + 5000, start = video.currentTime;
  while (video.currentTime === start && Date.now() < end) await new Promise(done => setTimeout(done, 50));
  seen.push([video.videoWidth, video.videoHeight, video.currentTime !== start, video.error && video.error.message]);
} return seen; })()"""


@pytest.mark.slow
@pytest.mark.skipif(browser.CHROMIUM is None, reason="no chromium on PATH")
def test_a_browser_plays_it_without_a_word(tmp_path):
    """On a desk and on a phone all videos play, nothing is fetched or complained about, or hangs over the edge."""
    for i, standard in enumerate((True, False)):
        toy.write(tmp_path / f"r{i}", toy.result(LONG_HORIZON, standard, i, examples=toy.EXAMPLES))
    write_report([tmp_path / "r0", tmp_path / "r1"], tmp_path / "out")
    shutil.rmtree(tmp_path / "r0")
    with browser.Browser(tmp_path / "profile") as page:
        for width, dark in ((1280, False), (400, True)):
            page.open(tmp_path / "out" / PAGE, width, dark)
            assert page.run(PLAY) == [[128, 128, True, None]] * 8
            assert page.run("document.documentElement.scrollWidth <= innerWidth")
            back = page.run("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, re.findall(r"\d+", back))) < 200) == dark
            time.sleep(0.2)
            page.run("0")  # reads what is still on its way
            said = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
            assert not [event for event in page.events if event["method"] in said]
            asked = [e["params"]["request"]["url"] for e in page.events if e["method"] == "Network.requestWillBeSent"]
            assert asked
            assert all(url.startswith(("file:", "data:")) for url in asked)
