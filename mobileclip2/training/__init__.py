"""The trainer of captioners, locked-image teachers and students."""
