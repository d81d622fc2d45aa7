"""What a recording is, told without any network: ids, directory, inventory, settling, manifest, rows."""
