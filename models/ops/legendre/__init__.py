"""The Legendre convolution in linear time."""
