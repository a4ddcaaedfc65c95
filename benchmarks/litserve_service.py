"""A model behind LitServe, for ``serving_litserve.py``: PORT MODEL BATCH_SIZE THREADS PATH..."""

import sys
from typing import Any

import litserve
import torch
from fastapi import Request

import openmplug


class Asked(litserve.LitAPI):
    """Answers forms with a picture and a question."""

    def __init__(self, path: str, model: str, batch_size: int, threads: int) -> None:
        super().__init__(max_batch_size=batch_size, batch_timeout=0.005, api_path=path)
        self.folder, self.batch_size, self.threads = model, batch_size, threads

    def setup(self, device: str) -> None:
        """Load the model, in the process that works with it."""
        torch.set_num_threads(self.threads)
        self.model = openmplug.load(self.folder, device="cpu", batch_size=self.batch_size)
        self.served = 0

    def decode_request(self, request: Request) -> tuple[bytes, str]:
        """Take a form apart."""
        return request["image"].file.read(), request["question"]

    def batch(self, inputs: list[Any]) -> list[Any]:
        """Leave a batch a list."""
        return inputs

    def unbatch(self, output: list[Any]) -> list[Any]:
        """Leave a batch a list."""
        return output

    def predict(self, asked: Any) -> Any:
        """Answer a batch, or one where LitServe makes none."""
        several = asked if isinstance(asked, list) else [asked]
        self.served += len(several)
        answers = self.model.answer([picture for picture, _ in several], [question for _, question in several])
        found = [{"text": one.text, "score": one.score, "served": self.served} for one in answers]
        return found if isinstance(asked, list) else found[0]

    def encode_response(self, output):
        """Send what ``predict`` made."""
        return output


if __name__ == "__main__":
    port, model, batch_size, threads, *paths = sys.argv[1:]
    apis = [Asked(path, model, int(batch_size), int(threads)) for path in paths]
    server = litserve.LitServer(apis, accelerator="cpu", timeout=600, max_payload_size=32 * 2**20)
    server.run(host="127.0.0.1", port=int(port), num_api_servers=1, generate_client_file=False, log_level="error")
