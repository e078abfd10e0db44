"""HTML pages that need no other file, for `report` and `census_report`.

The pictures are inline SVG.  Their ink and grid are CSS variables, so that they follow a dark mode.
"""

import html
import re

from .. import tables
from . import plots

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #222; --faint: #767676; --grid: #e4e4e4; --paper: #fff; --box: #f5f5f3 }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e6e6e6; --faint: #9a9a9a; --grid: #3a3a3a; --paper: #161616; --box: #232323 }}
}}
body {{ font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 62rem; margin: 0 auto; padding: 1rem }}
h1 {{ font-size: 1.5rem; margin: 0.5rem 0; border-left: 0.4rem solid {color}; padding-left: 0.6rem }}
h2 {{ font-size: 1.1rem; margin: 2rem 0 0.5rem }}
.pictures {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr)); gap: 1rem }}
figure {{ margin: 0; max-width: 32rem }}
figcaption, footer {{ color: var(--faint); font-size: 0.85rem }}
svg {{ width: 100%; height: auto }}
.scroll {{ overflow-x: auto }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }}
td, th {{ padding: 0.2rem 1.2rem 0.2rem 0; text-align: left; border-bottom: 1px solid var(--grid) }}
td {{ white-space: nowrap }}
@media (max-width: 30rem) {{ td, th {{ padding-right: 0.5rem; font-size: 0.85rem }} }}
pre {{ background: var(--box); padding: 0.8rem; overflow-x: auto }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{words}</p>
{body}
<h2>To reproduce</h2>
<pre>{commands}</pre>
<footer>{footer}</footer>
</body>
</html>
"""


def page(title, color, words, body, commands, footer):
    """A page, as text.  ``body`` is HTML; all other arguments are text, and are escaped."""
    escaped = {"title": title, "words": words, "commands": commands, "footer": footer}
    return PAGE.format(color=color, body=body, **{name: html.escape(text) for name, text in escaped.items()})


def gallery(pictures):
    """Pictures side by side, as many as fit."""
    return f'<div class="pictures">{"".join(pictures)}</div>'


def sections(rows):
    """Tables under their headings, {heading: rows}, side by side."""
    parts = ((html.escape(name), tables.table(of)) for name, of in rows.items())
    parts = (f'<section class="scroll"><h2>{name}</h2>{table}</section>' for name, table in parts)
    return "\n".join(['<div class="pictures">', *parts, "</div>"])


def picture(caption, draw, *given, height=3.2):
    """A figure element: one panel, drawn by ``draw(axes, *given)``.  No two in a page may have the same caption."""
    with plots.figure(1, width=4.6, height=height) as (drawn, axes):
        draw(axes, *given)
    svg = plots.image(drawn, "inline", caption).decode()  # the caption makes the ids unique in a page
    svg = re.sub('<g id="[^"]*"', "<g", svg[svg.index("<svg") :])
    for variable in ("ink", "faint", "grid"):
        svg = svg.replace(getattr(plots, variable.upper()), f"var(--{variable})")
    return f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>"
