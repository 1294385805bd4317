"""Images, labels and data sets: find, decode, preprocess."""
