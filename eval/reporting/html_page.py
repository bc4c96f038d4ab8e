"""The report as one HTML file: tables that sort and filter, and charts with the values of the point under the pointer.

The file holds its scripts, styles and data. A browser that opens it loads nothing else, which its content security
policy forbids too.
"""

import importlib.resources
import importlib.util
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path, PurePath
from typing import Any

from eval.reporting import vega_plots
from eval.reporting.markdown import markdown
from eval.reporting.sweep_points import PLOTS, panels_of
from prism_jax.errors import InputError

FILE = "report.html"
EXTRA = {"markdown_it": "markdown-it-py", "vl_convert": "vl-convert-python", "itables": "itables"}
"""Packages of the extra `html`, by the module that is imported."""

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval' blob:; style-src 'unsafe-inline'; img-src data: blob:"
)
"""What the page may load: its own scripts and styles, which build functions from expressions, and no address."""

LICENCE = Path(__file__).with_name("vega_licence.txt")

STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1a1a1a; --faint: #8884; }
:root, :root.dark { --dt-html-background: var(--page); }
@media (prefers-color-scheme: dark) { :root { --page: #16181c; --text: #e4e4e4; } }
body { background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem;
       max-width: 80rem; }
h1, p, li { overflow-wrap: anywhere; }
h1 { font-size: 1.3rem; margin: 1.5rem 0 0.5rem; }
pre { overflow-x: auto; background: var(--faint); padding: 0.5rem; }
.plot { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem; }
.plot > * { min-width: 0; width: 100%; }
.dt-layout-table { overflow-x: auto; }
table.dataTable { font-size: 0.8rem; white-space: nowrap; }
#vg-tooltip-element { background: var(--page); color: var(--text); border: 1px solid var(--faint); }
"""

SCRIPT = """
const source = new Blob([document.getElementById("tables").textContent], { type: "text/javascript" });
const { default: DataTable, set_or_remove_dark_class: follow_theme } = await import(URL.createObjectURL(source));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", follow_theme);
follow_theme();

// A cell sorts and filters by the number that it begins with. One without a value stands below all numbers.
function value(text, kind) {
  if (kind === "display") return text;
  if (text === "-" || text === "failed") return kind === "filter" ? "" : -1e300;
  const number = parseFloat(text.replace("+", ""));
  return Number.isNaN(number) ? text : number;
}

for (const table of document.querySelectorAll("table")) {
  table.classList.add("compact");
  new DataTable(table, { paging: false, info: false, order: [], columnControl: ["searchDropdown"],
                         columnDefs: [{ targets: "_all", render: value }] });
}

// A finger moves no pointer. A tap shows the values of its point.
addEventListener("click", (tap) => tap.target.dispatchEvent(new PointerEvent("pointermove", tap)));

const charts = JSON.parse(document.getElementById("charts").textContent);
const options = { renderer: "svg", actions: { export: true, source: false, compiled: false, editor: false } };
for (const place of document.querySelectorAll(".plot")) {
  for (const chart of charts[place.dataset.plot]) {
    vegaEmbed(place.appendChild(document.createElement("div")), chart, options);
  }
}
"""


def check() -> None:
    """Raises InputError if a library of the extra `html` is missing."""
    missing = [name for module, name in EXTRA.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise InputError(f"--html needs {', '.join(missing)}; run: pip install 'prism_jax[html]', or leave --html out")


def html_page(contents: Mapping[str, dict], plots: Sequence[str]) -> str:
    """Returns the report of one sweep, or of several side by side.

    Args:
      contents: contents of results.json, by name of the run.
      plots: names of the plots to draw.
    """
    import vl_convert

    panels = panels_of(contents)
    charts = {name: vega_plots.charts(PLOTS[name], panels) for name in plots}
    title = " and ".join(dict.fromkeys(f"{content['model']} on {content['dataset']}" for content in contents.values()))
    tables = importlib.resources.files("itables") / "html"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(title)}</title>
<style>{(tables / "dt_bundle.css").read_text("utf-8")}{STYLE}</style>
</head>
<body>
{body(markdown(contents, [name for name, specs in charts.items() if specs]))}
<script type="application/json" id="charts">{json.dumps(charts).replace("<", f"{chr(92)}u003c")}</script>
<script type="text/plain" id="tables">{in_script((tables / "dt_bundle.js").read_text("utf-8"))}</script>
<script>/* {LICENCE.read_text("utf-8")} */
{in_script(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))}</script>
<script type="module">{SCRIPT}</script>
</body>
</html>
"""


def in_script(source: str) -> str:
    """Returns JavaScript that can't end the element around it. Only its strings can hold such an end."""
    return source.replace("</script", "<\\/script")


def body(page: str) -> str:
    """Returns a page in Markdown as HTML, with an empty element in the place of each plot."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("js-default")  # HTML in the page stays text
    tokens = parser.parse(page)
    for i, token in enumerate(tokens):
        if token.children and token.children[0].type == "image" and name_of(token.children[0]) in PLOTS:
            tokens[i - 1].hidden = tokens[i + 1].hidden = True  # the paragraph around it
    parser.add_render_rule("image", place)
    return parser.renderer.render(tokens, parser.options, {})


def name_of(image: Any) -> str:
    """Returns the name of the plot that a picture shows."""
    return PurePath(image.attrs["src"]).stem


def place(renderer: Any, tokens: Sequence[Any], i: int, options: Any, env: Any) -> str:
    """Returns the element in which the charts of a picture are drawn. Of another picture, its text."""
    name = name_of(tokens[i])
    return f'<div class="plot" data-plot="{name}"></div>' if name in PLOTS else escape(tokens[i].content)
