"""What a run says of the packages it was made with."""

import torch

from asft_lightning.runs.facts import versions_of


def test_a_package_that_was_never_installed_has_no_version():
    """As this one has none where it is run from its source."""
    versions = versions_of(["torch", "asft-lightning-that-was-never-installed"])
    assert versions["asft-lightning-that-was-never-installed"] is None
    release, _, _ = torch.__version__.partition("+")  # the name of a build is not in all metadata
    assert versions["torch"].partition("+")[0] == release
