"""What the page shows, as HTML and pictures: answers, sureness, boxes, errors. Whatever comes from people or models passes ``escape``."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from openmplug.inference.explain.drawing import heat
from openmplug.inference.explain.explanation import Explanation
from openmplug.inference.results import Answer, Box, Caption, Match
from openmplug.serving.page.examples import Example
from openmplug.serving.page.uploads import Upload

SMALLEST, LARGEST = 384, 1024  # sides of a preview, px: a tiny picture is enlarged, a large one is not sent whole
BOX_COLOURS = ((255, 0, 120), (255, 255, 255))


def message(text: str) -> str:
    """Return an error, for people: red, with a sign, read out at once by a screen reader."""
    return f'<div class="om-error" role="alert"><span aria-hidden="true">⚠</span> {escape(_sentence(text))}</div>'


def remarks(lines: Sequence[str]) -> str:
    """Return remarks below a result."""
    return "".join(f'<p class="om-remark">{escape(line)}</p>' for line in lines)


def headline(text: str, detail: str = "", lines: Sequence[str] = ()) -> str:
    """Return a result in large letters, a detail and remarks below it; all plain text."""
    small = f'<p class="om-soft">{escape(detail)}</p>' if detail else ""
    return f'<div class="om-result" aria-live="polite"><p class="om-large">{escape(text)}</p>{small}{remarks(lines)}</div>'


def answer(found: Answer, lines: Sequence[str] = ()) -> str:
    """Return an answer; where it was chosen, all candidates with their shares."""
    if not found.candidates:
        return headline(found.text or "(it says nothing)", _sure(found.score), lines)
    return headline(found.text, "", ()) + bars(found.candidates) + remarks(lines)


def caption(found: Caption) -> str:
    """Return a caption."""
    return headline(found.text or "(it says nothing)", _sure(found.score))


def match(found: Match, lines: Sequence[str] = ()) -> str:
    """Return how well a sentence fits."""
    similar = f"similarity of the two vectors {found.similarity:.2f}, from -1 to 1"
    if found.probability is None:
        return headline(f"{found.similarity:.2f}", "similarity of the two vectors, from -1 to 1", lines)
    share = found.probability
    words = "It fits" if share >= 0.5 else "It does not fit"
    return headline(f"{words}: {share:.0%}") + _bar(share) + f'<p class="om-soft">{escape(similar)}</p>' + remarks(lines)


def box(found: Box, phrase: str, lines: Sequence[str] = ()) -> str:
    """Return where something was found."""
    sides = f"left {found.left:.0f}, top {found.top:.0f}, right {found.right:.0f}, bottom {found.bottom:.0f} px"
    return headline(phrase, f"{sides}; probability of this very box {_share(found.score)}", lines)


def bars(shares: Sequence[tuple[str, float]]) -> str:
    """Return shares of one (name, 0 to 1) as bars with numbers, largest first."""
    lines = "".join(
        f'<li><span class="om-name">{escape(name)}</span><span class="om-share">{share:.0%}</span>{_bar(share)}</li>'
        for name, share in sorted(shares, key=lambda pair: -pair[1])
    )
    return f'<ul class="om-bars">{lines}</ul>'


def _bar(share: float) -> str:
    return f'<span class="om-bar" aria-hidden="true"><span style="width:{100 * min(1.0, max(0.0, share)):.1f}%"></span></span>'


def grid(tiles: Sequence[tuple[Image.Image, str]], heading: str) -> str:
    """Return pictures in a grid, the words of each below it; wide ones, such as strips of frames, get more room.

    The pictures are in the page itself: there is no file of them to be served and to be forgotten.
    """
    wide = any(picture.width > 1.5 * picture.height for picture, _ in tiles)
    figures = "".join(
        f'<figure><img src="{_data(picture)}" alt="{escape(label)}"><figcaption>{escape(label)}</figcaption></figure>'
        for picture, label in tiles
    )
    return f'<p class="om-soft">{escape(heading)}</p><div class="om-grid{" om-wide" if wide else ""}">{figures}</div>'


def _data(picture: Image.Image) -> str:
    encoded = io.BytesIO()
    picture.save(encoded, "WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(encoded.getvalue()).decode('ascii')}"


def facts(upload: Upload) -> str:
    """Say what was uploaded, in a line."""
    width, height = upload.size
    size = f"{width:,} × {height:,} pixels"
    if not upload.frames:
        return f'<p class="om-soft">{escape(upload.name)}: {size}</p>'
    seen = len(upload.pictures())
    looked = f"the model looks at {seen} of its {upload.frames:,} frames" if seen < upload.frames else f"{seen} frames"
    return f'<p class="om-soft">{escape(upload.name)}: {upload.seconds:.1f} seconds, {size}; {looked}, shown here</p>'


def tray(examples: Sequence[Example]) -> str:
    """Return the examples as buttons with their pictures inside: nothing has to be fetched for them, and clips move."""
    buttons = []
    for number, one in enumerate(examples):
        kind = "gif" if one.path.suffix == ".gif" else "png"
        data = base64.b64encode(one.path.read_bytes()).decode("ascii")
        words = f"{'Clip' if kind == 'gif' else 'Picture'}: {one.sentence}"
        buttons.append(
            f'<button type="button" data-number="{number}" title="{escape(words)}">'
            f'<img src="data:image/{kind};base64,{data}" alt="{escape(words)}"></button>'
        )
    return f'<p class="om-soft">Or try one of these:</p><div class="om-tray">{"".join(buttons)}</div>'


def preview(upload: Upload) -> Image.Image:
    """Return the picture at a size for the screen; of a clip, the frames the model looks at, as a strip."""
    pictures = upload.pictures()
    if len(pictures) == 1:
        return screen_size(pictures[0])
    return strip(pictures)


def strip(pictures: Sequence[Image.Image], columns: int = 4, gap: int = 6) -> Image.Image:
    """Put frames of one size side by side, in rows, in reading order, on a transparent ground."""
    width, height = pictures[0].size
    scale = max(160 / max(width, height), 1.0) if max(width, height) < 160 else 240 / max(width, height)
    side = (max(1, round(width * scale)), max(1, round(height * scale)))
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    sheet = Image.new("RGBA", (columns * (side[0] + gap) - gap, rows * (side[1] + gap) - gap), (0, 0, 0, 0))
    for place, picture in enumerate(pictures):
        row, column = divmod(place, columns)
        sheet.paste(picture.resize(side, Image.Resampling.BICUBIC), (column * (side[0] + gap), row * (side[1] + gap)))
    return sheet


def screen_size(picture: Image.Image) -> Image.Image:
    """Enlarge a tiny picture and reduce a large one."""
    longest = max(picture.size)
    if SMALLEST <= longest <= LARGEST:
        return picture
    scale = (SMALLEST if longest < SMALLEST else LARGEST) / longest
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), Image.Resampling.BICUBIC)


def with_box(picture: Image.Image, found: Box) -> Image.Image:
    """Draw a box into a copy of a picture: two colours, so that it is seen on any ground."""
    drawn = screen_size(picture).copy()
    scale = drawn.width / picture.width, drawn.height / picture.height
    left, right = sorted((found.left * scale[0], found.right * scale[0]))
    top, bottom = sorted((found.top * scale[1], found.bottom * scale[1]))
    canvas, thick = ImageDraw.Draw(drawn), max(3, round(max(drawn.size) / 150))
    for colour, inset in zip(BOX_COLOURS, (0, thick), strict=True):
        sides = (left + inset, top + inset, right - inset, bottom - inset)
        if sides[0] <= sides[2] and sides[1] <= sides[3]:
            canvas.rectangle(sides, outline=colour, width=thick if not inset else max(1, thick // 2))
    return drawn


LOOKED = "Where it looked: bright patches raise the score most."


def heat_maps(found: Explanation, most_words: int = 15) -> list[tuple[Image.Image, str]]:
    """Return the picture with what an output hangs on laid over it, and the label of each: all words together, then each word.

    Every map is scaled by its own highest value. Of a clip it is a strip of its frames.
    """
    whole = {"match": "the whole sentence", "answer": "the whole question", "caption": "the whole caption"}[found.kind]
    written = len(found.words) - found.written
    labels = [f"answer: {word}" if found.kind == "answer" and at >= written else word for at, word in enumerate(found.words)]
    shown = list(zip([found.whole, *found.maps], [whole, *labels], strict=True))[: 1 + most_words]
    return [(_heated(found, values), label) for values, label in shown]


def _heated(found: Explanation, values: NDArray[np.float32]) -> Image.Image:
    high = float(values.max())
    scaled = values / high if high > 0 else values
    if not found.frames:
        return heat(screen_size(found.pictures[0].convert("RGB")), scaled)
    return strip([heat(one.convert("RGB"), each) for one, each in zip(found.pictures, scaled, strict=True)])


def _share(share: float) -> str:
    """Write a probability; a box is one of many thousands, and a small share of a good one is not none."""
    return "under 1%" if 0 < share < 0.005 else f"{share:.0%}"


def _sure(score: float) -> str:
    return f"how sure: {math.exp(min(0.0, score)):.0%} for each word, on average"


def _sentence(text: str) -> str:
    one = " ".join(text.split())
    return one[:1].upper() + one[1:]
