"""Find, decode and preprocess images; read labels and data sets."""
