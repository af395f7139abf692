"""What `sgformer benchmark` rests on: how a step is measured, and the parity that comes before any figure."""
