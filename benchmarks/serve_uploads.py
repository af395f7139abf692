"""Does `sgformer serve` survive 200 uploads, 20 of them broken, without growing?

    python benchmarks/serve_uploads.py photos/ --weights sgformer_t

starts the server, uploads the images of a folder in turn with several token budgets, draws a map of each, sends
something broken every tenth time, and writes the memory of the server's process to benchmarks/results/.
"""

import argparse
import json
import platform
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import torch

from sgformer.tasks.folders import find_images

RESULTS = Path(__file__).with_name("results")
BUDGETS = ("", "?token_budget=16", "?token_budget=98")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="a folder of images")
    parser.add_argument("--weights", default="sgformer_t")
    parser.add_argument("--uploads", type=int, default=200)
    arguments = parser.parse_args()
    files = [path.read_bytes() for path in find_images(arguments.images)]
    broken = [b"", b"no image", files[0][: len(files[0]) // 2], files[1][:200]]
    command = [sys.executable, "-m", "sgformer", "serve", arguments.weights, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = re.search(r"http://\S+/", server.stdout.readline())[0]
        memory, seconds, statuses = [(0, megabytes(server.pid))], [], []
        for i in range(arguments.uploads):
            is_broken = i % 10 == 9
            body = broken[i // 10 % len(broken)] if is_broken else files[i % len(files)]
            start = time.perf_counter()
            status, said = ask(f"{url}images{BUDGETS[i % len(BUDGETS)]}", body)
            statuses.append(status)
            assert status == (400 if is_broken else 200), said
            if not is_broken:
                seconds.append(time.perf_counter() - start)
                view = ("significance", "spending", "keys")[i % 3]
                assert ask(f"{url}images/{json.loads(said)['id']}/{view}/{i % 3}")[0] == 200
            if (i + 1) % 20 == 0:
                memory.append((i + 1, megabytes(server.pid)))
        assert server.poll() is None
        server.terminate()
    result = {
        "weights": arguments.weights,
        "images": len(files),
        "uploads": arguments.uploads,
        "refused": statuses.count(400),
        "median_seconds_from_upload_to_answer": round(sorted(seconds)[len(seconds) // 2], 3),
        "resident_megabytes_after_uploads": {str(n): round(mb) for n, mb in memory},
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }
    path = RESULTS / "serve_uploads.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(path.read_text(encoding="utf-8"))


def ask(url: str, body: bytes | None = None) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=60) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def megabytes(process: int) -> float:
    """Resident memory; Linux only."""
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


if __name__ == "__main__":
    main()
