"""ADViT: a vision transformer with association discrepancy for image anomaly detection."""
