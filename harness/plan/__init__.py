"""Before anything is measured: what a study would run, for how long, what it can rule on, and whether the machine can."""
