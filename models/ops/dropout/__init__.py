"""Inverted dropout and the residual sum around it."""
