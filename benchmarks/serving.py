"""Image search over HTTP with concurrent clients: moonlib's server, LitServe, and FastAPI without a batcher.

    python benchmarks/serving.py [--products 100000] [--clients 32] [--seconds 5] [--rounds 3]

Every server runs in a process of its own, with the same encoder, index and photos; the client is another process, which
keeps one request per connection in flight. Servers take turns, so that a busy moment of the machine meets them all, and
are stopped (SIGSTOP) while it is another's, as some poll when they have nothing to do. Two
more figures bound what a server can do that shares its cores with the client: a server of the same HTTP interface that
does nothing with a photo, and batches of 32 encoded and searched without any HTTP. Their sum is the bound,
1 / (1 / no-op server + 1 / bare). Last, the seconds from ``moonlib serve`` to its first answer, and its memory.

Ends with ``ratio``: requests per second of moonlib over LitServe's.
"""

import argparse
import contextlib
import io
import json
import os
import selectors
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from moonlib.serving.process import prepare_process

DIM = 128
BATCH = 32
PHOTOS = 64

PEERS = ("moonlib", "litserve", "fastapi", "no-op")


# ── the center, and the photos ──────────────────────────────────────────────────────────────────────────────────────


def encoder() -> Any:
    """The encoder of the shipped recipes, its weights random."""
    import torch

    from moonlib.encoders.convnet import ConvNet
    from moonlib.encoders.dual import DualEncoder
    from moonlib.fusion.sum import Sum

    torch.manual_seed(0)
    import polars as pl

    made = DualEncoder(Sum(), image=ConvNet(), dim=DIM)
    made.setup(pl.DataFrame(), Path())
    return made.eval()


def make_center(place: Path, products: int) -> None:
    """A published center of products with random vectors."""
    import polars as pl

    from moonlib.center.aliases import Alias, Target, read_aliases, write_aliases
    from moonlib.center.layout import SPACES
    from moonlib.center.publishing import publish
    from moonlib.center.record import Record, make_record
    from moonlib.center.rows import Rows
    from moonlib.center.space import Space, space_name
    from moonlib.center.writing import make_center

    make_center(place)
    directory = place / SPACES / space_name("c" * 16, DIM, "int8")
    directory.mkdir(parents=True)
    columns = {"title": "text", "price": "float"}
    space = Space(directory, "c" * 16, DIM, "int8", columns, {"product": "image", "query": "image"}, "int64")
    space.save()
    make_record(space.record)
    write_aliases(place, {**read_aliases(place), "live": Alias(Target(directory.name, 0))})
    random = np.random.default_rng(0)
    centres = random.standard_normal((500, DIM))
    record = Record(space, write=True)
    for start in range(0, products, 20_000):
        n = min(20_000, products - start)
        vectors = centres[random.integers(0, len(centres), n)] + 0.5 * random.standard_normal((n, DIM))
        vectors *= 127 / np.abs(vectors).max(axis=1, keepdims=True)
        numbers = np.arange(start, start + n)
        record.append(
            Rows(
                pl.Series(numbers),
                vectors.round().astype(np.int8),
                random.integers(0, 256, (n, 16), dtype=np.uint8),
                np.full(n, time.time_ns() // 1000),
                np.zeros(n, bool),
                pl.DataFrame({"title": [f"product {i}" for i in numbers], "price": numbers / 100}),
                pl.repeat(None, n, dtype=pl.Binary, eager=True),
            )
        )
    publish(place, space)


def photos() -> list[bytes]:
    """JPEGs of 256 pixels a side, as a phone's page sends them: smooth, with some texture."""
    random = np.random.default_rng(1)
    found = []
    for _ in range(PHOTOS):
        coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((256, 256), Image.BICUBIC)
        pixels = np.asarray(coarse) + random.normal(0, 6, (256, 256, 3))
        file = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
        found.append(file.getvalue())
    return found


# ── the servers ─────────────────────────────────────────────────────────────────────────────────────────────────────


def run_moonlib(center: Path, port: int) -> None:
    prepare_process()  # as `moonlib serve` does
    from moonlib.serving.server import serve
    from moonlib.serving.service import Service
    from moonlib.serving.settings import ServeSettings

    settings = ServeSettings(batch=BATCH, timeout_ms=30_000)
    serve(Service(center, settings=settings, open_encoder=lambda _: encoder()), port=port)


def run_noop(center: Path, port: int) -> None:
    """The same interface; a photo is received, and the same ten products are sent for each."""
    from moonlib.serving.server import serve
    from moonlib.serving.service import Service

    service = Service(center, open_encoder=lambda _: encoder())
    view = service.served().view
    found = view.search(np.ones((1, DIM), np.float32), 10)
    from moonlib.serving.queries import Hits

    rows = view.rows(found.ids[0]).drop("item_id").to_dicts()
    hits = Hits(found.ids[0], found.scores[0].tolist(), rows, [False] * len(rows))

    async def search(*_: Any, **__: Any) -> Hits:
        return hits

    service.search = search  # type: ignore[method-assign]
    serve(service, port=port)


class Searching:
    """What the peers do for a photo: the same preprocessing, encoder, view and answer as moonlib's server."""

    def __init__(self, center: Path) -> None:
        from moonlib.serving.served import Served

        self.served = Served.open(center, "live", lambda _: encoder())

    def prepared(self, image: bytes) -> Any:
        return self.served.prepared(image, None, None, 25_000_000)

    def answers(self, contents: Sequence[Any]) -> list[dict[str, Any]]:
        from moonlib.serving.queries import Hits, Query, answer_queries

        found = answer_queries([Query(self.served, 10, content) for content in contents])
        hits = [each for each in found if isinstance(each, Hits)]
        return [
            {
                "snapshot": self.served.view.name,
                "hits": [
                    {"rank": rank, "score": score, "item_id": id, "row": row}
                    for rank, (id, score, row) in enumerate(zip(each.ids, each.scores, each.rows, strict=True), 1)
                ],
            }
            for each in hits
        ]


def run_fastapi(center: Path, port: int) -> None:
    """FastAPI as its tutorial has it: the model is called in a function that a thread pool runs."""
    import uvicorn
    from fastapi import FastAPI, UploadFile

    searching, app = Searching(center), FastAPI()

    def search(image: UploadFile, k: int = 10) -> dict[str, Any]:
        return searching.answers([searching.prepared(image.file.read())])[0]

    search.__annotations__ = {"image": UploadFile, "k": int}
    app.post("/v1/search", response_model=None)(search)
    app.get("/ready")(lambda: {})
    uvicorn.run(app, port=port, log_level="error")


def run_litserve(center: Path, port: int) -> None:
    import serving_litserve

    serving_litserve.run(port)


def run(peer: str, center: Path, port: int) -> None:
    {"moonlib": run_moonlib, "no-op": run_noop, "fastapi": run_fastapi, "litserve": run_litserve}[peer](center, port)


# ── the client ──────────────────────────────────────────────────────────────────────────────────────────────────────


def request(photo: bytes) -> bytes:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="k"\r\n\r\n10\r\n'
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="photo.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
        + photo
        + b"\r\n--b--\r\n"
    )
    head = b"POST /v1/search HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    return head + b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body


