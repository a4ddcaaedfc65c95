"""How our pages look: one HTML file each, nothing loaded, readable on a phone, with a screen reader, in the dark and without scripts.

Whatever comes from data passes ``escape`` here or where a page is put together.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --line: #d0d7de; --card: #ffffff; --page: #f6f8fa;
  --good: #1a7f37; --bad: #b3261e; --bar: #2f6feb; --blind: #8c959f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9da7b3; --line: #3d444d; --card: #161b22; --page: #0d1117;
  --good: #57ce72; --bad: #ff8f86; --bar: #6ea8ff; --blind: #7d8590; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 1.25rem 1rem 3rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.25rem 0 .25rem; }
p { max-width: 44rem; margin: .4rem 0; }
.soft { color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); gap: .8rem; }
ul { padding: 0; margin: 1rem 0 0; list-style: none; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .8rem; display: flex; gap: .8rem; }
.card.tall { flex-direction: column; }
.pair { display: flex; gap: .8rem; }
figure { margin: 0; }
.card > figure, .pair > figure { max-width: 8rem; }
figcaption { font-size: .8rem; color: var(--soft); }
img { width: 6rem; height: 6rem; border-radius: .3rem; border: 1px solid var(--line); display: block; flex: none; }
dl { margin: 0; min-width: 0; flex: 1; }
dt { font-size: .8rem; color: var(--soft); }
dd { margin: 0 0 .35rem; overflow-wrap: anywhere; }
dd.asked { font-weight: 600; }
.good { color: var(--good); } .bad { color: var(--bad); }
table { border-collapse: collapse; width: 100%; background: var(--card); border: 1px solid var(--line); margin-top: .8rem; }
th, td { text-align: left; padding: .5rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; } td.number, th.number { width: min(8.5rem, 20vw); }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
thead th.number { text-align: right; }
.bar { display: block; height: .35rem; border-radius: .2rem; background: var(--bar); margin: .25rem 0 0 auto; min-width: 2px; }
.bar.blind { background: var(--blind); }
footer { margin-top: 2.5rem; font-size: .9rem; color: var(--soft); }
summary { cursor: pointer; margin-top: 1.5rem; }
.scroll { overflow-x: auto; }
.scroll table { width: auto; min-width: min(100%, 22rem); }
table.square td, table.square th { text-align: right; padding: .3rem .5rem; }
img.thumb { width: auto; height: auto; min-width: 4rem; max-width: 8rem; max-height: 8rem; }
.gone { width: 6rem; height: 4rem; font-size: .75rem; display: grid; place-items: center; text-align: center; overflow: hidden;
  border: 1px dashed var(--line); }
code { font-size: .9em; overflow-wrap: anywhere; }
""".strip()


def document(title: str, body: str) -> str:
    """Return a whole page.

    Args:
        title: Plain text.
        body: HTML.
    """
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def verdict(right: bool, text: str) -> str:
    """Return a text marked right or wrong, by a mark and a word, not by colour alone."""
    kind, mark, word = ("good", "✓", "right") if right else ("bad", "✗", "wrong")
    shown = f'<span aria-hidden="true">{mark}</span> {escape(text) or "(nothing)"}'
    return f'<span class="{kind}">{shown}</span> <span class="soft">({word})</span>'


def definitions(rows: Sequence[tuple[str, str, str]]) -> str:
    """Return a list of labels and values.

    Args:
        rows: Label (plain), value (HTML) and class of each.
    """
    return "<dl>" + "".join(f'<dt>{escape(name)}</dt><dd class="{kind}">{value}</dd>' for name, value, kind in rows) + "</dl>"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """Return a table whose first column names the row and whose other cells are numbers; it scrolls where it is too wide.

    Args:
        columns: Heads, plain text.
        rows: Cells, plain text.
        kind: Class of the table.
    """
    heads = "".join(f'<th scope="col"{_number(place)}>{escape(name)}</th>' for place, name in enumerate(columns))
    body = "".join("<tr>" + "".join(_cell(place, cell) for place, cell in enumerate(row)) + "</tr>" for row in rows)
    return f'<div class="scroll"><table class="{kind}"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


def _number(place: int) -> str:
    return ' class="number"' if place else ""


def _cell(place: int, text: str) -> str:
    return f'<td class="number">{escape(text)}</td>' if place else f'<th scope="row">{escape(text)}</th>'
