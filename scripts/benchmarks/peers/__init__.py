"""Programs of the peers. They run in the peers' environment and see of this project only scripts.benchmarks.rounds."""
