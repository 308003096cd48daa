"""Published files: where they are (`registry.yaml`), how they are fetched, and how they are taken out of archives."""
