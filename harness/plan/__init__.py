"""Before anything is measured: what a study would run, how long it takes, what it can rule on, what the machine has."""
