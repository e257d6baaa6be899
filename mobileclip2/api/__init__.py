"""The Python interface: use a trained model, and run a pipeline from a program."""
