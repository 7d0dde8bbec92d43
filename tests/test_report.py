"""`gwm report`: one page that holds all of the results, needs nothing else, and mixes no measures."""

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest
import toy_results as toy
import typer
from typer.testing import CliRunner

from gwm.cli.report import report as command
from gwm.core import ConfigError
from gwm.pipelines import eval_record, report_result
from gwm.pipelines.protocols import ABLATION, LONG_HORIZON, MASKGWM, PROTOCOLS, VISTA, ZERO_SHOT
from gwm.pipelines.published import PUBLISHED, published_for
from gwm.pipelines.report import PAGE, write_report
from gwm.pipelines.report_html import number
from gwm.pipelines.report_plot import Curve, draw
from gwm.pipelines.report_result import LITE, STANDARD

VOID = {"meta", "br", "input", "img", "link", "hr"}
NASTY = "<script>alert('x')</script>&\"$a_b$"


class Page(HTMLParser):
    """Tables as rows of texts, notices, elements, and that what is opened is closed."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.tables, self.notices, self.elements, self.text = [], [], [], [], ""
        self.in_notice = False
        self.feed(text)
        self.close()
        assert not self.stack

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag == "p":
            self.in_notice = dict(attrs).get("class") == "notice"
            self.notices += [""] * self.in_notice

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag
        self.in_notice = self.in_notice and tag != "p"

    def handle_data(self, data):
        if "style" in self.stack:
            return
        self.text += data
        if self.stack and self.stack[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data
        if self.in_notice:
            self.notices[-1] += data

    def of(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]

    def table(self, *words):
        """The only table that has a row which begins with each of the words."""
        found = [t for t in self.tables if all(any(row[0].startswith(word) for row in t) for word in words)]
        assert len(found) == 1, (words, len(found))
        return found[0]


def read(tmp_path, *results, videos=False):
    """The page of results, parsed, and its text."""
    folders = [toy.write(tmp_path / f"r{i}", values, videos) for i, values in enumerate(results)]
    made = write_report(folders, tmp_path / "out")
    text = (tmp_path / "out" / PAGE).read_text(encoding="utf-8")
    assert (made.page, made.bytes) == (str(tmp_path / "out" / PAGE), len(text.encode()))
    assert made.results == len(results)
    return Page(text), text


@pytest.mark.parametrize("standard", [True, False])
def test_every_figure_is_shown_at_its_place(tmp_path, standard):
    results = [toy.result(LONG_HORIZON, standard, seed) for seed in (1, 2)]
    page, _ = read(tmp_path, *results)
    measures = STANDARD if standard else LITE
    table = {row[0]: row[1:] for row in page.table("frames", "clips", "PSNR")}
    rows = [row for values in results for row in values["figures"]]
    assert table["frames"] == [f"{row['n_frames']:,}" for row in rows]
    assert len(table) == len(measures) + 3  # frames, clips, and the head, whose two lines begin alike
    for measure in measures:
        shown = table[f"{measure.title} {measure.better}"]
        assert len(shown) == len(rows) == 10
        for text, row in zip(shown, rows, strict=True):
            value, _, error = text.partition(" ± ")
            if row[measure.key] is None:
                assert text == "–"
                continue
            assert float(value.replace(",", "")) == pytest.approx(row[measure.key], rel=1e-3)
            assert bool(error) == bool(measure.error)
            if error:
                assert float(error) == pytest.approx(row[measure.error], rel=0.06)


def test_standard_figures_stand_beside_the_published_ones(tmp_path):
    values = toy.result(ZERO_SHOT, zero_shot=True)
    page, _ = read(tmp_path, values)
    head, own, ours, vista = page.table("MaskGWM-long", "Vista")
    assert head[1:] == ["FID, all frames ↓", "FVD ↓", "setting", "source"]
    assert own[0] == "model 0"
    assert own[1] == number(values["figures"][0]["fid"])
    assert ours[:3] == ["MaskGWM-long", "9.55", "118.8"]
    assert vista[:3] == ["Vista", "9.76", "176.6"]
    assert all(len(row) == 5 and row[3] and "2502.11663" in row[4] for row in (ours, vista))
    assert "Zero-shot: nothing of waymo" in page.text
    values["checkpoint"]["training_data"] = []
    assert "Zero-shot: nothing" not in read(tmp_path / "unknown", values)[1]  # where nobody wrote it down
    assert not page.notices
    assert not page.of("svg")  # one horizon


def test_fid_stands_with_that_of_as_many_frames(tmp_path):
    """Vista's 6.9 leaves the given frame out; it must not stand in the column of all frames."""
    values = toy.result(VISTA)
    page, _ = read(tmp_path, values)
    table = page.table("Vista", "GenAD")
    assert table[0][1:4] == ["FID, all frames ↓", "FID, given frames left out ↓", "FVD ↓"]
    assert table[1][2] == number(values["figures"][0]["fid_without_condition"])
    assert next(row for row in table if row[0] == "Vista")[1:3] == ["–", "6.9"]
    assert next(row for row in table if row[0] == "GenAD")[1:3] == ["15.4", "–"]


