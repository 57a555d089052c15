"""Files written whole or not at all; locks, names, room, retries."""
