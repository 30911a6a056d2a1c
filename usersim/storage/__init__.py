"""Files: records as JSON Lines, TOML configs, locks and run directories."""
