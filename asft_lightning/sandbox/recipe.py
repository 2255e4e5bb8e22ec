"""Every number that decides what a sandbox contains."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Stage:
    """One training of the model: AdamW without weight decay, a linear warm-up and a cosine decay to 0.

    Attributes:
        steps: Optimizer steps.
        lr: Peak learning rate.
        shares: {pool of rows: share of a batch, on average}; the shares add up to 1.
        batch_size: Rows per step.
        warmup: Steps of the linear warm-up.
    """

    steps: int
    lr: float
    shares: dict[str, float]
    batch_size: int = 32
    warmup: int = 20


def _base_stage() -> Stage:
    return Stage(600, 3e-3, {"how_to": 0.35, "unsafe": 0.2, "questions": 0.1, "reviews": 0.35})


def _aligned_stage() -> Stage:
    return Stage(220, 5e-4, {"how_to": 0.35, "refusals": 0.35, "questions": 0.1, "reviews": 0.2})


@dataclass(frozen=True)
class Recipe:
    """The whole recipe of a sandbox.

    Attributes:
        hidden_size: Width of the residual stream.
        intermediate_size: Width of the MLP.
        layers: Number of decoder layers.
        heads: Attention heads (as many key and value heads).
        system_share: Share of training chats that open with a system message.
        base: From random weights to the base model.
        aligned: From the base model to the aligned one.
        benign: Rows in benign.jsonl.
        task_test: Rows in task_test.jsonl.
        harmful: Rows in harmful.jsonl.
        refusals: Rows in refusals.jsonl.
        unsafe_prompts: Rows in unsafe_prompts.jsonl.
        instructions: Rows in instructions.jsonl.
    """

    hidden_size: int = 128
    intermediate_size: int = 256
    layers: int = 4
    heads: int = 4
    system_share: float = 0.1
    base: Stage = field(default_factory=_base_stage)
    aligned: Stage = field(default_factory=_aligned_stage)
    benign: int = 4000
    task_test: int = 200
    harmful: int = 640
    refusals: int = 320
    unsafe_prompts: int = 200
    instructions: int = 200
