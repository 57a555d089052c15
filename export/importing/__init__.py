"""Other people's weights: read as they are, recognised, proven against themselves, and turned into our weights file."""
