"""gRPC channels, servers, interceptors, retries."""
