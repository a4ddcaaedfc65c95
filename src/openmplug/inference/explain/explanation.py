"""What ``explain`` gives back: a map for every word, where each is strongest, and the picture they belong to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openmplug.inference.explain.drawing import draw

Kind = Literal["match", "answer", "caption"]


class Peak(NamedTuple):
    """The middle of the strongest patch, in the pixels of the picture; of a video also the number of the frame."""

    x: float
    y: float
    frame: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """Which patches of a picture or a video an output hangs on.

    Values of maps are >= 0 and have no unit: attention times the gradient of the score. They compare within an explanation, not between
    two. A map of zeros says that looking there longer would not have raised the score.

    Args:
        kind: What was explained.
        text: The sentence or question; empty for a caption, which is about the picture alone.
        output: The answer or caption; empty for a match.
        score: The probability of a match, or the log probability of the whole answer or caption.
        words: Of the text as the model read it, then of the output.
        written: How many of the words, the last ones, are the output's.
        maps: (W, h, w) float32, a map of h x w patches for each word; of a video (W, F, h, w).
        whole: (h, w) or (F, h, w): of the sentence or question, or of the caption.
        size: Width and height of the picture, px.
        frames: Numbers of the video's frames that the maps are of; empty for a picture.
        pictures: What to draw on: the picture, or the frames; large ones reduced.
    """

    kind: Kind
    text: str
    output: str
    score: float
    words: tuple[str, ...]
    written: int
    maps: NDArray[np.float32] = field(repr=False)
    whole: NDArray[np.float32] = field(repr=False)
    size: tuple[int, int]
    frames: tuple[int, ...]
    pictures: tuple[Image.Image, ...] = field(repr=False)

    @property
    def peak(self) -> Peak | None:
        """Where ``whole`` is strongest; None where it is zero everywhere."""
        return self._strongest(self.whole)

    @property
    def peaks(self) -> tuple[Peak | None, ...]:
        """Where each word's map is strongest."""
        return tuple(self._strongest(each) for each in self.maps)

    @property
    def strengths(self) -> tuple[float, ...]:
        """Each word's highest value, as a share of the highest of all words that are read, or written, with it."""
        highest = [float(each.max()) for each in self.maps]
        read = len(highest) - self.written
        return tuple(value / max(*part, 1e-30) for part in (highest[:read], highest[read:]) for value in part)

    def draw(self) -> Image.Image:
        """Draw a grid: the picture, the sentence's map over it, each word's; of a video one row each, frame by frame."""
        labels = [(self._title(), self.whole)]
        for place, (word, each) in enumerate(zip(self.words, self.maps, strict=True)):
            writes = self.kind == "answer" and place >= len(self.words) - self.written
            labels.append((f"answer: {word}" if writes else word, each))
        return draw(self.pictures, labels, [f"frame {number}" for number in self.frames])

    def save(self, path: str | Path) -> Path:
        """Write ``draw()`` as PNG and return the path."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.draw().save(path, "PNG")
        return path

    def document(self) -> dict[str, Any]:
        """Return everything but the pictures, ready for JSON."""
        words = [
            {"word": word, "written": place >= len(self.words) - self.written, "strength": strength, "peak": peak and peak._asdict()}
            for place, (word, strength, peak) in enumerate(zip(self.words, self.strengths, self.peaks, strict=True))
        ]
        peak = self.peak
        return {
            "kind": self.kind,
            "text": self.text,
            "output": self.output,
            "score": self.score,
            "size": list(self.size),
            "frames": list(self.frames),
            "peak": peak and peak._asdict(),
            "whole": self.whole.tolist(),
            "words": [{**word, "map": each.tolist()} for word, each in zip(words, self.maps, strict=True)],
        }

    def _title(self) -> str:
        return {"match": f"whole sentence: {self.score:.0%}", "answer": "whole question", "caption": "whole caption"}[self.kind]

    def _strongest(self, values: NDArray[np.float32]) -> Peak | None:
        if not values.max() > 0:
            return None
        *frame, row, column = np.unravel_index(int(values.argmax()), values.shape)
        rows, columns = values.shape[-2:]
        x, y = (column + 0.5) / columns * self.size[0], (row + 0.5) / rows * self.size[1]
        return Peak(float(x), float(y), self.frames[int(frame[0])] if frame else None)
