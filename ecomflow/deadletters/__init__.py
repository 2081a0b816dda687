"""The dead letters in the bucket: read, grouped by cause, fixed and published again."""
