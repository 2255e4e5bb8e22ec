"""``asft-lightning anchors build|show|diff``: anchors as files, apart from any run."""

PARTS = ("build", "show", "diff")
EXAMPLES = (
    "anchors build --config models/qwen-2-7b-instruct --output anchors.safetensors",
    "anchors show anchors.safetensors --png spectra.png",
)
