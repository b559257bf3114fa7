"""What a cloud machine is told of itself: its neighbours, and that it will be taken away."""

import importlib.util
import os
import pathlib
import threading
import urllib.request
from collections.abc import Callable

__all__ = ["metadata", "notice", "on_tpu_vm", "watched"]

_EVERY = 5.0  # seconds between two looks


def on_tpu_vm() -> bool:
    """Whether this machine is a TPU VM, whose metadata can be asked."""
    there = any(pathlib.Path(path).exists() for path in ("/dev/accel0", "/dev/vfio/0"))
    return there and importlib.util.find_spec("libtpu") is not None and "TPU_SKIP_MDS_QUERY" not in os.environ


def metadata(name: str, timeout: float = 2) -> str | None:
    """What the metadata server of Google's machines says of this one; None where there is none.

    GCE_METADATA_HOST names another server. The paths are those of
    https://cloud.google.com/compute/docs/metadata/predefined-metadata-keys.
    """
    given = os.environ.get("GCE_METADATA_HOST") or os.environ.get("GCE_METADATA_IP")
    host = given or "metadata.google.internal"
    url = f"http://{host}/computeMetadata/v1/instance/{name}"
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout) as answer:
            return answer.read().decode().strip()
    except OSError:
        return None


def notice() -> str | None:
    """What announces that the machine will be taken away; None where nothing does."""
    if metadata("preempted") == "TRUE":
        return "this machine is being preempted"
    event = metadata("maintenance-event")
    return f"maintenance of this machine: {event}" if (event or "").startswith("TERMINATE") else None


def watched(ask: Callable[[], None], say: Callable[[str], None]) -> Callable[[], None]:
    """Looks for a notice from time to time, in a thread, and calls `ask` once there is one; a SIGTERM may
    come later, or with less time to save than the notice gives. Does nothing but on a TPU VM.

    Returns:
      what ends that.
    """
    done = threading.Event()

    def look() -> None:
        while not done.wait(_EVERY):
            why = notice()
            if why is not None:
                say(f"{why}: saving")
                return ask()

    if on_tpu_vm():
        threading.Thread(target=look, name="jaxpref-maintenance", daemon=True).start()
    return done.set
