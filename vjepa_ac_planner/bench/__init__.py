"""How fast plans are made, beside what the device could do at best and what the public reference does.

The unit of work is one candidate step: one latent with its action and state through the predictor.
"""