class Connection:
    """A connection that has one request in flight."""

    def __init__(self, port: int, requests: Sequence[bytes], first: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.requests, self.next = requests, first

    def ask(self) -> None:
        self.started = time.perf_counter()
        self.socket.sendall(self.requests[self.next % len(self.requests)])
        self.next += 1
        self.buffer, self.wanted = b"", -1

    def receive(self) -> bool:
        """Take what has come; whether the answer is complete."""
        self.buffer += self.socket.recv(262_144)
        if self.wanted < 0 and (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            if not head.startswith(b"http/1.1 200"):
                raise RuntimeError(self.buffer[:400].decode(errors="replace"))
            self.wanted = end + 4 + int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        return 0 <= self.wanted <= len(self.buffer)


def load(port: int, clients: int, seconds: float) -> tuple[float, list[float]]:
    """Requests per second, and the seconds that each took."""
    requests = [request(photo) for photo in photos()]
    took: list[float] = []
    with selectors.DefaultSelector() as selector:
        for number in range(clients):
            connection = Connection(port, requests, 7 * number)
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.ask()
        start = time.perf_counter()
        counted = start + 0.2 * seconds  # until then it warms up
        end = start + 1.2 * seconds
        while (now := time.perf_counter()) < end:
            for key, _ in selector.select(1.0):
                connection = key.data
                if connection.receive():
                    now = time.perf_counter()
                    if now > counted:
                        took.append(now - connection.started)
                    connection.ask()
        for key in list(selector.get_map().values()):
            key.data.socket.close()
    return len(took) / (now - counted), took


def loaded(port: int, clients: int, seconds: float) -> tuple[float, list[float]]:
    """`load`, in a process of its own."""
    words = [sys.executable, __file__, "--load", str(port), "--clients", str(clients), "--seconds", str(seconds)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    rate, took = json.loads(done.stdout)
    return rate, took


def bare(searching: Searching, seconds: float) -> float:
    """Photos per second in batches without HTTP, decoded by as many threads as there are CPUs."""
    images = photos()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done, start = 0, time.perf_counter()
        while time.perf_counter() < start + seconds:
            batch = [images[(done + i) % PHOTOS] for i in range(BATCH)]
            searching.answers(list(pool.map(searching.prepared, batch)))
            done += BATCH
    return done / (time.perf_counter() - start)


# ── the whole ───────────────────────────────────────────────────────────────────────────────────────────────────────


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(port: int, process: Any) -> None:
    for _ in range(1200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"GET /ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            if connection.recv(100).startswith(b"HTTP/1.1 200"):
                return
        if process.poll() is not None:
            raise RuntimeError(f"a server ended with {process.returncode}")
        time.sleep(0.1)
    raise RuntimeError("a server did not become ready")


def first_answer(folder: Path) -> tuple[float, float]:
    """Seconds from the start of ``moonlib serve`` to its first answer, and its resident memory in MB."""
    center = folder / "real"
    if not (shipped := real_center(center)):
        return float("nan"), float("nan")
    port = free_port()
    start = time.perf_counter()
    words = [sys.executable, "-m", "moonlib", "serve", str(shipped), "--port", str(port), "--timeout-ms", "30000"]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    sent = request(photos()[0])
    try:
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                    connection.sendall(sent)
                    answer = connection.recv(65_536)
                    assert answer.startswith(b"HTTP/1.1 200"), answer[:300]
                    break
            except OSError:
                assert process.poll() is None, "moonlib serve ended"
                time.sleep(0.01)
        seconds = time.perf_counter() - start
        status = Path(f"/proc/{process.pid}/status").read_text()
        return seconds, int(status.partition("VmRSS:")[2].split()[0]) / 1024
    finally:
        process.terminate()
        process.wait()


def real_center(place: Path) -> Path | None:
    """A center whose encoder was trained, for three steps: what ``moonlib serve`` opens has to be an export."""
    from moonlib.inference.center import Center
    from moonlib.runs.iteration import fit

    overrides = ["--data.init_args.size=tiny", "--stages.pretrain.trainer.max_steps=3", "--stages.application=null"]
    overrides += ["--stages.pretrain.data.workers=0", "--stages.represent.data.workers=0"]
    run = fit("iter1", overrides, runs=place.parent / "runs")
    center = Center.create(place, run)
    center.upsert(next((place.parent / "runs").glob(".data/*/dataset.json")).parent)
    center.publish()
    return place


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-start", action="store_true", help="leave out the time of the first answer")
    parser.add_argument("--load", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if find_spec("litserve") is None:
        raise SystemExit("LitServe is a peer: pip install 'moonlib-embedding[bench]'")
    if arguments.load:
        print(json.dumps(load(arguments.load, arguments.clients, arguments.seconds)))
        return
    if arguments.serve:
        peer, center, port = arguments.serve
        run(peer, Path(center), int(port))
        return
    as_it_was = dict(os.environ)
    prepare_process()  # the bare batches have the threads and the memory that the server gives itself
    folder = Path(tempfile.mkdtemp(prefix="moonlib-serving-"))
    processes: list[subprocess.Popen[bytes]] = []
    try:
        center = folder / "center"
        make_center(center, arguments.products)
        ports = {}
        for peer in PEERS:
            ports[peer] = free_port()
            words = [sys.executable, __file__, "--serve", peer, str(center), str(ports[peer])]
            processes.append(subprocess.Popen(words, stdout=subprocess.DEVNULL, start_new_session=True, env=as_it_was))
            wait_for(ports[peer], processes[-1])
        rates: dict[str, list[float]] = {peer: [] for peer in (*PEERS, "bare")}
        took: dict[str, list[float]] = {peer: [] for peer in PEERS}
        searching = Searching(center)
        for process in processes:
            os.killpg(process.pid, signal.SIGSTOP)
        for _ in range(arguments.rounds):
            for peer, process in zip(PEERS, processes, strict=True):
                os.killpg(process.pid, signal.SIGCONT)
                rate, times = loaded(ports[peer], arguments.clients, arguments.seconds)
                os.killpg(process.pid, signal.SIGSTOP)
                rates[peer].append(rate)
                took[peer] += times
            rates["bare"].append(bare(searching, arguments.seconds))
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
                os.killpg(process.pid, signal.SIGCONT)
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    median = {name: statistics.median(values) for name, values in rates.items()}
    bound = 1 / (1 / median["no-op"] + 1 / median["bare"])
    table = Table("server", "requests/s", "p50 ms", "p99 ms", "p99 / p50")
    for peer in PEERS:
        half, most = (float(value) * 1000 for value in np.quantile(took[peer], [0.5, 0.99]))
        table.add_row(peer, f"{median[peer]:,.0f}", f"{half:.1f}", f"{most:.1f}", f"{most / half:.2f}")
    table.add_row("bare batches", f"{median['bare']:,.0f}", "", "", "")
    table.add_row("bound", f"{bound:,.0f}", "", "", "")
    Console().print(table)
    print(f"moonlib over the bound: {median['moonlib'] / bound:.2f} (goal .8)")
    print(f"moonlib over FastAPI without a batcher: {median['moonlib'] / median['fastapi']:.2f}")
    if not arguments.no_start:
        starts = first_answer(folder)
        print(f"moonlib serve: first answer after {starts[0]:.1f} s (goal 4), {starts[1]:,.0f} MB resident")
    print(f"ratio: {median['moonlib'] / median['litserve']:.2f}")
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
