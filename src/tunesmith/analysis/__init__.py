"""What can be measured in a sound without a model: loudness, rhythm, key, faults, fingerprints."""
