"""Open a page on this machine to try a model on images.

The page needs no network, and asks nothing of any other machine. Uploads stay
in memory.

Examples:
  sgformer serve sgformer_t --open
  sgformer serve runs/detection_digit_scenes --port 8080
  sgformer serve best.safetensors --host 0.0.0.0    # for whoever reaches this
                                                    # machine; :: for IPv6, too
"""

import contextlib
import socket
import webbrowser
from pathlib import Path

MAX_CONNECTIONS = 32
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    weights: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 7300,
    device: str = "auto",
    kernels: bool = False,
    open: bool = False,
) -> int:
    """Serve a page on which one tries a model on images, until it is interrupted.

    Args:
        weights: A run folder (its best weights) or a weights file, of any task.
        host: Address to listen at; unless it is that of the machine itself, others reach the page.
        port: Port to listen at; 0 takes any that is free.
        device: Where to compute; ``auto`` takes a GPU where there is one.
        kernels: Whether to compute by kernels in C++, which are compiled first: faster, on a CPU with AVX-512 and where
            there is a C++ compiler.
        open: Whether to open the page in the browser.

    Returns:
        0.

    Raises:
        ValueError: The weights cannot be used, or the port is taken.
    """
    import uvicorn
    from PIL import Image

    from .. import tasks
    from . import console
    from .tryout import Tryout
    from .web import create_app

    listening = _listen(host, port)
    where = console.device(device)
    with listening, console.kernels(kernels, where):
        model = tasks.load(weights, device=where)
        if (num_bands := len(model.preprocessing.mean)) != 3:
            raise ValueError(
                f"{weights} takes images of {num_bands} bands, which no browser shows; use sgformer predict"
            )
        model.predict(Image.new("RGB", (224, 224)))  # the first is slow; no visitor shall wait for it
        tryout = Tryout(model)
        app = create_app(tryout, hosts=[_in_url(name) for name in LOOPBACK] if host in LOOPBACK else ["*"])
        config = uvicorn.Config(app, log_level="warning", limit_concurrency=MAX_CONNECTIONS, lifespan="off")
        shown = "localhost" if host in ("0.0.0.0", "::") else _in_url(host)
        url = f"http://{shown}:{listening.getsockname()[1]}/"
        print(f"{model.name} is at {url} (Ctrl-C stops it)", flush=True)
        if open:
            webbrowser.open(url)
        with contextlib.suppress(KeyboardInterrupt):  # the usual end
            uvicorn.Server(config).run(sockets=[listening])
    return 0


def _in_url(host: str) -> str:
    """A host as URLs and browsers write it: IPv6 addresses in brackets.

    Example:
        >>> _in_url("::1"), _in_url("localhost")
        ('[::1]', 'localhost')
    """
    return f"[{host}]" if ":" in host else host


def _listen(host: str, port: int) -> socket.socket:
    try:
        if ":" not in host:
            return socket.create_server((host, port))
        both = host == "::" and socket.has_dualstack_ipv6()  # every address, of either kind
        return socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=both)
    except OverflowError as error:
        raise ValueError(f"--port {port} is outside 0 to 65535") from error
    except OSError as error:
        raise ValueError(
            f"cannot listen at {host}, port {port} ({error.strerror}); choose another --port (0: any that is free), "
            "and as --host an address of this machine"
        ) from error
