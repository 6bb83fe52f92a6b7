"""report.py: complete, ordered, self-contained, and deaf to what strangers call their folders."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pytest

from advit.errors import AdvitError
from advit.notebooks import WIDGET
from advit.report import build_report, safe_markdown

bs4 = pytest.importorskip("bs4")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbconvert")
v4 = nbformat.v4

EVIL = "<img src=x onerror=alert(1)>"
PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="  # one pixel
)
TITLE = "# Two `associations`\n\n**Question:** Do they *differ*? Section 3.2.\n\nSee [next](02_b.ipynb#x), "
TITLE += "[code](../advit/attention.py), [paper](https://arxiv.org/abs/2110.02642), [bad](javascript:alert(1)).\n"
CELL = '![far](https://a.org/x.png) <img src="//a.org/y.png"> <script src="https://a.org/z.js"></script> $x$\n'
CELL += '<style>@import url(https://a.org/s.css);</style> <b onclick="f()" style="background: url(//a.org)">b</b>\n'
CELL += '<svg><image href="https://a.org/i.png" xlink:href="https://a.org/i.png"/></svg>\n'


def shown(kind: str, value, **metadata):
    return v4.new_output("display_data", data={kind: value, "text/plain": "<Figure size 1x1>"}, metadata=metadata)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Results and figures with two notebooks, four tables, two figures and names that look like HTML."""
    results, figures = tmp_path / "results" / "quick", tmp_path / "figures" / "quick"
    for folder in (results / "notebooks", results / "tables", figures):
        folder.mkdir(parents=True)
    outputs = [
        v4.new_output("stream", name="stdout", text=f"printed {EVIL}"),
        v4.new_output("error", ename="E", evalue=EVIL, traceback=[f"raised {EVIL}"]),
        shown(WIDGET, {"model_id": "1", "version_major": 2}),
        shown("image/png", PNG, **{"image/png": {"width": 40}, "alt": f'picture "{EVIL}'}),
        shown("image/png", PNG + '"><script>alert(3)</script>'),
        shown("image/svg+xml", "<svg onload='alert(4)'></svg>"),
        shown("text/markdown", f"Markdown.\n\n| name | n |\n|---|---:|\n| {EVIL} | 1 |\n\n<script>alert(5)</script>\n"),
        shown("text/html", f"<style scoped>x</style><table><tr><td>{EVIL}</td></tr></table><iframe src='//a.org'>"),
        shown("application/javascript", "alert(6)"),
        shown("text/vnd.mermaid", "graph"),
    ]
    code = v4.new_code_cell("x = '<script>'", execution_count=1, outputs=outputs)
    first = v4.new_notebook(cells=[v4.new_markdown_cell(TITLE), v4.new_markdown_cell(CELL), code])
    first.metadata.widgets = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    second = v4.new_notebook(cells=[v4.new_markdown_cell("# Second\n\nNo question.")])
    for name, notebook in (("01_a", first), ("02_b", second)):
        (results / "notebooks" / f"{name}.ipynb").write_text(nbformat.writes(notebook))
    (results / "notebooks" / "03_c.failed.ipynb").write_text("")
    for name in ("ablation", "claims", "main", EVIL):
        text = f"Caption of {name}, *sd* of {EVIL}.\n\n| category | AUROC |\n|---|---|\n| {EVIL} | 0.5 |\n"
        (results / "tables" / f"{name}.md").write_text(text)
    (results / "tables" / "main.csv").write_text("category\n")
    (results / "tables" / "main.tex").write_text("x")
    from matplotlib.figure import Figure

    for name, alt in (("a", "What <b>is</b> seen."), (EVIL, "")):
        figure = Figure(figsize=(1, 1))
        figure.savefig(figures / f"{name}.png", metadata={"Description": alt} if alt else {})
        figure.savefig(figures / f"{name}.svg")
    record = {"commit": "66e58a5", "dirty": False, "versions": {"torch": "2.13.0"}, "seeds": [0, 1]}
    record["data"] = {EVIL: "9f"}
    (results / "provenance.json").write_text(json.dumps(record))
    return results, figures


