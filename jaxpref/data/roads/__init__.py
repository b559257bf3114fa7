"""Road networks from files, and the routes that people take on them."""
