"""The pipeline's assets, one module a stage: each calls the library and says what came out."""
