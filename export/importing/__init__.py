"""Import weights of other programs: read, recognise, prove against the file itself, convert to our weights file."""
