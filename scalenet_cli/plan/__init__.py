"""Plans: what to build, decided without tensors. No torch in here."""
