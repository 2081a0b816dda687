"""The local Cloud Storage: the JSON API, with buckets and objects stored in one folder."""
