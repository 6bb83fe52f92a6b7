"""Style and templates of the HTML report."""

CSS = """
:root { color-scheme: light dark; --text: #1a1a1a; --faint: #5a5a5a; --line: #d4d4d4; --back: #fff; --link: #005a8c; }
@media screen and (prefers-color-scheme: dark) {
  :root { --text: #e4e4e4; --faint: #a8a8a8; --line: #444; --back: #16181a; --link: #7cc4f0; } }
body.report { margin: 0 auto; padding: 1.5rem; max-width: 60rem; background: var(--back); color: var(--text);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
.report a { color: var(--link); }
.report h1 { font-size: 1.9rem; line-height: 1.2; margin: 1rem 0; }
.report h2 { font-size: 1.3rem; margin: 2.5rem 0 .75rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line); }
.report nav { font-size: .9rem; display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; }
.report figure { margin: 0 0 2rem; }
.report figcaption { margin-bottom: .5rem; }
.faint, .files { color: var(--faint); font-size: .875rem; }
.files { margin: .4rem 0 0; }
.scroll { overflow-x: auto; }
.report table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
.report th, .report td { padding: .3rem .75rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
.report thead th { border-bottom: 2px solid var(--faint); vertical-align: bottom; }
.report [style*="right"] { padding-right: .25rem; padding-left: 1rem; }
.list { padding-left: 0; list-style: none; }
.list li { margin-bottom: .75rem; }
.list p { margin: 0; color: var(--faint); }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(26rem, 100%), 1fr)); gap: 1rem 2rem;
  align-items: start; }
.report img { max-width: 100%; height: auto; background: #fff; }
.gallery figcaption { margin: .4rem 0 0; font-size: .9rem; overflow-wrap: anywhere; }
.gallery img { box-sizing: border-box; width: 100%; max-height: 24rem; object-fit: contain; padding: .4rem;
  border: 1px solid var(--line); }
.provenance th { font-weight: normal; color: var(--faint); padding-right: 1.5rem; }
.provenance td { overflow-wrap: anywhere; font-family: ui-monospace, Consolas, "DejaVu Sans Mono", monospace; }
@media print { body.report { max-width: none; padding: 0; font-size: 10pt; } .report nav { display: none; }
  figure, tr { break-inside: avoid; } h2 { break-after: avoid; } .scroll { overflow: visible; } }
"""
PAGE_CSS = """
main img { max-width: 100%; height: auto; background: #fff; }
body.jp-Notebook { margin: 0 auto; padding: 1.5rem; max-width: 66rem; overflow: visible; }
body.jp-Notebook main { padding: 0; }
.jp-RenderedHTMLCommon { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
  line-height: 1.55; }
.jp-RenderedHTMLCommon > *, .jp-RenderedHTMLCommon { max-width: 60rem; }
.jp-OutputArea-output, .jp-MarkdownOutput { overflow-x: auto; padding-left: 5px; }
body .jp-OutputArea-child:not(.jp-OutputArea-executeResult) > .jp-OutputArea-output { padding-left: 13px; }
.jp-RenderedHTMLCommon table { margin-left: 0; font-variant-numeric: tabular-nums; }
.highlight pre { white-space: pre-wrap; overflow-wrap: anywhere; }
.pages { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 0 0 1rem 86px;
  font: .9rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
.pages a { color: var(--jp-content-link-color, #005a8c); }
@media screen and (prefers-color-scheme: dark) { :root {
  --jp-mirror-editor-comment-color: #8db5b5; --jp-mirror-editor-operator-color: #c79bff; } }
@media print { .pages { display: none; } body.jp-Notebook { max-width: none; padding: 0; } }
"""
# The lab template without what it loads from the network: require.js, MathJax, Mermaid and the widgets' scripts.
PAGE = """{%- extends 'index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block jupyter_widgets -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block html_head_css -%}
{{ resources.include_css("static/theme-dark.css") | replace('type="text/css"', resources.report.dark) }}
<style>{{ resources.report.css }}</style>{%- endblock -%}
{%- block body_header -%}<body class="jp-Notebook" data-jp-theme-light="true">
<nav class="pages">{% for href, name in resources.report.links %}<a href="{{ href | e }}">{{ name | e }}</a>
{% endfor %}</nav><main>{%- endblock -%}"""
INDEX = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title><style>{{ css }}</style></head>
<body class="report">
{%- macro table_block(t) %}
<figure id="table-{{ t.name }}"><figcaption>{{ t.caption }}</figcaption>
<div class="scroll" tabindex="0">{{ t.html }}</div>
{%- if t.files %}<p class="files">{{ t.name }}: {{ links(t.files) }}</p>{% endif %}</figure>
{%- endmacro %}
{%- macro links(files) %}{% for kind, href in files %}<a href="{{ href }}">{{ kind }}</a>{{ ", " if not loop.last }}
{%- endfor %}{% endmacro %}
<h1>{{ title }}</h1>
<nav>{% for part in parts %}<a href="#{{ part | lower }}">{{ part }}</a>
{% endfor %}</nav>
{%- if first %}<h2 id="summary">Summary</h2>{% for t in first %}{{ table_block(t) }}{% endfor %}{% endif %}
{%- if pages or failed %}<h2 id="notebooks">Notebooks</h2><ul class="list">
{%- for page in pages %}<li><a href="{{ page.href }}">{{ page.title }}</a>
{%- if page.question %}<p>{{ page.question }}</p>{% endif %}</li>{% endfor %}
{%- for name in failed %}<li>{{ name }}<p>A cell failed: JupyterLab shows where.</p></li>{% endfor %}
</ul>{% endif %}
{%- if figures %}<h2 id="figures">Figures</h2><div class="gallery">
{%- for f in figures %}<figure id="figure-{{ f.name }}"><a href="{{ f.href }}"><img src="{{ f.href }}" alt="{{ f.alt }}"
 loading="lazy"></a><figcaption>{{ f.caption }} <span class="faint">{{ f.name }}: {{ links(f.files) }}</span>
</figcaption></figure>{% endfor %}</div>{% endif %}
{%- if others %}<h2 id="tables">Tables</h2>{% for t in others %}{{ table_block(t) }}{% endfor %}{% endif %}
{%- if provenance %}<h2 id="provenance">Provenance</h2><div class="scroll" tabindex="0"><table class="provenance">
{%- for key, value in provenance %}<tr><th scope="row">{{ key }}</th><td>{{ value }}</td></tr>{% endfor %}</table>
</div>{% endif %}
</body></html>
"""
