"""The service under parallel load, with clients that die, dawdle, or send nonsense.

    python benchmarks/service.py               20 clients at once, then 60; a few minutes
    python benchmarks/service.py --clients 100 --model nouns

Starts `python -m course_lib.web` on a free port. Every honest client asks for one picture, 10 steps
with guidance, all at the same moment, and looks five times a second. It must get its own picture or
a refusal in one sentence within the stated time, the sum of the service's limits of waiting and
drawing. Beside them, in the second half of the rounds, are as many hostile clients. Afterwards the
service must be healthy, no client may have seen another's prompt, and the log none at all. Any
other end is an error.
"""
import argparse
import base64
import contextlib
import io
import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

from PIL import Image

BYTES_OF_TRASH = 20_000_000
NONSENSE = [
    b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b'{"steps": NaN}', b'{"steps": 1e999}',
    b'{"steps": 999999999999999999999}', b'{"seed": -1}', b'{"guidance": "high"}',
    b'{"prompt": ["a"]}', b'{"prompt": "\\u0000"}', b'{"prompt": "' + b"a" * 10_000 + b'"}',
    b'{"sampler": "../../etc/passwd"}', b'{"picture": "/etc/passwd"}', b'{"file": "/etc/passwd"}',
    b'{"picture": "data:image/png;base64,AAAA"}', b"[" * 50_000, b'{"a": ' * 5000,
]                                                                                    # fmt: skip
PATHS = ["/../../etc/passwd", "/gradio_api/file=/etc/passwd", "/api/pictures/../../x", "/api/%00"]


class Server:
    """The command in a process of its own."""

    def __init__(self, model: str, folder: Path):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.log = folder / "log.txt"
        command = [sys.executable, "-m", "course_lib.web", "--model", model]
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port)],
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
        )

    def wait(self) -> None:
        for _ in range(1500):
            with contextlib.suppress(OSError):
                self.ask("GET", "/health")
                return
            if self.process.poll() is not None:
                sys.exit(self.log.read_text())
            time.sleep(0.2)
        sys.exit("the service did not start within five minutes")

    def ask(self, method: str, path: str, body: bytes | None = None, kind="application/json"):
        """(status, JSON content) of one HTTP request."""
        asked = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", body, {"Content-Type": kind}, method=method
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(asked, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def megabytes(self) -> float:
        """The memory that the process holds, nan where the system does not say."""
        status = Path(f"/proc/{self.process.pid}/status")
        found = re.search(r"VmRSS:\s+(\d+)", status.read_text()) if status.exists() else None
        return int(found[1]) / 1024 if found else float("nan")


def is_sentence(status: int, content: dict) -> bool:
    """A refusal is one sentence, with a status of 4xx or 503."""
    text = content.get("error", "")
    return (400 <= status < 500 or status == 503) and 10 < len(text) < 500 and "\n" not in text


def honest(server: Server, k: int) -> tuple[str, float]:
    """What became of the request, and after how many seconds."""
    prompt = f"a shark head number{k}"
    body = json.dumps({"prompt": prompt, "seed": k, "steps": 10}).encode()
    start = time.perf_counter()
    status, content = server.ask("POST", "/api/pictures", body)
    path = f"/api/pictures/{content.get('id')}"
    while status in (200, 202) and content.get("state") != "done":
        time.sleep(0.2)
        status, content = server.ask("GET", path)
    seconds = time.perf_counter() - start
    if status != 200:
        return ("refused" if is_sentence(status, content) else f"status {status}"), seconds
    text = Image.open(io.BytesIO(base64.b64decode(content["pictures"][0]))).text
    own = text["prompt"] == prompt and text["seed"] == str(k)
    return ("served" if own else "another's picture"), seconds


# ---- hostile clients: each returns what it got

def killed(server: Server, k: int) -> str:
    """Gone after half a request, or after the whole of it, or after its id."""
    prompt = f"<script>killed{k}</script>"
    body = json.dumps({"prompt": prompt, "steps": 50, "pictures": 4}).encode()
    if k % 3 == 0:
        status, _ = server.ask("POST", "/api/pictures", body)
        return "gone after its id" if status == 202 else "refused"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        head = f"POST /api/pictures HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n")
        connection.sendall(body if k % 3 == 1 else body[:10])
    return "gone in the middle"


