"""The demo's data: emoji of seven artists as image-text shards, and the script that builds them."""
