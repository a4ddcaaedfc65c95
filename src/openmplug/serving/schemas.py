"""What each endpoint takes, as pydantic models: requests are checked against them, the OpenAPI page shows them."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from openmplug.serving.filters import check_filter

# One red pixel as PNG, so that the examples can be sent as they stand.
_PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mP4z8AAAAMBAQD3A0FDAAAAAElFTkSuQmCC"


def _from_base64(value: Any) -> Any:
    """Turn base64 text into bytes; bytes are a form's file already. ``data:image/png;base64,`` before it is allowed."""
    if not isinstance(value, str):
        return value
    text = value.partition(",")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:  # ValueError: not ASCII
        raise ValueError(f"is not base64 ({error})") from None


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


File = Annotated[bytes, BeforeValidator(_from_base64), WithJsonSchema({"type": "string", "contentEncoding": "base64"}), Field(min_length=1)]
Texts = Annotated[
    list[Annotated[str, Field(min_length=1)]],
    Field(fail_fast=True),  # a million wrong ones are one error
    BeforeValidator(_as_list),
    WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": {"type": "string", "minLength": 1}}]}),
]
Filter = Annotated[str, AfterValidator(check_filter)]
Url = Annotated[str, Field(max_length=2000, description="Address of a file (http, https); only where the service allows it.")]
Beams = Annotated[int | None, Field(ge=1, description="Beams of the search; default as trained.")]
Shortest = Annotated[int | None, Field(ge=0, description="Fewest new tokens; default as trained.")]
Longest = Annotated[int | None, Field(ge=1, description="Most new tokens; default as trained.")]


class Request(BaseModel):
    """Base of what is sent to an endpoint: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    files: ClassVar[tuple[str, ...]] = ()
    """Fields that are files: parts of a form, or base64."""
    urls: ClassVar[tuple[str, ...]] = ()
    """Fields that name such a file."""
    settings: ClassVar[tuple[str, ...]] = ()
    """Fields that are handed to the model as settings."""

    def seen(self) -> tuple[str, bytes | str] | None:
        """Return what is to be looked at: the field's name, and bytes or an address."""
        found = [(name, getattr(self, name)) for name in (*self.files, *self.urls) if getattr(self, name) is not None]
        return found[0] if found else None

    def said(self) -> list[str | None]:
        """Return the texts, one per answer; None where nothing is said."""
        return [None]


class PictureRequest(Request):
    """A request about one picture."""

    files: ClassVar[tuple[str, ...]] = ("image",)
    urls: ClassVar[tuple[str, ...]] = ("image_url",)

    image: File | None = Field(None, description="A picture: JPEG, PNG, WebP, BMP, GIF or TIFF; of an animation the first frame.")
    image_url: Url | None = None

    @model_validator(mode="after")
    def _one_file(self) -> PictureRequest:
        given = [name for name in (*self.files, *self.urls) if getattr(self, name) is not None]
        if len(given) != 1 and not (self._may_see_nothing() and not given):
            raise ValueError(f"exactly one of {', '.join((*self.files, *self.urls))} is needed, got {', '.join(given) or 'none'}")
        return self

    def _may_see_nothing(self) -> bool:
        return False


class VisualRequest(PictureRequest):
    """A request about one picture or video."""

    files: ClassVar[tuple[str, ...]] = ("image", "video")
    urls: ClassVar[tuple[str, ...]] = ("image_url", "video_url")

    video: File | None = Field(None, description="A video: mp4, mov, webm, mkv, avi and others, or an animation.")
    video_url: Url | None = None


class CaptionRequest(VisualRequest):
    """A picture or video to describe."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"image": _PICTURE}, {"image": _PICTURE, "num_beams": 3, "max_length": 20}]})
    settings: ClassVar[tuple[str, ...]] = ("num_beams", "min_length", "max_length", "prompt")

    num_beams: Beams = None
    min_length: Shortest = None
    max_length: Longest = None
    prompt: str | None = Field(None, description="Words the caption begins with.")


class AnswerRequest(VisualRequest):
    """A picture or video and a question about it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"image": _PICTURE, "question": "what colour is it?"},
                {"image": _PICTURE, "question": "what colour is it?", "candidates": ["red", "blue"]},
            ]
        }
    )
    settings: ClassVar[tuple[str, ...]] = ("num_beams", "min_length", "max_length", "candidates")

    question: str = Field(min_length=1)
    candidates: Texts | None = Field(None, description="Choose among these instead of writing freely.")
    num_beams: Beams = None
    min_length: Shortest = None
    max_length: Longest = None

    def said(self) -> list[str | None]:
        """Return the question."""
        return [self.question]


class MatchRequest(VisualRequest):
    """A picture or video, and one text or several to compare with it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"image": _PICTURE, "text": ["a red square", "a dog"]}]})

    text: Texts = Field(min_length=1)

    def said(self) -> list[str | None]:
        """Return the texts."""
        return list(self.text)


class GroundRequest(PictureRequest):
    """A picture, and a phrase that names something in it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"image": _PICTURE, "phrase": "the left cup"}]})

    phrase: str = Field(min_length=1)

    def said(self) -> list[str | None]:
        """Return the phrase."""
        return [self.phrase]


class EmbedRequest(VisualRequest):
    """A picture, a video, or texts to turn into vectors."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": ["a red square", "a dog"]}, {"image": _PICTURE}]})

    text: Texts | None = Field(None, min_length=1)

    def _may_see_nothing(self) -> bool:
        return self.text is not None

    @model_validator(mode="after")
    def _one_kind(self) -> EmbedRequest:
        if self.text is not None and self.seen() is not None:
            raise ValueError("give either text or a file, not both; two requests embed both")
        return self

    def said(self) -> list[str | None]:
        """Return the texts, or one None for what is seen."""
        return [None] if self.text is None else list(self.text)


class SearchRequest(PictureRequest):
    """A text or a picture to search an index for."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "a red square", "k": 5}, {"image": _PICTURE, "k": 5}]})
    settings: ClassVar[tuple[str, ...]] = ("k", "where", "rerank", "thumbnails")

    text: str | None = Field(None, min_length=1)
    k: int = Field(10, ge=1, description="How many hits.")
    where: Filter | None = Field(None, description="A filter over the index's columns, such as: kind = 'video'")
    rerank: int = Field(0, ge=0, description="Let the matching head order so many of the nearest; for a search by words.")
    thumbnails: bool = Field(False, description="Send a small JPEG of each hit, as base64.")

    def _may_see_nothing(self) -> bool:
        return self.text is not None

    @model_validator(mode="after")
    def _one_kind(self) -> SearchRequest:
        if self.text is not None and self.seen() is not None:
            raise ValueError("give either text or a file, not both")
        return self

    def said(self) -> list[str | None]:
        """Return the text, if any."""
        return [self.text]


REQUESTS: dict[str, type[Request]] = {
    "caption": CaptionRequest,
    "answer": AnswerRequest,
    "match": MatchRequest,
    "ground": GroundRequest,
    "embed": EmbedRequest,
    "search": SearchRequest,
}
