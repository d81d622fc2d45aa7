"""Bytes in object storage: keys, store, hashing, upload, verification, download."""
