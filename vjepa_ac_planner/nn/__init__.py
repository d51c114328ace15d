"""Networks: the encoder, the action-conditioned predictor, and how their weights are stored."""
