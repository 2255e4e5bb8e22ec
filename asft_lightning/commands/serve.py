"""``asft-lightning serve``: a run's model behind the server of Transformers or vLLM, which speak as OpenAI's does."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import torch

from asft_lightning.chat.template import Template
from asft_lightning.commands.export import write_export
from asft_lightning.commands.finished_run import FinishedRun
from asft_lightning.errors import ConfigurationError
from asft_lightning.runs.folder import RunFolder
from asft_lightning.runs.owning import owned
from asft_lightning.runtime.extras import is_installed
from asft_lightning.runtime.terminal import say
from asft_lightning.weights.models import load_configuration

EXAMPLES = ("serve runs/protect", "serve runs/protect --server vllm --port 9000")

Server = Literal["auto", "transformers", "vllm"]
_PAUSE = 0.5
"""Seconds between two looks whether the server answers."""


def serve(
    run: str, server: Server = "auto", host: str = "localhost", port: int = 8000, trust_remote_code: bool = False
) -> None:
    """Serve a run's model, with the adapter merged in, until Ctrl-C; the address and a line to try it are printed.

    The server is that of Transformers (pip install "asft-lightning[serve]") or vLLM (pip install vllm). The merged model is
    kept in the run's folder for the next time.

    Args:
        run: The folder of a finished run of protect or fit, e.g. runs/protect.
        server: ``auto`` for vLLM where it and a GPU are there, else Transformers'.
        host: Where to listen; ``0.0.0.0`` for other machines too, which nobody has to log in for.
        port: Where to listen.
        trust_remote_code: Run Python code that comes with the checkpoint.
    """
    name, program = _installed(server)
    finished = FinishedRun.read(run, "serve", trust_remote_code, needs_adapter=False)
    if finished.template.style != "chat":
        raise ConfigurationError(
            f"serve needs rows that were written by the tokenizer's chat template, for servers know no other, and this "
            f"run's are in template.style {finished.template.style}. Use asft-lightning chat or generate."
        )
    model = _whole_model(finished.folder, run, trust_remote_code)
    load_configuration(str(model), trust_remote_code=trust_remote_code)  # a server takes all that it names
    arguments = ["serve", *_only(name, model), "--host", host, "--port", str(port)]
    if trust_remote_code:
        arguments.append("--trust-remote-code")
    say(shlex.join([program, *arguments]))
    status = _run([program, *arguments], host, port, model, finished.template)
    if status:
        raise ConfigurationError(
            f"{name} serve ended with status {status}, and says why above. Mend that, or take another --server."
        )


COMMAND = serve


def _installed(server: Server) -> tuple[str, str]:
    """A server's name and its program.

    Raises:
        ConfigurationError: If it is not installed; or neither is.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    programs = {name: program for name in get_args(Server) if (program := shutil.which(name, path=path))}
    if not (is_installed("fastapi") and is_installed("uvicorn")):
        programs.pop("transformers", None)
    preferred = ("vllm", "transformers") if torch.cuda.is_available() else ("transformers", "vllm")
    for name in preferred if server == "auto" else (server,):
        if name in programs:
            return name, programs[name]
    missing = "a server, that of Transformers or vLLM," if server == "auto" else f"the server of {server}"
    remedy = "vllm" if server == "vllm" else '"asft-lightning[serve]"'
    raise ConfigurationError(f"serve needs {missing} and it is not installed. Run: pip install {remedy}")


def _whole_model(folder: RunFolder, run: str, trust_remote_code: bool) -> Path:
    """The model in one folder: what was trained whole, or the merged one, made where it is absent or out of date."""
    if (folder.model / "config.json").is_file():
        return folder.model
    adapter, merged = folder.adapter / "adapter_model.safetensors", folder.merged / "config.json"
    if merged.is_file() and merged.stat().st_mtime_ns >= adapter.stat().st_mtime_ns:
        return folder.merged
    with owned(folder):  # no run is at work there, nor another server's merge
        shutil.rmtree(folder.merged, ignore_errors=True)
        write_export(FinishedRun.read(run, "serve", trust_remote_code), folder.merged, merged=True)
    return folder.merged


def _only(name: str, model: Path) -> list[str]:
    """Arguments that have the server load this model at once, and no other; Transformers' first took it as an option."""
    if name == "transformers":
        try:
            from transformers.cli.serve import Serve
        except ImportError:  # the server itself says what it lacks
            return [str(model)]
        (declared,) = get_type_hints(Serve.__init__, include_extras=True)["force_model"].__metadata__
        if type(declared).__name__ != "ArgumentInfo":
            return ["--force-model", str(model)]
    return [str(model)]


def _run(command: Sequence[str], host: str, port: int, model: Path, template: Template) -> int:
    """Run the server as a child that does not outlive this process; its status, 0 where it was ended by Ctrl-C."""
    asked_to_end = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    process = subprocess.Popen(command)
    address = f"http://{'localhost' if host == '0.0.0.0' else host}:{port}"
    try:
        if _answers(process, address):
            say(f"serving {model} at {address}/v1; to end it press Ctrl-C; to try it:", _example(address, model, template))
        return process.wait()
    except KeyboardInterrupt:  # the usual way out
        return 0
    finally:
        process.terminate()
        process.wait()
        signal.signal(signal.SIGTERM, asked_to_end)


def _answers(process: "subprocess.Popen[bytes]", address: str) -> bool:
    """Wait until the server answers; False where it ends before."""
    while process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            time.sleep(_PAUSE)
    return False


def _example(address: str, model: Path, template: Template) -> str:
    """A request as the model was measured: with the system prompts of its template."""
    messages = [{"role": turn.role, "content": turn.content} for turn in template.asked("Hello!")]
    body: dict[str, Any] = {"model": str(model), "messages": messages}
    if template.enable_thinking is not None:
        body["chat_template_kwargs"] = {"enable_thinking": template.enable_thinking}
    text = shlex.quote(json.dumps(body, ensure_ascii=False))
    return f"curl {address}/v1/chat/completions -H 'Content-Type: application/json' -d {text}"
