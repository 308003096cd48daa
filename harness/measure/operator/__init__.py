"""The long convolution by itself: every backend and attention, alternately, over lengths."""
