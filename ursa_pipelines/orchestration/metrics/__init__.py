"""What `ursa metrics` tells a Prometheus of the Dagster instance, the store and the sources."""
