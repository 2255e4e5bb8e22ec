"""The subcommands of ``asft-lightning``, one file each."""
