"""The search of `serving.py` as a server of LitServe, in a file of its own: LitServe loads torch."""

# No `from __future__ import annotations`: LitServe reads the annotation of `decode_request`.
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import litserve  # of the extra `bench`
from fastapi import Request
from serving import BATCH, Searching


class LitSearch(litserve.LitAPI):  # type: ignore[misc]
    """The search as LitServe's documentation has it: batches in a worker process, decoded by threads as ours are."""

    def setup(self, device: str) -> None:
        self.searching = Searching(Path(sys.argv[-2]))
        self.pool = ThreadPoolExecutor(os.cpu_count())

    def decode_request(self, request: Request) -> bytes:
        return request["image"].file.read()  # type: ignore[index]

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        return list(inputs)

    def predict(self, images: list[bytes]) -> list[Any]:
        return self.searching.answers(list(self.pool.map(self.searching.prepared, images)))

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def encode_response(self, output: Any) -> Any:
        return output


def run(port: int) -> None:
    api = LitSearch(max_batch_size=BATCH, batch_timeout=0.005, api_path="/v1/search")
    server = litserve.LitServer(api, accelerator="cpu", healthcheck_path="/ready", timeout=60)
    server.run(port=port, generate_client_file=False, log_level="error", num_api_servers=1)
