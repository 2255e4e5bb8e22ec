"""``asft-lightning env``: versions, devices and folders, for a report of a fault."""

import os
import platform

import torch

from asft_lightning.runs.facts import PACKAGES, versions_of
from asft_lightning.runtime.files import cache_folder
from asft_lightning.runtime.tables import as_text
from asft_lightning.runtime.terminal import say
from asft_lightning.runtime.threads import how_they_wait

EXAMPLES = ("env", "env > machine.txt")
_OPTIONAL = ("bitsandbytes", "matplotlib", "openai", "trl", "vllm")


def env() -> None:
    """Say which versions, devices and folders a run here would have; nothing is sent anywhere."""
    packages = {name: found for name, found in versions_of((*PACKAGES, *_OPTIONAL)).items() if found is not None}
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    instructions = torch.backends.cpu.get_cpu_capability()
    facts = {
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        **packages,
        "GPUs": ", ".join(devices) or "none",
        "CPU": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads ({how_they_wait()}), {instructions}",
        "cache": str(cache_folder()),
    }
    say(as_text(["", ""], [[name, value] for name, value in facts.items()], texts=2).strip())


COMMAND = env
