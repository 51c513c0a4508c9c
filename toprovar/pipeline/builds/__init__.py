"""What a backend's deployment is made of, one file a backend."""
