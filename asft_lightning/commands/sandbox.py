"""``asft-lightning sandbox``: the embedded pair, made anew."""

from asft_lightning.commands.ways_on import line
from asft_lightning.runtime.files import require_absent, user_path
from asft_lightning.runtime.terminal import say
from asft_lightning.sandbox import build_sandbox, is_shipped

EXAMPLES = ("sandbox build my-pair", "sandbox build my-pair --seed 1")


def build(output: str, seed: int = 0) -> None:
    """Train an aligned/base pair as the one that is shipped, and write it with its rows (a minute on one core).

    Its weights depend on the seed and on how this machine's kernels round: the shipped pair comes out again on a machine of
    the same kind alone. Take it with --pretrained.aligned OUTPUT/aligned --pretrained.base OUTPUT/base.

    Args:
        output: The folder to write, which must not be there yet.
        seed: Decides the rows and the weights; the shipped pair's is 0.
    """
    folder = user_path(output)
    require_absent(folder)
    build_sandbox(folder, seed)
    same = "the shipped pair, to the bit" if is_shipped(folder) else "another pair than the shipped one"
    pair = ("--pretrained.aligned", folder / "aligned", "--pretrained.base", folder / "base")
    say(f"written to {folder}: {same}", f"to train on it: {line('fit', '--config', 'quickstart', *pair)}")


COMMAND = {"build": build}
