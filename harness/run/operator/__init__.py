"""The convolution operator by itself: one more cell of a study, in a process of its own."""
