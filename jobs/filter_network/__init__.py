"""Filter networks: how to train one, choose its precision and evaluate it."""