def test_lite_figures_never_meet_published_ones(tmp_path):
    standard, lite = toy.result(LONG_HORIZON, True, 1), toy.result(LONG_HORIZON, False, 2)
    page, _ = read(tmp_path, standard, lite)
    published = [t for t in page.tables if t[0][-1] == "source"]
    assert len(published) == 2
    assert any("model 1" in row[0] for row in published[0])
    assert not any("model" in row[0] for row in published[1])
    shown = {number(row[m.key]) for row in lite["figures"] for m in LITE if row[m.key] is not None}
    assert shown
    for table in page.tables:
        has_lite = any(cell.partition(" ± ")[0] in shown for row in table for cell in row)
        has_fid = any(row[0].startswith(("FID", "FVD", "KID")) for row in table)
        assert not (has_lite and has_fid), table
    assert any("other measures than published FID and FVD" in line for line in page.notices)
    assert any("2 kinds" in line for line in page.notices)
    assert page.text.count("MaskGWM, published") == 1  # the published curves: in the standard section alone
    assert len([a for a in page.of("svg") if "aria-label" in a]) == 4


def test_curves_of_figure_7_belong_to_their_protocol(tmp_path):
    page, _ = read(tmp_path, toy.result(LONG_HORIZON))
    for name in ("MaskGWM, published", "MaskGWM without mask reconstruction, published", "Vista, published"):
        assert page.text.count(name) == 1
    other = replace(LONG_HORIZON, name="something-new", title="New")
    page, _ = read(tmp_path / "other", toy.result(other))
    assert len([a for a in page.of("svg") if "aria-label" in a]) == 2
    assert ", published" not in page.text
    assert "No figures are known here that are published for protocol something-new" in page.text


def test_a_partial_result_says_so_first(tmp_path):
    values = toy.result(partial=True, limit=4, warnings=["fvd is biased upward: 4 clips for 400 feature dimensions"])
    values["data"] |= {"clips": 5}
    values["missing"] = [{"key": "drive-7@0", "cause": "its third frame is damaged"}]
    page, text = read(tmp_path, values)
    assert "Partial result: 4 of the protocol's 300 clips (--limit 4)" in page.notices[0]
    assert any("1 clip is missing" in line for line in page.notices)
    assert any("4 clips for 400 feature dimensions" in line for line in page.notices)
    assert text.index("Partial result") < text.index("biased upward") < text.index("<table")
    assert ["missing: drive-7@0", "its third frame is damaged"] in page.table("missing")
    assert "model 0, partial" in page.text
    whole, _ = read(tmp_path / "whole", toy.result())
    assert "artial" not in whole.text


def test_the_page_says_what_made_it(tmp_path):
    values = toy.result(actions=True)
    page, _ = read(tmp_path, values)
    cells = dict(page.table("checkpoint: name"))
    for group, title in {
        "checkpoint": "checkpoint",
        "data": "data",
        "features": "features",
        "versions": "version",
    }.items():
        for key, value in values[group].items():
            if isinstance(value, str | int) and not isinstance(value, bool):
                assert cells[f"{title}: {key.replace('_', ' ')}"] == str(value)
    assert cells["sampling: guidance range"] == "0.0, 1.0"
    assert (cells["size"], cells["device"], cells["seconds"]) == ("128x64", "cpu", "12.3")
    assert cells["told the actions"] == "yes"
    assert dict(page.table("dataset", "condition frames"))["actions"] == "no"
    assert all(line in page.text for line in LONG_HORIZON.decisions)


