"""``asft-lightning init plugin``: a folder to begin from."""

PARTS = ("plugin",)
EXAMPLES = ("init plugin my-judges", "init plugin my-judges --folder ~/work")
