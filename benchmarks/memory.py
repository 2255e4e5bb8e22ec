"""What a run keeps in memory, by model: computed from shapes, and measured on the CPU where a checkpoint is given.

    python benchmarks/memory.py --model PATH-TO-SMOLLM2   # docs/results/memory.json and the tables of docs/scaling.md

Computed: weights on the meta device; factors, their gradients and AdamW's two moments in float32; anchors of DIRECTIONS
directions a matrix in float32. Measured: anonymous memory (what cannot be read again from a file) after loading and
sharding, and the size of a checkpoint's file with real factors of each model.
"""

import argparse
import ctypes
import gc
import io
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, PretrainedConfig, Qwen2Config

from asft_lightning import Pretrained
from asft_lightning.modules.lora_config import PAPER_LORA
from asft_lightning.runtime.files import write_json
from asft_lightning.runtime.sharding import shard

DIRECTIONS = 64
RANKS = 8
BATCH, TOKENS = 8, 512
NF4_BYTES = 0.5 + (1 / 64) * (1 + 4 / 256)  # 4 bits, and a scale of 8 bits for 64 weights, itself scaled by 256


def llama(hidden: int, inner: int, layers: int, heads: int, kv: int, vocab: int, tied: bool = False) -> PretrainedConfig:
    """A Llama of these sizes."""
    return LlamaConfig(
        hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv, vocab_size=vocab, tie_word_embeddings=tied,
    )  # fmt: skip


MODELS: dict[str, Callable[[], PretrainedConfig]] = {
    "SmolLM2-135M": lambda: llama(576, 1536, 30, 9, 3, 49152, tied=True),
    "Llama-3.2-1B": lambda: llama(2048, 8192, 16, 32, 8, 128256, tied=True),
    "Qwen-2-7B": lambda: Qwen2Config(
        hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4,
        vocab_size=152064, tie_word_embeddings=False,
    ),
    "Llama-2-7B": lambda: llama(4096, 11008, 32, 32, 32, 32000),
    "Llama-3-8B": lambda: llama(4096, 14336, 32, 32, 8, 128256),
    "Gemma-2-9B": lambda: Gemma2Config(
        hidden_size=3584, intermediate_size=14336, num_hidden_layers=42, num_attention_heads=16, num_key_value_heads=8,
        head_dim=256, vocab_size=256000,
    ),
    "Llama-2-13B": lambda: llama(5120, 13824, 40, 40, 40, 32000),
    "Llama-3-70B": lambda: llama(8192, 28672, 80, 64, 8, 128256),
}  # fmt: skip


def with_lora(config: PretrainedConfig) -> PeftModel:
    """The model on the meta device with the paper's factors."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **PAPER_LORA))


def computed(config: PretrainedConfig) -> dict[str, float]:
    """Bytes of each part of a run, and of a checkpoint's file, which is written."""
    model = with_lora(config)
    factors = {name: p for name, p in model.named_parameters() if p.requires_grad}
    frozen = {id(p): p for p in model.parameters() if not p.requires_grad}
    linear = {id(m.weight): m.weight for n, m in model.named_modules() if isinstance(m, nn.Linear) and "lm_head" not in n}
    packed = sum(p.numel() for key, p in frozen.items() if key in linear)
    frozen_count = sum(p.numel() for p in frozen.values())
    numbers = sum(p.numel() for p in factors.values())
    outputs = sum(p.shape[0] for name, p in factors.items() if "lora_B" in name)
    block = max(sum(p.numel() for p in m.parameters()) for n, m in model.named_modules() if n.endswith("layers.0"))
    ends = model.get_input_embeddings().weight.numel()  # of the root, gathered with the first block
    text = config.get_text_config()
    return {
        "parameters": frozen_count,
        "weights_bf16": 2 * frozen_count,
        "weights_4bit": 2 * (frozen_count - packed) + NF4_BYTES * packed,
        "training_state": 4 * 4 * numbers,
        "anchors": 4 * outputs * DIRECTIONS,
        "activations": 2 * BATCH * TOKENS * text.hidden_size * (text.num_hidden_layers + 1),
        "fsdp2_rank": (2 * frozen_count + 16 * numbers + 4 * outputs * DIRECTIONS) / RANKS + 2 * (2 * block + ends),
        "checkpoint": checkpoint_bytes(list(factors.values())),
    }


def checkpoint_bytes(factors: list[nn.Parameter]) -> int:
    """The size of a file with these factors in float32 and what AdamW remembers of each."""
    parameters = [nn.Parameter(torch.zeros(factor.shape)) for factor in factors]
    optimizer = torch.optim.AdamW(parameters)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    buffer = io.BytesIO()
    torch.save({"state_dict": parameters, "optimizer_states": [optimizer.state_dict()]}, buffer)
    return buffer.tell()


def anonymous() -> int:
    """Bytes of this process that no file backs, without what was freed."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))


def loaded(rank: int, folder: str, path: str, settings: dict[str, object], ranks: int) -> None:
    """In a process of its own: what loading the model adds, and sharding it."""
    torch.set_num_threads(1)
    Pretrained(path).load_tokenizer()
    before = anonymous()
    model = Pretrained(path, **settings).load_model()
    added_bytes = {"loaded": anonymous() - before}
    if ranks > 1:
        torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks)
        adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **PAPER_LORA))
        shard(adapted, init_device_mesh("cpu", (ranks,)))
        added_bytes["sharded"] = anonymous() - before
        torch.distributed.destroy_process_group()
    Path(folder, f"{rank}.json").write_text(json.dumps(added_bytes))


def measured(path: str) -> dict[str, dict[str, int]]:
    """Anonymous bytes after loading a checkpoint as it is, cast, packed, and sharded over two ranks."""
    cases: dict[str, tuple[dict[str, object], int]] = {
        "dtype auto": ({}, 1),
        "bfloat16": ({"dtype": "bfloat16"}, 1),
        "bfloat16, load_in_4bit": ({"dtype": "bfloat16", "load_in_4bit": True}, 1),
        "dtype auto, FSDP2 on 2 ranks": ({}, 2),
    }
    bytes_by_case = {}
    for name, (settings, ranks) in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            multiprocessing.spawn(loaded, (folder, path, settings, ranks), nprocs=ranks)
            bytes_by_case[name] = json.loads(Path(folder, "0.json").read_text())
    return bytes_by_case


def main() -> None:
    """Compute, measure, write, and print as tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="folder of SmolLM2-135M")
    arguments = parser.parse_args()
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    results = {"computed": {name: computed(config()) for name, config in MODELS.items()}}
    if arguments.model:
        results["measured"] = measured(arguments.model)
    write_json(Path("docs/results/memory.json"), results)
    for name, row in results["computed"].items():
        cells = [f"{row[key] / 2**30:.2f}" for key in row if key not in ("parameters", "checkpoint")]
        print("|", name, "|", " | ".join(cells), "|", f"{row['checkpoint'] / 2**20:.0f}", "|")
    for name, row in results.get("measured", {}).items():
        print("|", name, "|", " | ".join(f"{value / 2**20:.0f}" for value in row.values()), "|")


if __name__ == "__main__":
    main()
