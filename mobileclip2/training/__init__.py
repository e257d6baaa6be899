"""One trainer for every model that is trained here: captioners, locked-image teachers and students."""
