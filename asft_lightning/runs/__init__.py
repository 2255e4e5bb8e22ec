"""What a fit leaves behind: the files of a run's folder, written and read here alone."""
