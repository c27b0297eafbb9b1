"""Where the bytes of a weight file come from: local files, directories, HTTP and buckets; archives and JSON."""