def slow(server: Server, k: int) -> str:
    """A byte at a time: of the head, or of the body."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.settimeout(60)
        head = b"POST /api/pictures HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
        connection.sendall(head[:20] if k % 2 else head + b"\r\n")
        try:
            for _ in range(60):
                connection.sendall(b"a")
                time.sleep(0.5)
        except OSError:
            return "cut off"
        return "never cut off"


def nonsense(server: Server, k: int) -> str:
    """A body that is no request, a path that is none, a type that is not JSON, or a flood."""
    if k % 5 == 4:
        status, content = server.ask("GET", PATHS[k % len(PATHS)])
    elif k % 5 == 3:
        try:
            status, content = server.ask("POST", "/api/pictures", bytes(BYTES_OF_TRASH))
        except OSError:
            return "cut off"
    elif k % 5 == 2:
        status, content = server.ask("POST", "/api/pictures", b"a=b", "multipart/form-data")
    else:
        status, content = server.ask("POST", "/api/pictures", random.Random(k).choice(NONSENSE))
    return "refused" if is_sentence(status, content) else f"status {status}: {content}"


HOSTILE = (killed, slow, nonsense)
EXPECTED = {"gone after its id", "gone in the middle", "cut off", "refused"}


def at_once(server: Server, clients: int, hostile: int) -> tuple[list, Counter]:
    """Start all clients together: (end, seconds) of each honest one, and the hostile ones' ends."""
    found, ends, start = [], Counter(), threading.Event()

    def run(client, k):
        start.wait()
        if client is honest:
            found.append(client(server, k))
        else:
            ends[f"{client.__name__}: {client(server, k)}"] += 1
    work = [(honest, k) for k in range(clients)]
    work += [(HOSTILE[k % 3], k // 3) for k in range(hostile)]
    random.Random(0).shuffle(work)
    threads = [threading.Thread(target=run, args=of) for of in work]
    for thread in threads:
        thread.start()
    start.set()
    for thread in threads:
        thread.join()
    if len(found) < clients or sum(ends.values()) < hostile:
        sys.exit("a client has failed: see above")
    return found, ends


def report(found: list, ends: Counter, stated: float) -> None:
    """Print one round; exit where anything is not as it must be."""
    count = Counter(end for end, _ in found)
    print(f"  served {count['served']}, refused {count['refused']} of {len(found)}")
    for end in ("served", "refused"):
        seconds = sorted(of for name, of in found if name == end)
        if seconds:
            p95 = seconds[min(len(seconds) - 1, round(0.95 * len(seconds)))]
            print(f"  {end}: median {statistics.median(seconds):.2f} s, 95th percentile "
                  f"{p95:.2f} s, longest {seconds[-1]:.2f} s")
    for end, times in sorted(ends.items()):
        print(f"  hostile, {end}: {times}")
    wrong = set(count) - {"served", "refused"}
    wrong |= {end for end in ends if end.partition(": ")[2] not in EXPECTED}
    wrong |= {f"{of:.0f} s" for _, of in found if of > stated}
    if wrong:
        sys.exit(f"this must not happen: {', '.join(sorted(wrong))}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--model", default="mini_sd")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(chosen.model, Path(folder))
        try:
            server.wait()
            rounds(server, chosen.clients)
        finally:
            server.process.terminate()
            server.process.wait(30)


def rounds(server: Server, clients: int) -> None:
    limits = server.ask("GET", "/api/limits")[1]["limits"]
    stated = limits["waiting"] + limits["drawing"]
    print(f"{os.cpu_count()} cores; a queue of {limits['queue']}; stated time {stated:g} s")
    honest(server, 0)                                       # the first one pays for set-up
    before = server.megabytes()
    for n, hostile in ((clients, 0), (3 * clients, 0), (clients, clients), (clients, 3 * clients)):
        print(f"{n} clients at once, and {hostile} hostile ones")
        report(*at_once(server, n, hostile), stated)
        time.sleep(limits["patience"] + 1)                  # those that are gone are given up
        status, health = server.ask("GET", "/health")
        print(f"  afterwards {health}, {server.megabytes() - before:+.0f} MB")
        if status != 200 or health["waiting"] or health["drawing"]:
            sys.exit("the service does not come to rest")
    leaked = re.findall(r"shark|number\d|killed\d|passwd", server.log.read_text())
    print(f"words of prompts in the log: {len(leaked)}")
    if leaked:
        sys.exit("the log must not have any")


if __name__ == "__main__":
    main()
