"""A cut, a pool format and an encoder for winnow, from outside of it."""
