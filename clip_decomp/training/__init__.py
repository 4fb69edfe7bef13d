"""Contrastive training: tiny CLIPs from scratch, and poisoned or clean fine-tuning of any model."""
