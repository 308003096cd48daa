"""The conformance suite: what every model promises, checked."""
