"""Pages for people to look at: self-contained HTML."""
