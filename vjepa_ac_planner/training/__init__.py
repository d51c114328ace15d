"""Training: play data to a frozen encoder and an action-conditioned predictor, in resumable stages."""
