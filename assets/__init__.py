"""The pipeline's assets, one module a stage: each resolves its inputs, calls the library and says what came out."""
