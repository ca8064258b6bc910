"""Files of scores that another program computed: their numbers, and what names a sample in them."""