def test_the_page_needs_nothing_and_runs_nothing(tmp_path):
    page, text = read(tmp_path, toy.result(examples=toy.EXAMPLES), videos=True)
    assert len(page.of("video")) == 4
    bare = re.sub(r"data:video/mp4;base64,[\w+/=]+", "", text)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", bare)
    assert not {"script", "link", "iframe", "img", "object", "base"} & {tag for tag, _ in page.elements}
    for _, attrs in page.elements:
        assert not [name for name in attrs if name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            assert attrs.get(name, "#").startswith(("#", "data:video/mp4;base64,"))
    policy = next(a["content"] for a in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "script-src" not in policy


def test_videos_are_in_the_page_worst_first(tmp_path):
    page, text = read(tmp_path, toy.result(examples=toy.EXAMPLES), videos=True)
    videos = [base64.b64decode(a["src"].partition(",")[2]) for a in page.of("video")]
    names = ("worst-1", "worst-2", "best-1", "best-2")
    assert videos == [(tmp_path / "r0" / "examples" / f"{name}.mp4").read_bytes() for name in names]
    assert len(set(videos)) == 4
    assert all({"controls", "muted", "loop", "autoplay", "playsinline"} <= set(a) for a in page.of("video"))
    assert "drive-best-1@0, PSNR 24.5 dB" in page.text
    assert text.index(">Worst<") < text.index(">Best<")


def test_a_missing_video_is_a_line_and_no_file_from_elsewhere_enters(tmp_path):
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    first, *others = toy.EXAMPLES
    values = toy.result(examples=[first | {"video": "../secret.mp4"}, *others, first | {"video": "no\0name.mp4"}])
    folder = toy.write(tmp_path / "r", values, videos=False)
    made = write_report([folder], tmp_path / "out")
    page = Page((tmp_path / "out" / PAGE).read_text())
    assert made.videos == len(page.of("video")) == 0
    assert [line for line in page.notices if "is not there" in line] == [
        f"{name} is not there." for name in ("examples/worst-1.mp4", "examples/worst-2.mp4", "../secret.mp4",
                                             "examples/best-2.mp4", "no\0name.mp4")
    ]  # fmt: skip


def test_names_are_escaped_everywhere(tmp_path):
    protocol = replace(LONG_HORIZON, title=NASTY, source=NASTY, decisions=(NASTY,))
    values = toy.result(protocol, warnings=[NASTY], missing=[{"key": NASTY, "cause": NASTY}], device=NASTY)
    values["checkpoint"] |= {"name": NASTY, "training_data": [NASTY]}
    values["examples"] = [{"kind": "best", "key": NASTY, "psnr": None, "video": NASTY}]
    page, text = read(tmp_path, values, values | {"versions": {NASTY: NASTY}})
    assert "<script" not in text
    assert not page.of("script")
    assert page.text.count(NASTY) > 15
    assert "PSNR not measured" in page.text


def test_results_have_names_of_their_own(tmp_path):
    same = [toy.result(seed=1), toy.result(seed=1), toy.result(seed=2)]
    page, _ = read(tmp_path, *same)
    assert page.table("frames", "PSNR")[0] == ["", "model 1 (r0)", "model 1 (r1)", "model 2"]


def test_the_same_result_twice_counts_once_and_a_file_is_as_good_as_its_folder(tmp_path):
    folder = toy.write(tmp_path / "r", toy.result(), videos=False)
    assert write_report([folder, folder / "result.json", folder / ".." / "r"], tmp_path / "out").results == 1


def test_unlike_results_are_named(tmp_path):
    a, b = toy.result(seed=1), toy.result(seed=2, size=[256, 128])
    page, _ = read(tmp_path, a, b)
    assert "Not the same in all of these results: size of the frames. Compare them with care." in page.notices
    page, _ = read(tmp_path / "alike", a, toy.result(seed=2))
    assert not page.notices


def test_one_section_for_each_protocol(tmp_path):
    page, text = read(tmp_path, toy.result(ZERO_SHOT), toy.result(ABLATION, seed=1), toy.result(ZERO_SHOT, seed=2))
    assert re.findall("<h2>(.*?)</h2>", text) == [ZERO_SHOT.title, ABLATION.title.replace("'", "&#x27;")]
    assert "2 kinds" in page.notices[0]
    assert len([t for t in page.tables if t[0][1:] == ["model 0", "model 2"]]) == 1


def test_null_figures_leave_gaps(tmp_path):
    values = toy.result(LONG_HORIZON)
    for row in values["figures"]:
        row.update(fvd=None, fvd_se=None)
    values["figures"][2]["fid"] = None
    page, _ = read(tmp_path, values)
    assert [a["aria-label"].partition(",")[0] for a in page.of("svg") if "aria-label" in a] == ["FID"]
    table = page.table("frames", "PSNR")
    assert next(row for row in table if row[0] == "FVD ↓")[1:] == ["–"] * 5


def test_the_same_results_make_the_same_bytes(tmp_path):
    folder = toy.write(tmp_path / "r", toy.result())
    pages = []
    for name in ("a", "b"):
        write_report([folder], tmp_path / name)
        pages.append((tmp_path / name / PAGE).read_bytes())
    assert pages[0] == pages[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v | {"format": "gwm-scores"}, "has format 'gwm-scores'"),
        (lambda v: v | {"version": 2}, "version 2, and gwm .* reads version 1"),
        (lambda v: v | {"finished": False}, "has not finished; the same `gwm eval` command continues it"),
        (lambda v: {k: x for k, x in v.items() if k != "sampling"}, r"damaged \(KeyError\('sampling'\)"),
        (lambda v: v | {"figures": []}, "damaged .*figures is empty"),
        (lambda v: v | {"figures": [{"horizon_s": 2.5, "n_frames": 1, "n_clips": 1, "fid": "many"}]}, "damaged .*many"),
        (lambda v: v | {"figures": [3]}, "damaged"),
        (lambda v: v | {"seconds": float("nan")}, "damaged .*NaN"),
        (lambda v: v | {"examples": [{"kind": "fair", "key": "a", "video": "b"}]}, "damaged .*fair"),
        (lambda v: v | {"size": [1]}, "damaged"),
        (lambda v: v | {"figures": [v["figures"][0] | {"fid": 10**400}]}, "damaged .*too large"),
        (lambda v: [v], "damaged"),
    ],
)
def test_bad_results_are_one_message(tmp_path, change, message):
    folder = toy.write(tmp_path / "r", toy.result(), videos=False)
    (folder / "result.json").write_text(json.dumps(change(toy.result())))
    with pytest.raises(ConfigError, match=message):
        write_report([folder], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_result_is_one_message(tmp_path):
    (tmp_path / "empty").mkdir()
    for given in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match=r"no result at .*give the -o of a `gwm eval`"):
            write_report([given], tmp_path / "out")
    folder = toy.write(tmp_path / "r", toy.result(), videos=False)
    whole = (folder / "result.json").read_text()
    (folder / "result.json").write_text(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"result\.json is damaged"):
        write_report([folder], tmp_path / "out")


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path):
    folder = toy.write(tmp_path / "r", toy.result(), videos=False)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="choose another folder with -o"):
        write_report([folder], tmp_path / "file" / "out")
    (tmp_path / "out" / PAGE).mkdir(parents=True)
    with pytest.raises(ConfigError, match="choose another folder with -o"):
        write_report([folder], tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == [PAGE]


def test_published_figures_fit_their_protocols():
    by_name = {protocol.name: protocol for protocol in PROTOCOLS}
    for line in PUBLISHED:
        assert line.fid or line.fid_without_condition or line.fvd
        assert line.setting
        assert line.source
        for name in line.protocols:
            for values in (line.fid, line.fid_without_condition, line.fvd):
                assert len(values) in (0, len(by_name[name].horizons))
    assert all(published_for(name) for name in by_name)
    assert {line.method for line in published_for(MASKGWM.name)} > {"MaskGWM-long", "Vista", "GenAD"}
    assert not published_for("something-new")


def test_reader_and_writer_mean_the_same_file():
    ours = report_result.FILE, report_result.FORMAT, report_result.VERSION
    assert ours == (eval_record.RESULT_FILE, eval_record.FORMAT, eval_record.VERSION)


def test_curves_are_drawn_at_their_values():
    """A higher value lies higher, in proportion, on an axis that begins at 0."""
    svg = draw([Curve("a", ((1.0, 10.0), (2.0, 20.0), (3.0, 40.0)), colour="#123456")], "title", "FID")
    line = re.search(r'<path d="M ([\d. L\n]+)"[^>]*stroke: #123456', svg)
    assert line
    y = [float(point.split()[1]) for point in line[1].split("L")]
    steps = [a - b for a, b in pairwise(y)]
    assert steps[0] > 0
    assert steps[1] == pytest.approx(2 * steps[0], rel=1e-3)
    assert "#010203" not in svg


def test_the_command(tmp_path, monkeypatch):
    folder = toy.write(tmp_path / "r", toy.result(), videos=False)
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command()(command)
    answer = CliRunner().invoke(app, [str(folder), "--json"])
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["page"] == "out/report-001/report.html"
    assert (tmp_path / "out/report-001/report.html").is_file()
    assert CliRunner().invoke(app, []).exit_code != 0