@pytest.fixture
def pages(folders, tmp_path) -> dict:
    """Every page of the report, parsed."""
    index = build_report(*folders, tmp_path / "out", f"Title {EVIL}")
    assert index == tmp_path / "out" / "index.html"
    found = sorted((tmp_path / "out").rglob("*.html"))
    return {p.relative_to(tmp_path / "out").as_posix(): bs4.BeautifulSoup(p.read_text(), "html.parser") for p in found}


def words(node) -> str:
    return " ".join(node.get_text(" ").split())


def test_the_index_has_everything_in_order(pages):
    assert list(pages) == ["index.html", "notebooks/01_a.html", "notebooks/02_b.html"]
    index = pages["index.html"]
    assert words(index.h1) == words(index.title) == f"Title {EVIL}"
    assert [words(h) for h in index.find_all("h2")] == ["Summary", "Notebooks", "Figures", "Tables", "Provenance"]
    tables = [f["id"] for f in index.select("figure:has(table)")]
    assert tables == ["table-claims", "table-main", f"table-{EVIL}", "table-ablation"]
    main = index.find(id="table-main")
    assert words(main.figcaption) == f"Caption of main, sd of {EVIL}."
    assert [words(cell) for cell in main.find_all(["th", "td"])] == ["category", "AUROC", EVIL, "0.5"]
    assert [(a.text, a["href"]) for a in main.find_all("a")] == [
        ("CSV", "tables/main.csv"), ("TEX", "tables/main.tex"), ("MD", "tables/main.md")
    ]  # fmt: skip
    assert [words(li) for li in index.select("ul li")] == [
        "Two associations Do they differ?", "Second", "03_c.failed.ipynb A cell failed: JupyterLab shows where."
    ]  # fmt: skip
    assert [img["alt"] for img in index.select(".gallery img")] == [f"Figure {EVIL}", "What <b>is</b> seen."]
    rows = [words(row) for row in index.select(".provenance tr")]
    assert rows == ["commit 66e58a5", "dirty no", "versions / torch 2.13.0", "seeds 0, 1", f"data / {EVIL} 9f"]


def test_links_inside_the_report_lead_somewhere(pages, tmp_path):
    count = 0
    for name, soup in pages.items():
        for node in soup.find_all(["a", "img"]):
            link = node.get("href") or node.get("src")
            if link.startswith(("data:", "https://")):
                continue
            file, _, part = link.partition("#")
            target = (tmp_path / "out" / name).parent / unquote(file) if file else tmp_path / "out" / name
            assert target.is_file(), link
            if part and not file:
                assert soup.find(id=unquote(part)), link
            count += 1
    assert count > 20
    page = pages["notebooks/01_a.html"]
    assert [a["href"] for a in page.select("nav a")] == ["../index.html", "02_b.html"]
    links = {a.text: a["href"] for a in page.select("main p a")}
    assert links == {"next": "02_b.html#x", "paper": "https://arxiv.org/abs/2110.02642"}
    assert "See next, code, paper, bad" in re.sub(r" ,", ",", words(page))


def test_nothing_is_loaded_and_nothing_runs(pages):
    """No script, no event handler, no address of a resource that leaves the folder, in attributes or in styles."""
    for name, soup in pages.items():
        assert soup.select("script, link, iframe, object, embed, base, form, [http-equiv], [srcset]") == [], name
        for node in soup.find_all(True):
            assert not [a for a in node.attrs if a.startswith("on")], node
            if node.name != "a":
                addresses = [node[a] for a in ("src", "href", "xlink:href", "data", "poster") if a in node.attrs]
                assert not [a for a in addresses if re.match(r"\s*(\w+:)?//|\w+:(?<!data:)", a)], node
            elif "href" in node.attrs:
                assert not re.match(r"\s*(javascript|data|vbscript|file):", node["href"], re.IGNORECASE), node
        styles = [s.text for s in soup.find_all("style")] + [n["style"] for n in soup.select("[style]")]
        for style in styles:
            assert "@import" not in style
            assert re.findall(r"url\(\s*[\"']?(?!data:)[^)]{0,80}", style) == []
        for address in re.findall(r"https?://[^\s\"'<>)]+", re.sub(r"/\*.*?\*/", "", str(soup), flags=re.DOTALL)):
            known = ("https://arxiv.org/", "http://www.w3.org/", "https://a.org/x.png")  # a link, a namespace, a text
            assert address.startswith(known), address


