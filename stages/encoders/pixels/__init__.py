"""Image files to pixels: opened with care, decoded and resized for a model, or stored again smaller."""
