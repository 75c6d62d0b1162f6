"""Training and evaluation of image classifiers: data, optimisation, runs that can be resumed."""
