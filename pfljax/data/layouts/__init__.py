"""How files hold examples: each module reads one layout and knows nothing of any data set."""
