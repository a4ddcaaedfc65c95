"""What each endpoint gives, as pydantic models: the OpenAPI page shows them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field


class CaptionResponse(BaseModel):
    """A caption; the score is its length-normalised log probability."""

    text: str
    score: float | None


class Candidate(BaseModel):
    """An answer that was offered, and its probability among those offered."""

    text: str
    probability: float


class AnswerResponse(BaseModel):
    """An answer; the score is a log probability, or among candidates the chosen one's probability."""

    text: str
    score: float | None
    candidates: list[Candidate]


class MatchScore(BaseModel):
    """The matching head's probability (None where the model has none) and the cosine similarity."""

    probability: float | None
    similarity: float


class MatchResponse(BaseModel):
    """One score per text, in order."""

    matches: list[MatchScore]


class GroundResponse(BaseModel):
    """Left, top, right and bottom in the picture's own pixels, and the probability of the four."""

    box: Annotated[list[float], Field(min_length=4, max_length=4)]
    score: float


class EmbedResponse(BaseModel):
    """One vector per text, or one for what was seen; each of length 1."""

    embeddings: list[list[float]]


class SearchHit(BaseModel):
    """A picture or a moment of a video: the index's name for its file, and how well it fits."""

    name: str
    score: float
    similarity: float
    matching: float | None
    start_seconds: float | None
    end_seconds: float | None
    caption: str | None
    metadata: dict[str, Any]
    thumbnail: str | None


class SearchResponse(BaseModel):
    """The hits, best first."""

    hits: list[SearchHit]


class ModelResponse(BaseModel):
    """What is served."""

    version: str
    task: str | None
    endpoints: list[str]
    refused: dict[str, str]
    device: str
    precision: str
    frames: int
    limits: dict[str, int | float]


class StateResponse(BaseModel):
    """How the service is."""

    status: str


class ErrorDetail(BaseModel):
    """What went wrong, for a program and for a person."""

    type: str
    message: str


class ErrorResponse(BaseModel):
    """What every error looks like."""

    error: ErrorDetail


RESPONSES: dict[str, type[BaseModel]] = {
    "caption": CaptionResponse,
    "answer": AnswerResponse,
    "match": MatchResponse,
    "ground": GroundResponse,
    "embed": EmbedResponse,
    "search": SearchResponse,
}