def test_names_come_out_as_text(pages):
    page = pages["notebooks/01_a.html"]
    text = words(page)
    for said in (f"printed {EVIL}", f"raised {EVIL}", f"{EVIL} 1", "<script>alert(5)</script>", "x = '<script>'"):
        assert said in text, said
    assert text.count(EVIL) == 4  # stdout, error, Markdown, HTML
    assert "alert(6)" not in text and page.find("img", src="x") is None
    assert [words(td) for td in page.select(".jp-OutputArea td")] == [EVIL, "1", EVIL]
    assert page.select_one(".jp-OutputArea th:last-child")["style"] == "text-align:right;"


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        (EVIL, EVIL),
        ("&lt;img src=x onerror=alert(1)&gt; &amp; `&lt;`", EVIL + " & &lt;"),
        ("$<img src=x>$ <b>b</b>", "$<img src=x>$ <b>b</b>"),
        ("![i](x.png)", '<img src="x.png" alt="i" />'),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
    ],
)
def test_markdown_of_names_is_read_as_it_is_written(source, seen):
    soup = bs4.BeautifulSoup(safe_markdown(f"| a |\n|---|\n| {source} |\n"), "html.parser")
    assert words(soup.td) == seen and soup.td.find(["img", "script", "b"]) is None


def test_images_have_their_text_and_widgets_are_gone(pages):
    page = pages["notebooks/01_a.html"]
    images = page.select(".jp-OutputArea img")
    assert [i["alt"] for i in images] == [f'picture "{EVIL}', "Output of cell 3", "Output of cell 3"]
    assert images[0]["src"] == f"data:image/png;base64,{PNG}" and images[0]["width"] == "40"
    assert images[2]["src"].startswith("data:image/svg+xml;base64,")
    assert "[far: https://a.org/x.png]" in words(page)
    assert page.select(".jupyter-widgets") == [] and "model_id" not in str(page)
    assert len(page.select(".jp-OutputArea-child")) == 9  # of ten outputs


def test_two_reports_are_equal_bytes(folders, tmp_path):
    first, second = (build_report(*folders, tmp_path / name, "T").parent for name in ("one", "two"))
    files = [p.relative_to(first) for p in first.rglob("*") if p.is_file()]
    assert len(files) == 3 + 6 + 4
    assert [p for p in files if (first / p).read_bytes() != (second / p).read_bytes()] == []


def test_parts_may_be_missing_but_not_all(folders, tmp_path):
    results, figures = folders
    for part in (results / "notebooks", results / "tables", results / "provenance.json"):
        shutil.rmtree(part) if part.is_dir() else part.unlink()
    soup = bs4.BeautifulSoup(build_report(results, figures, tmp_path / "out", "T").read_text(), "html.parser")
    assert [words(h) for h in soup.find_all("h2")] == ["Figures"]
    with pytest.raises(AdvitError, match=r"Nothing to report: no notebooks or tables in .*quick, no figures in"):
        build_report(results, tmp_path / "none", tmp_path / "out", "T")


def test_a_damaged_record_is_named(folders, tmp_path):
    (folders[0] / "provenance.json").write_text("{")
    with pytest.raises(AdvitError, match=r"provenance\.json is damaged .* Run the reproduction again"):
        build_report(*folders, tmp_path / "out", "T")


def test_a_report_beside_its_sources_leaves_them_alone(folders):
    results, figures = folders
    before = {p: p.read_bytes() for p in results.rglob("*") if p.is_file()}
    build_report(results, figures, results, "T")
    assert {p: p.read_bytes() for p in before} == before


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_a_browser_shows_it_and_runs_nothing(folders, tmp_path):
    build_report(*folders, tmp_path / "out", "T")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--dump-dom"]
    for page in ("index.html", "notebooks/01_a.html"):
        command = ["chromium", *options, f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "out" / page).as_uri()]
        dom = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
        soup = bs4.BeautifulSoup(dom, "html.parser")
        assert EVIL in words(soup) and soup.select("[onerror], script") == []
