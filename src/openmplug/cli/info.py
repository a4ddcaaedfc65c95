"""``openmplug info``: versions, devices, formats of pictures and videos, optional parts."""

from __future__ import annotations

import os
import platform
from typing import Any

from openmplug import __version__
from openmplug.cli import screen
from openmplug.cli.options import Debug, Json

REQUIRED = (
    *("torch", "numpy", "tokenizers", "safetensors", "huggingface-hub", "pillow"),
    *("pydantic", "PyYAML", "typer", "rich", "matplotlib", "tensorboard"),
)
# extra -> (import names, what needs it)
OPTIONAL = {
    "video": (("av",), "reading videos"),
    "parquet": (("pyarrow",), "parquet files"),
    "search": (("lancedb",), "search indexes"),
    "scale": (("ray",), "clusters"),
    "remote": (("aiohttp",), "shards behind https"),
    "serve": (("fastapi", "uvicorn", "httptools", "python_multipart"), "HTTP service"),
    "demo": (("gradio",), "web page"),
    "export": (("onnx", "onnxscript", "onnxruntime", "torchao"), "ONNX export, weights in 8 and 4 bits"),
    "lora": (("peft",), "adapters"),
    "judge": (("transformers",), "TIFA's choices by sentence embeddings"),
    "official": (("pycocoevalcap",), "the official caption scorers"),
    "glue": (("sklearn", "scipy"), "GLUE scores"),
}

DECODERS = {"H.264": "h264", "HEVC": "hevc", "VP8": "vp8", "VP9": "vp9", "AV1": "libdav1d", "MPEG-4": "mpeg4", "MPEG-2": "mpeg2video"}

FORMATS = {"JPEG": "jpg", "PNG": "zlib", "WebP": "webp", "AVIF": "avif"}


def _version(package: str) -> str | None:
    import importlib.metadata  # here, because it takes 30 ms of every --help

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> list[dict[str, Any]]:
    import torch

    here = platform.processor() or platform.machine()
    devices: list[dict[str, Any]] = [{"name": "cpu", "description": here, "cores": os.cpu_count(), "threads": torch.get_num_threads()}]
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        memory = round(facts.total_memory / 2**30, 1)
        bf16 = torch.cuda.is_bf16_supported()
        devices.append({"name": f"cuda:{index}", "description": facts.name, "memory_gib": memory, "bf16": bf16})
    if torch.backends.mps.is_available():
        devices.append({"name": "mps", "description": "Apple silicon"})
    return devices


def _video() -> dict[str, Any]:
    """Say which decoders of videos there are; animations and folders of frames need none of them."""
    try:
        import av
        from av.codec import codecs_available
    except ImportError:
        return {"decoder": None, "ffmpeg": None, "codecs": {}}
    ffmpeg = ".".join(map(str, av.library_versions["libavcodec"]))
    return {
        "decoder": f"PyAV {av.__version__}",
        "ffmpeg": f"libavcodec {ffmpeg}",
        "codecs": {k: v in codecs_available for k, v in DECODERS.items()},
    }


def gather() -> dict[str, Any]:
    """Return what ``openmplug info --json`` prints."""
    import importlib.util

    from PIL import features

    optional = {}
    for extra, (modules, purpose) in OPTIONAL.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        optional[extra] = {"present": not missing, "needed_for": purpose, "install": f"pip install 'openmplug[{extra}]'"}
    return {
        "openmplug": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {package: _version(package) for package in REQUIRED},
        "devices": _devices(),
        "image_formats": {name: bool(features.check(part)) for name, part in FORMATS.items()},
        "video": _video(),
        "optional": optional,
    }


def show(json_output: Json = False, debug: Debug = False) -> None:
    """Show versions, devices and optional parts."""
    facts = gather()
    if json_output:
        screen.document(facts)
        return
    versions = [("openmplug", facts["openmplug"]), ("python", facts["python"]), ("platform", facts["platform"])]
    versions += [(name, version or "missing") for name, version in facts["packages"].items()]
    screen.table("Versions", ("what", "version"), versions)
    rows = []
    for device in facts["devices"]:
        detail = f"{device['memory_gib']} GiB" if "memory_gib" in device else f"{device.get('threads', '')} threads"
        rows.append((device["name"], device["description"], detail if device["name"] != "mps" else ""))
    screen.table("Devices", ("device", "what", "size"), rows)
    formats = ", ".join(name for name, works in facts["image_formats"].items() if works)
    screen.table("Pictures", ("formats",), [(formats,)])
    video = facts["video"]
    codecs = ", ".join(name for name, works in video["codecs"].items() if works)
    found = f"{video['decoder']} ({video['ffmpeg']}): {codecs}" if video["decoder"] else OPTIONAL["video"][1] + " needs openmplug[video]"
    screen.table("Videos", ("decoders",), [(f"{found}; GIF, WebP, PNG and folders of frames by Pillow",)])
    parts = [(name, part["needed_for"], "present" if part["present"] else part["install"]) for name, part in facts["optional"].items()]
    screen.table("Optional parts", ("part", "needed for", "state"), parts)
