"""Draw the pictures of docs/architecture.md: the two families, and which modules each task selects.

Run: python scripts/draw_architecture.py. The grid of tasks is made of ``openmplug.models.selections``; a test compares the files with
what this draws.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "pictures"

WIDTH = 500
INPUT, TOWER, SHARED, FUSION, WRITER, HEAD = "#eef1f5", "#cfe3ff", "#ffe3b8", "#d8f0d3", "#f3d6e6", "#ffffff"
_STYLE = (
    "text{font-family:Helvetica,Arial,sans-serif;fill:#1b1f24;text-anchor:middle}.t{font-size:15px;font-weight:600}.s{font-size:12.5px;fill:#444}"
    ".l{font-size:13px;text-anchor:start}.c{font-size:12.5px;text-anchor:start}rect{stroke:#57606a;stroke-width:1.2}"
    ".a{fill:none;stroke:#3b4654;stroke-width:1.6;marker-end:url(#h)}.d{stroke-dasharray:5 4}"
)
_ARROWHEAD = (
    '<defs><marker id="h" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0L10 5L0 10z" fill="#3b4654"/></marker></defs>'
)


def box(x: float, y: float, width: float, height: float, fill: str, title: str, *lines: str) -> str:
    """Return a box with a name and lines below it."""
    middle, top = x + width / 2, y + height / 2 - 8.5 * len(lines) + 5
    words = f'<text class="t" x="{middle:g}" y="{top:g}">{escape(title)}</text>'
    words += "".join(f'<text class="s" x="{middle:g}" y="{top + 17 * n:g}">{escape(line)}</text>' for n, line in enumerate(lines, 1))
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="7" fill="{fill}"/>{words}'


def arrow(path: str, dashed: bool = False) -> str:
    """Return an arrow along an SVG path."""
    return f'<path class="a{" d" if dashed else ""}" d="{path}"/>'


def label(x: float, y: float, text: str) -> str:
    """Return a few words that begin at a place."""
    return f'<text class="c" x="{x:g}" y="{y:g}">{escape(text)}</text>'


def drawing(title: str, height: int, *parts: str) -> str:
    """Return a whole SVG file; ``title`` is what a screen reader says."""
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">\n'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>{_ARROWHEAD}\n{body}\n</svg>\n"
    )


def mplug() -> str:
    """Draw mPLUG."""
    return drawing(
        "mPLUG: a vision tower and a text encoder, skip-connected fusion, a decoder, and heads",
        610,
        box(15, 10, 215, 44, INPUT, "picture, or frames"),
        box(270, 10, 215, 44, INPUT, "text or question"),
        arrow("M122 54V90"),
        arrow("M378 54V90"),
        box(15, 92, 215, 66, TOWER, "vision", "ViT, pre-norm (CLIP's)", "each frame as a picture"),
        box(270, 92, 215, 66, TOWER, "text", "6 layers, post-norm", "(BERT's lower half)"),
        arrow("M180 158V192"),
        arrow("M320 158V192"),
        box(150, 194, 200, 44, HEAD, "contrastive", "one feature each: ITC"),
        arrow("M80 158V262"),
        arrow("M430 158V262"),
        box(
            50,
            264,
            435,
            118,
            FUSION,
            "fusion",
            "co-attention: text looks at itself and at vision,",
            "vision skips the layer (cheap);",
            "connected layer: both as one sequence; base: one of six,",
            "the released large models: none",
        ),
        arrow("M378 382V418"),
        box(270, 420, 215, 62, HEAD, "matching, classification,", "language: from fused text", "(or from one tower alone)"),
        arrow("M122 382V508"),
        label(128, 450, "[vision; fused text]"),
        arrow("M30 158V508", dashed=True),
        label(36, 420, "captions:"),
        label(36, 437, "vision alone"),
        box(15, 510, 215, 62, WRITER, "decoder", "12 layers, causal,", "cross-attention, cached"),
        arrow("M230 541H288"),
        '<text class="l" x="294" y="538">answer, caption, summary,</text><text class="l" x="294" y="555">box as four tokens</text>',
    )


def mplug2() -> str:
    """Draw mPLUG-2."""
    return drawing(
        "mPLUG-2: towers for vision and text, temporal modules for clips, universal layers shared by both, fusion, decoder, heads",
        700,
        box(15, 10, 215, 44, INPUT, "picture or clip"),
        box(270, 10, 215, 44, INPUT, "text or question"),
        arrow("M122 54V90"),
        arrow("M378 54V90"),
        box(15, 92, 215, 116, TOWER, "vision", "ViT, the very module of mPLUG", "", "", ""),
        box(30, 144, 185, 54, "#e6f0ff", "temporal", "for clips only"),
        box(270, 92, 215, 116, TOWER, "text", "BERT's layers but the last two"),
        arrow("M122 208V244"),
        arrow("M378 208V244"),
        box(
            15,
            246,
            470,
            84,
            SHARED,
            "universal",
            "two layers, the same weights for vision and for text:",
            "learned queries gather vision into a few tokens;",
            "text passes as its last two layers",
        ),
        arrow("M180 330V364"),
        arrow("M320 330V364"),
        box(150, 366, 200, 44, HEAD, "contrastive", "one feature each: ITC"),
        arrow("M80 330V434"),
        arrow("M430 330V434"),
        box(
            50,
            436,
            435,
            66,
            FUSION,
            "fusion",
            "co-attention: text looks at itself and at vision;",
            "the released runs have no connected layer",
        ),
        arrow("M378 502V538"),
        box(270, 540, 215, 62, HEAD, "matching, classification,", "language: from fused text", "(or from one tower alone)"),
        arrow("M122 502V618"),
        label(128, 566, "[vision; fused text]"),
        arrow("M30 330V618", dashed=True),
        label(36, 536, "captions:"),
        label(36, 553, "vision alone"),
        box(15, 620, 215, 62, WRITER, "decoder", "causal,", "cross-attention, cached"),
        arrow("M230 651H288"),
        '<text class="l" x="294" y="648">answer, caption, summary,</text><text class="l" x="294" y="665">box as four tokens</text>',
    )


def _dot(x: float, y: float, full: bool) -> str:
    return f'<circle cx="{x:g}" cy="{y:g}" r="6.5" fill="{"#2d6cdf" if full else "#fff"}" stroke="#2d6cdf" stroke-width="2"/>'


def selections() -> str:
    """Draw which modules each task selects."""
    from openmplug.models.families import named_config
    from openmplug.models.mplug import MODULES
    from openmplug.models.mplug2 import MODULES as MODULES2
    from openmplug.models.selections import SELECTIONS, selected_modules

    config, left, top, column, row = named_config("mplug2-tiny"), 152, 104, 29, 27
    parts = []
    for place, name in enumerate(MODULES2):
        x = left + column * place + column / 2
        parts.append(f'<text class="l" transform="translate({x + 4:g} {top - 10}) rotate(-60)">{escape(name)}</text>')
    for line, task in enumerate(SELECTIONS):
        y = top + row * line
        if line % 2 == 0:
            parts.append(f'<path d="M8 {y}H{left + column * len(MODULES2)}V{y + row}H8z" fill="#f3f5f8"/>')
        parts.append(f'<text class="l" x="14" y="{y + 18}">{escape(task)}</text>')
        chosen = selected_modules(config, task)
        for place, name in enumerate(MODULES2):
            if name in chosen:
                x = left + column * place + column / 2
                parts.append(_dot(x, y + row / 2, name in MODULES))
    end = top + row * len(SELECTIONS)
    parts.append(_dot(22, end + 22, True))
    parts.append(f'<text class="l" x="36" y="{end + 27}">both families</text>')
    parts.append(_dot(152, end + 22, False))
    parts.append(f'<text class="l" x="166" y="{end + 27}">mPLUG-2 only. What is not selected is not built.</text>')
    return drawing("Which modules each task selects", end + 44, *parts)


DRAWINGS = {"mplug.svg": mplug, "mplug2.svg": mplug2, "selections.svg": selections}

if __name__ == "__main__":
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name, draw in DRAWINGS.items():
        (PICTURES / name).write_text(draw(), encoding="utf-8")
