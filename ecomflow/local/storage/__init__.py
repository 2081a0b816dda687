"""The local Cloud Storage: the JSON API over buckets and objects in one folder."""
