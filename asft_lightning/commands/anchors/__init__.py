"""``asft-lightning anchors build|show|diff``: anchors as files, apart from any run."""

PARTS = ("build", "show", "diff")
EXAMPLES = (
    "anchors build --config models/sandbox --output anchors.safetensors",
    "anchors show anchors.safetensors --png spectra.png",
    "anchors diff anchors.safetensors runs/quickstart/adapter",
)
