"""The report: executed notebooks, tables and figures as a folder of HTML that opens from disk, without a network.

Chosen: nbconvert, which comes with JupyterLab; MyST and Jupyter Book need node and download a template on first use.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from html import escape, unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from PIL import Image

from advit.errors import AdvitError
from advit.files import atomic, write_text
from advit.notebooks import WIDGET, notebook_paths, read, require
from advit.report_style import CSS, INDEX, PAGE, PAGE_CSS

FIRST_TABLES = ("claims", "main")
IMAGES = ("image/png", "image/jpeg", "image/svg+xml")
TEXT_TAGS = ["p", "br", "hr", "ul", "ol", "li", "dl", "dt", "dd", "blockquote", "pre", "code", "span", "div"]
TEXT_TAGS += ["em", "strong", "b", "i", "sub", "sup", "del", *(f"h{level}" for level in range(1, 7))]
TEXT_TAGS += ["table", "caption", "colgroup", "col", "thead", "tbody", "tfoot", "tr", "th", "td"]
LOADERS = "script, link, iframe, frame, object, embed, base, form, meta[http-equiv], main style"
DARK = "screen and (prefers-color-scheme: dark)"
PANDAS_STYLE = re.compile(r"<style scoped>.*?</style>", re.DOTALL)


def build_report(results: Path, figures: Path, out: Path, title: str) -> Path:
    """Render the folders of one reproduction to ``out``; files of an earlier report are overwritten, none deleted.

    Args:
        results: ``notebooks/NN_*.ipynb``, ``tables/*.{md,csv,tex}`` (the Markdown begins with its caption) and
            ``provenance.json``; each may be missing, but not all.
        figures: ``*.png`` and ``*.svg``; a PNG's "Description" is its alternative text.

    Returns:
        The path of ``index.html``.

    Names of categories and defects are a stranger's: whatever comes from them is shown as text, never run or loaded.
    Test: tests/test_report.py
    """
    require("nbconvert", "nbformat", "bs4", "bleach", "jinja2")
    from jinja2 import Environment
    from markupsafe import Markup

    results, figures, out = Path(results), Path(figures), Path(out)
    tables, gallery = table_entries(results / "tables", out), figure_entries(figures, out)
    pages = notebook_pages(results / "notebooks", out)
    failed = sorted(path.name for path in (results / "notebooks").glob("*.failed.ipynb"))
    if not (tables or gallery or pages or failed):
        raise AdvitError(f"Nothing to report: no notebooks or tables in {results}, no figures in {figures}.")
    content = {
        "first": [t for name in FIRST_TABLES for t in tables if t["name"] == name],
        "others": [t for t in tables if t["name"] not in FIRST_TABLES],
        "pages": pages,
        "failed": failed,
        "figures": gallery,
        "provenance": list(provenance_rows(results / "provenance.json")),
    }
    sections = {"Summary": "first", "Notebooks": "pages", "Figures": "figures", "Tables": "others"}
    parts = [name for name, key in {**sections, "Provenance": "provenance"}.items() if content[key]]
    index = Environment(autoescape=True).from_string(INDEX)
    write_text(out / "index.html", index.render(title=title, css=Markup(CSS), parts=parts, **content))
    return out / "index.html"


def table_entries(folder: Path, out: Path) -> list[dict[str, Any]]:
    """Name, caption, HTML and files of each table, sorted by name; the files are copied."""
    from markupsafe import Markup

    entries = []
    for path in sorted(folder.glob("*.md")):
        lines = path.read_text(encoding="utf-8").strip().splitlines()
        start = next((i for i, line in enumerate(lines) if line.lstrip().startswith("|")), len(lines))
        caption = re.sub(r"^<p>|</p>\s*$", "", safe_markdown("\n".join(lines[:start])).strip())
        files = [(kind.upper(), path.with_suffix(f".{kind}")) for kind in ("csv", "tex", "md")]
        entries.append({
            "name": path.stem,
            "caption": Markup(caption),
            "html": Markup(safe_markdown("\n".join(lines[start:]))),
            "files": [(kind, copied(file, out, "tables")) for kind, file in files if file.exists()],
        })  # fmt: skip
    return entries


def figure_entries(folder: Path, out: Path) -> list[dict[str, Any]]:
    """Name, alternative text and files of each figure, sorted by name; the files are copied."""
    entries = []
    for stem in sorted({path.stem for kind in ("png", "svg") for path in folder.glob(f"*.{kind}")}):
        files = [(kind.upper(), folder / f"{stem}.{kind}") for kind in ("png", "svg")]
        links = [(kind, copied(file, out, "figures")) for kind, file in files if file.exists()]
        caption = description(folder / f"{stem}.png")
        alt = caption or f"Figure {stem.replace('_', ' ')}"
        entries.append({"name": stem, "caption": caption, "alt": alt, "href": links[0][1], "files": links})
    return entries


def description(path: Path) -> str:
    """The text that a PNG file carries under "Description", or an empty string."""
    try:
        with Image.open(path) as image:
            return str(image.info.get("Description", "")).strip()
    except OSError:
        return ""


def copied(file: Path, out: Path, part: str) -> str:
    """Copy a file into a folder of the report; returns the link to it."""
    target = out / part / file.name
    if not (target.exists() and target.samefile(file)):
        with atomic(target) as temporary:
            shutil.copyfile(file, temporary)
    return f"{part}/{quote(file.name)}"


def provenance_rows(path: Path) -> Iterator[tuple[str, str]]:
    """Every value of a JSON file with its key; nested keys as "versions / torch"."""
    try:
        yield from flat(json.loads(path.read_text(encoding="utf-8")), "")
    except FileNotFoundError:
        return
    except ValueError as error:
        raise AdvitError(f"{path} is damaged ({error}). Run the reproduction again.") from error


def flat(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Key and text of each leaf."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from flat(inner, f"{key} / {name}" if key else str(name))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for i, inner in enumerate(value, start=1):
            yield from flat(inner, f"{key} {i}")
    else:
        words = {True: "yes", False: "no", None: "unknown"}
        items = value if isinstance(value, list) else [value]
        yield key, ", ".join(words[v] if v is None or isinstance(v, bool) else str(v) for v in items)


def notebook_pages(folder: Path, out: Path) -> list[dict[str, Any]]:
    """Write a page per notebook; title, question and link of each, in order."""
    notebooks = [(path, read(path)) for path in notebook_paths(folder)]
    pages = [page_entry(path, notebook) for path, notebook in notebooks]
    names = {quote(path.name): f"{quote(path.stem)}.html" for path, _ in notebooks}
    for i, (path, notebook) in enumerate(notebooks):
        links = [("../index.html", "Report")]
        links += [(f"../{pages[i - 1]['href']}", f"← {pages[i - 1]['title']}")] if i else []
        links += [(f"../{pages[i + 1]['href']}", f"{pages[i + 1]['title']} →")] if i + 1 < len(pages) else []
        links = [(href.replace("../notebooks/", ""), name) for href, name in links]
        write_text(out / "notebooks" / f"{path.stem}.html", page(notebook, path, pages[i]["title"], links, names))
    return pages


def page_entry(path: Path, notebook: Any) -> dict[str, str]:
    """Link of a page, its first heading, and the first question below that, if there is one."""
    text = "\n".join(cell.source for cell in notebook.cells[:1] if cell.cell_type == "markdown")
    plain = re.sub(r"[*`]|\[([^\]]*)\]\([^)]*\)", lambda m: m[1] or "", text)
    heading = re.search(r"^#+\s+(.+)$", plain, re.MULTILINE)
    body = " ".join(plain[heading.end() if heading else 0 :].split())
    question = re.search(r"(?:^|(?<=[.!?:]\s))(?!Question\b)[^.!?:]*\?", body)
    return {
        "href": f"notebooks/{quote(path.stem)}.html",
        "title": heading[1].strip() if heading else path.stem,
        "question": question[0] if question else "",
    }


def page(notebook: Any, path: Path, title: str, links: list[tuple[str, str]], names: dict[str, str]) -> str:
    """One notebook as HTML; ``names``: pages of the notebooks that it may link to."""
    from bs4 import BeautifulSoup
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter

    for number, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type == "code":
            where = f"Output of cell {number}"
            cell.outputs = [safe for o in cell.outputs if (safe := safe_output(o, where)) is not None]
    notebook.metadata.pop("widgets", None)
    exporter = HTMLExporter(
        template_name="lab", template_file="page.html.j2", extra_loaders=[DictLoader({"page.html.j2": PAGE})],
        embed_images=True, anchor_link_text="",
    )  # fmt: skip
    report = {"css": PAGE_CSS, "dark": f'media="{DARK}"', "links": links}
    resources = {"metadata": {"name": title, "path": str(path.parent)}, "report": report}
    html, _ = exporter.from_notebook_node(notebook, resources)
    return without_network(BeautifulSoup(html, "html.parser"), names)


def safe_output(output: Any, alt: str) -> Any | None:
    """An output reduced to one form that neither runs nor loads anything; None for a widget, whose figure stands by."""
    import nbformat

    if output.output_type in ("stream", "error"):
        return output  # escaped by the template
    data, meta = output.data, output.get("metadata", {})
    if WIDGET in data:
        return None
    image = next((kind for kind in IMAGES if kind in data), None)
    if image:
        from nbconvert.filters import text_base64

        text = data.get("text/plain", "")
        alt = meta.get("alt") or meta.get(image, {}).get("alt") or (alt if text[:1] in ("<", "") else text)
        code = text_base64(data[image]) if image == "image/svg+xml" else "".join(str(data[image]).split())
        size = "".join(f' {k}="{int(v)}"' for k in ("width", "height") if (v := meta.get(image, {}).get(k)))
        html = f'<img src="data:{image};base64,{escape(code)}" alt="{escape(alt)}"{size}>'
    elif "text/markdown" in data:
        html = safe_markdown(data["text/markdown"])
    elif "text/html" in data:
        html = safe_html(PANDAS_STYLE.sub("", data["text/html"]))
    else:
        return nbformat.from_dict({**output, "data": {"text/plain": data.get("text/plain", "")}})
    return nbformat.from_dict({**output, "data": {"text/html": html}, "metadata": {}})


def safe_markdown(text: str) -> str:
    """Markdown as HTML in which HTML of the source is text, whether it was escaped there or not; links stay."""
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def text(self, text: str) -> str:
            return escape(unescape(text), quote=False)

    renderer = Renderer(escape=True, exclude_anchor_links=True)
    return safe_html(MarkdownWithMath(renderer=renderer).render(text), links=True)


def safe_html(text: str, links: bool = False) -> str:
    """HTML of text and tables alone; every other tag becomes text, so that a name that looks like one is read."""
    import bleach
    from bleach.css_sanitizer import CSSSanitizer

    spans = ["colspan", "rowspan", "scope"]
    attributes = {"*": ["class", "style"], "a": ["href"], "th": spans, "td": spans}
    tags = [*TEXT_TAGS, "a"] if links else TEXT_TAGS
    css = CSSSanitizer(allowed_css_properties=["text-align"])
    return bleach.clean(text, tags=tags, attributes=attributes, protocols=["http", "https"], css_sanitizer=css)


def without_network(soup: Any, names: dict[str, str]) -> str:
    """A page without scripts and without images that are not in it; links to other notebooks lead to their pages."""
    for node in soup.select(LOADERS):
        node.decompose()
    for node in soup.find_all(True):
        loads = ("srcset", "background", "poster", "xlink:href") + (() if node.name == "a" else ("href",))
        for name in [n for n in node.attrs if n.startswith("on") or n in loads]:
            del node[name]
        if node.name != "a" and not node.get("src", "data:").startswith("data:"):
            node.replace_with(f"[{node.get('alt') or 'image'}: {node['src']}]")
        if "url(" in node.get("style", ""):
            del node["style"]
        if node.name == "a" and (href := urlsplit(node.get("href", "#"))).scheme not in ("http", "https", "mailto"):
            if href.path.removeprefix("./") in names:
                node["href"] = names[href.path.removeprefix("./")] + (f"#{href.fragment}" if href.fragment else "")
            elif href.scheme or not (node["href"].startswith("#") or href.path.endswith(".html")):
                node.unwrap()  # a file of the repository, which the report does not hold
    return str(soup)
